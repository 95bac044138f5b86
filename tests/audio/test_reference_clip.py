"""Reference clips: from audio files of any kind to 24 kHz, trimmed, levelled, with a transcript."""

import numpy as np
import pytest

from csm_trio.audio.loudness import loudness_lufs, true_peak
from csm_trio.audio.reference_clip import PreparedClip, UnusableClip, prepare_clip
from support.speech_like import (
    RATE_HZ,
    Sound,
    float_wav,
    noise,
    pcm_of,
    silence,
    speech,
    transcript,
    wav_of,
)

TEXT = transcript(5)
PADDED = np.concatenate([silence(1.0), speech(5.0), silence(1.5)])


def prepared(sound: Sound, text: str = TEXT) -> PreparedClip:
    return prepare_clip(wav_of(sound), text)


def refusal(data: bytes, text: str = TEXT) -> str:
    with pytest.raises(UnusableClip) as refused:
        prepare_clip(data, text)
    message = str(refused.value)
    assert message.endswith(".")
    return message


def test_a_clip_is_trimmed_and_gets_the_target_loudness() -> None:
    clip = prepared(PADDED)
    assert clip.pcm.dtype == np.int16
    assert 5.0 <= clip.duration_s <= 5.4
    assert loudness_lufs(clip.pcm, RATE_HZ) == pytest.approx(-23.0, abs=0.1)
    assert true_peak(clip.pcm) <= 10 ** (-1 / 20) + 1e-3
    assert clip.text == TEXT
    assert not clip.warnings


@pytest.mark.parametrize(
    "sound",
    [PADDED, speech(3.0), np.concatenate([noise(1.0, 1e-3), PADDED, noise(1.0, 1e-3)])],
    ids=["padded", "tight", "noisy edges"],
)
def test_a_prepared_clip_stays_as_it_is(sound: Sound) -> None:
    clip = prepared(sound)
    again = prepare_clip(wav_of(clip.pcm / 32_768), clip.text)
    assert len(again.pcm) == len(clip.pcm)
    assert np.abs(again.pcm.astype(int) - clip.pcm).max() <= 60
    assert loudness_lufs(again.pcm, RATE_HZ) == pytest.approx(-23.0, abs=0.1)
    assert (again.text, again.warnings) == (clip.text, ())


def test_noise_around_the_speech_is_trimmed_as_silence_is() -> None:
    background = noise(7.5, 0.005)
    clip = prepared(PADDED + background)
    assert 5.0 <= clip.duration_s <= 5.6


def test_a_click_before_the_speech_is_trimmed() -> None:
    sound = PADDED.copy()
    sound[4_000:4_004] = 1.0
    assert prepared(sound).duration_s <= 5.4


@pytest.mark.parametrize("scale", [0.003, 1.0], ids=["quiet", "full"])
@pytest.mark.parametrize("offset", [0.0, 0.4])
def test_an_offset_is_removed(scale: float, offset: float) -> None:
    clip = prepared(PADDED * scale + offset)
    assert 5.0 <= clip.duration_s <= 5.6
    assert abs(float(clip.pcm.mean())) < 2


@pytest.mark.parametrize(
    "channels",
    [(1, 1), (1, -1), (1, 0), (0, 1), (0.5, -0.4), (0, 0, 1, 0, 0, 0)],
    ids=str,
)
def test_no_combination_of_channels_becomes_silence(channels: tuple[float, ...]) -> None:
    clip = prepare_clip(float_wav((PADDED[:, None] * channels).astype(np.float32)), TEXT)
    assert 5.0 <= clip.duration_s <= 5.4
    expected = prepared(PADDED)
    error = np.abs(clip.pcm.astype(int) - np.sign(sum(channels) or 1) * expected.pcm)
    assert error.max() < 60


def test_a_float_file_in_the_range_of_integers_is_no_louder() -> None:
    wide = prepare_clip(float_wav((PADDED[:, None] * 32_768).astype(np.float32)), TEXT)
    np.testing.assert_allclose(wide.pcm, prepared(PADDED).pcm, atol=60)
    assert not wide.warnings


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    samples = PADDED[:, None].astype(np.float32)
    samples[50_000] = value
    assert "not numbers" in refusal(float_wav(samples))


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (silence(3.0), "silent: 3.0 s"),
        (silence(3.0) + 0.5, "silent: 3.0 s"),
        (silence(0.0), "no audio"),
        (noise(6.0, 0.1), "6.0 s of sound at one level"),
        (0.3 * np.sin(np.arange(144_000) * 0.1), "6.0 s of sound at one level"),
        (np.concatenate([noise(6.0, 0.1), silence(3.0)]), "sound at one level"),
        (speech(1.0), "1.0 s long"),
        (np.concatenate([silence(5.0), speech(1.2), silence(5.0)]), "1.5 s long"),
        (np.concatenate([speech(0.2), silence(5.0), speech(0.2)]), "of speech"),
        (np.tile(speech(1.0), 121), "longer than 120 seconds"),
    ],
    ids=[
        *("silence", "offset", "nothing", "noise", "tone", "noise-silence"),
        *("short", "padded", "rare", "long"),
    ],
)
def test_what_is_no_clip_is_refused_with_its_duration(sound: Sound, message: str) -> None:
    assert message in refusal(wav_of(sound))


@pytest.mark.parametrize("rate_hz", [0, 1, 3_999, 384_001, 2**31 - 1])
def test_impossible_sample_rates_are_refused(rate_hz: int) -> None:
    refusal(wav_of(PADDED, rate_hz=rate_hz))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no words"),
        (" \n\t", "no words"),
        ("... !? 🙂", "no words"),
        ("x" * 2_001, "2001 characters"),
        ("Yes.", "too short for the clip: it has 4 characters, and the clip 5.0 s of speech"),
        (transcript(15), "characters, and the clip 5.0 s of speech"),
        ("漢" * 80, "too long"),
        ("漢", "too short"),
        ("999,999,999 and 888,888,888", "too long"),
    ],
)
def test_a_transcript_that_does_not_fit_is_refused(text: str, message: str) -> None:
    assert message in refusal(wav_of(PADDED), text)


@pytest.mark.parametrize(
    "text",
    [
        *(transcript(2.6), transcript(9.5), "漢" * 20, "77,777 + 88"),
        *("THE WHOLE TEXT IS IN CAPITALS", "ひらがな" * 8, "안녕하세요" * 5),
        "مرحبا كيف حالك اليوم يا صديقي",
    ],
)
def test_a_transcript_that_fits_is_accepted(text: str) -> None:
    assert prepared(PADDED, text).text == text


def test_a_long_pause_does_not_count_as_speech() -> None:
    sound = np.concatenate([speech(2.5), silence(9.0), speech(2.5)])
    clip = prepared(sound)
    assert [w for w in clip.warnings if "pause of 9" in w]
    assert "5.5 s of speech" in refusal(wav_of(sound), transcript(30))


def test_a_transcript_is_one_line_without_control_characters() -> None:
    text = "  Some words\nare\tspoken\x00 in this clip\ud800, and then more.  "
    assert prepared(PADDED, text).text == "Some words are spoken in this clip , and then more."


def test_defects_are_warned_of() -> None:
    assert "distorted" in prepared(np.clip(8 * PADDED, -1, 0.99)).warnings[0]
    assert "noisy" in prepared(PADDED + noise(7.5, 0.03)).warnings[0]
    loud = 0.02 * PADDED
    loud[72_000:72_020] = 1.0
    assert "louder than the speech" in prepared(loud).warnings[0]
    telephone = wav_of(speech(8.0), rate_hz=8_000)
    assert "8000 Hz" in prepare_clip(telephone, transcript(24)).warnings[0]


def sentences(lengths_s: list[float], pause_s: float) -> tuple[Sound, str]:
    sounds = [part for length_s in lengths_s for part in (speech(length_s), silence(pause_s))]
    return np.concatenate(sounds), " ".join(transcript(length_s) for length_s in lengths_s)


def test_a_long_clip_is_cut_where_a_sentence_ends() -> None:
    sound, text = sentences([6.0, 9.0, 3.0, 8.0, 7.0, 5.0], pause_s=0.5)
    clip = prepared(sound, text)
    kept = " ".join(transcript(length_s) for length_s in (6.0, 9.0, 3.0, 8.0))
    assert clip.text == kept
    assert 27.5 <= clip.duration_s <= 28.2
    (warning,) = clip.warnings
    assert f"cut to {clip.duration_s:.1f} s" in warning
    assert kept in warning
    again = prepare_clip(wav_of(clip.pcm / 32_768), clip.text)
    assert (len(again.pcm), again.text, again.warnings) == (len(clip.pcm), kept, ())


def test_a_long_clip_that_no_sentence_end_divides_is_refused() -> None:
    sound, text = sentences([6.0, 9.0, 20.0], pause_s=0.5)
    message = refusal(wav_of(sound), text.replace(".", ",").rstrip(",") + ".")
    assert "no sentence" in message
    # One pause, far from the only sentence end.
    sound = np.concatenate([speech(4.0), silence(0.6), speech(36.0)])
    assert "no sentence" in refusal(wav_of(sound), f"{transcript(20)} {transcript(20)}")


def test_a_pcm_array_of_the_clip_is_what_a_wav_file_can_hold() -> None:
    clip = prepared(PADDED)
    np.testing.assert_array_equal(pcm_of(clip.pcm / 32_768), clip.pcm)
