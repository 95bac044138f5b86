"""Reference clips: from the bytes of any audio file and a transcript to a prompt of the model.

The module must not know voices, uploads or the model. It blocks; its memory and time are bounded by
`MAX_FILE_S` of audio.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csm_trio.audio.clip_cut import find_cut
from csm_trio.audio.container import DecodedFile, UnreadableAudio, decode_file
from csm_trio.audio.loudness import normalize_loudness
from csm_trio.audio.mixdown import mix_to_mono
from csm_trio.audio.pcm import to_int16
from csm_trio.audio.speech_activity import HOP_S, SpeechActivity
from csm_trio.text.transcript import BadTranscript, Transcript
from csm_trio.timebase import SAMPLE_RATE_HZ

MIN_CLIP_S, MAX_CLIP_S = 2.0, 30.0
"""Duration of a prepared clip."""
MAX_FILE_S = 120.0
"""Longest file, silence included."""
TARGET_LUFS = -23.0
"""Loudness of a prepared clip, after EBU R128."""

_HOP_SAMPLES = round(HOP_S * SAMPLE_RATE_HZ)
# Silence kept around the speech. What is not much longer stays, so that a prepared clip does.
_MARGIN_FRAMES, _LONGEST_MARGIN_FRAMES = 15, 20
_MIN_SPEECH_S = 0.5
_MIN_RANGE_DB = 6.0
_QUIETEST_PEAK = 10 / 32_768

_FULL_SCALE, _LARGEST_CLIPPED_PEAK = 0.98, 2.0
_MAX_CLIPPED_SHARE = 0.001
_MIN_SNR_DB = 20.0
_MAX_PAUSE_S = 2.0
_MIN_SOURCE_HZ = 16_000
_MIN_LUFS = TARGET_LUFS - 3


class UnusableClip(ValueError):
    """The file or transcript cannot become a reference clip; the message is one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedClip:
    """A reference clip: `pcm` int16 [samples] at 24 kHz and the `text` that is spoken in it.

    warnings: sentences for the user on what was changed, and on what will make the voice worse.
    """

    pcm: NDArray[np.int16]
    text: str
    warnings: tuple[str, ...]

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / SAMPLE_RATE_HZ


def prepare_clip(data: bytes, text: str) -> PreparedClip:
    """Return the clip of an audio file of any kind with its transcript, word for word.

    Channels are mixed, silence around the speech is trimmed, the loudness is -23 LUFS unless a
    true peak would pass -1 dBTP. What is longer than 30 s is cut, with its transcript, at a pause
    after a sentence. Raises `UnusableClip` for anything that makes no clip.
    """
    try:
        transcript = Transcript.parse(text)
        file = decode_file(data, sample_rate_hz=SAMPLE_RATE_HZ, max_s=MAX_FILE_S)
    except (BadTranscript, UnreadableAudio) as error:
        raise UnusableClip(str(error)) from None
    clip = _Recording.of_file(file).trimmed()
    clip.check_speech()
    clip.check_transcript(transcript)
    warnings = _source_warnings(file)
    if clip.duration_s > MAX_CLIP_S:
        clip, text = clip.cut(transcript)
        warnings.append(
            f"The clip was cut to {clip.duration_s:.1f} s, and its transcript to: “{text}”"
        )
    else:
        text = transcript.text
    clip.check_duration()
    scaled = to_int16(clip.samples * (32_000 / np.abs(clip.samples).max()))
    pcm, reached_lufs = normalize_loudness(scaled, SAMPLE_RATE_HZ, TARGET_LUFS)
    return PreparedClip(pcm, text, (*warnings, *clip.warnings(reached_lufs)))


@dataclass(frozen=True, slots=True, eq=False)
class _Recording:
    """Mono samples [n], where they reach full scale [n], and their activity [n / 240]."""

    samples: NDArray[np.float32]
    full_scale: NDArray[np.bool_]
    activity: SpeechActivity

    @classmethod
    def of_file(cls, file: DecodedFile) -> "_Recording":
        magnitudes = np.zeros(len(file.channels), dtype=np.float32)
        for channel in file.channels.T:
            np.maximum(magnitudes, np.abs(channel), out=magnitudes)
        peak = float(magnitudes.max(initial=0.0))
        duration_s = len(magnitudes) / SAMPLE_RATE_HZ
        silent = UnusableClip(f"The clip is silent: {duration_s:.1f} s without speech.")
        if peak < _QUIETEST_PEAK:
            raise silent
        if duration_s < MIN_CLIP_S:
            raise UnusableClip(
                f"The clip is {duration_s:.1f} s long; {MIN_CLIP_S:g} to {MAX_CLIP_S:g} s are "
                "needed."
            )
        # A file whose full scale is not 1 is not clipped where it passes 1.
        full_scale = (magnitudes >= _FULL_SCALE) & (peak <= _LARGEST_CLIPPED_PEAK)
        mono = mix_to_mono(file.channels / np.float32(peak), SAMPLE_RATE_HZ)
        if float(np.abs(mono).max()) * peak < _QUIETEST_PEAK:  # a constant offset alone
            raise silent
        return cls(mono, full_scale, SpeechActivity.measure(mono, SAMPLE_RATE_HZ))

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE_HZ

    def part(self, start: int, end: int) -> "_Recording":
        """Return frames [start, end); at the last frame, with the samples after it."""
        last = None if end == len(self.activity.energies) else end * _HOP_SAMPLES
        samples = slice(start * _HOP_SAMPLES, last)
        activity = self.activity.part(start, end)
        return _Recording(self.samples[samples], self.full_scale[samples], activity)

    def trimmed(self) -> "_Recording":
        """Return it with at most 0.2 s without speech at either end.

        The levels are measured again after each trim, until there is nothing more to trim.
        """
        recording = self
        while True:
            n_frames = len(recording.activity.energies)
            first, last = recording.activity.span
            start = first - _MARGIN_FRAMES if first > _LONGEST_MARGIN_FRAMES else 0
            end = last + _MARGIN_FRAMES if n_frames - last > _LONGEST_MARGIN_FRAMES else n_frames
            if first == last or (start, end) == (0, n_frames):
                return recording
            recording = recording.part(start, end)

    def check_speech(self) -> None:
        """Raise `UnusableClip` where there is too little that can be speech."""
        activity = self.activity
        speech_s = np.count_nonzero(activity.active) * HOP_S
        if speech_s < _MIN_SPEECH_S:
            raise UnusableClip(
                f"The clip holds only {speech_s:.1f} s of speech; {MIN_CLIP_S:g} to "
                f"{MAX_CLIP_S:g} s are needed."
            )
        if activity.range_db < _MIN_RANGE_DB:
            raise UnusableClip(
                f"The clip holds {self.duration_s:.1f} s of sound at one level, such as noise or "
                "a tone, and no speech that can be told from it."
            )
        self.check_duration()

    def check_duration(self) -> None:
        """Raise `UnusableClip` where it is too short."""
        if self.duration_s < MIN_CLIP_S:
            raise UnusableClip(
                f"The clip is {self.duration_s:.1f} s long without the silence around it; "
                f"{MIN_CLIP_S:g} to {MAX_CLIP_S:g} s are needed."
            )

    def check_transcript(self, transcript: Transcript) -> None:
        """Raise `UnusableClip` where no voice speaks the transcript in this time."""
        spoken_s = float(self.activity.spoken_s[-1])
        if transcript.fastest_s <= spoken_s <= transcript.slowest_s:
            return
        amount = "long" if spoken_s < transcript.fastest_s else "short"
        raise UnusableClip(
            f"The transcript is too {amount} for the clip: it has {len(transcript.text)} "
            f"characters, and the clip {spoken_s:.1f} s of speech; it must be what is spoken, "
            "word for word."
        )

    def cut(self, transcript: Transcript) -> "tuple[_Recording, str]":
        """Return what may be kept of the recording, and the part of the transcript for it.

        Raises `UnusableClip` where no sentence ends at a pause in time.
        """
        sentences_s = [sentence.speech_s for sentence in transcript.sentences]
        found = find_cut(self.activity, sentences_s, MAX_CLIP_S)
        if found is None:
            raise UnusableClip(
                f"The clip is {self.duration_s:.1f} s long, and no sentence of the transcript ends "
                f"at a pause within {MAX_CLIP_S:g} s; cut the clip, and its transcript with it."
            )
        n_frames, n_sentences = found
        return self.part(0, n_frames), transcript.text[: transcript.sentences[n_sentences - 1].end]

    def warnings(self, reached_lufs: float | None) -> list[str]:
        """Return what will make the voice worse, in sentences."""
        activity, found = self.activity, []
        if np.mean(self.full_scale) > _MAX_CLIPPED_SHARE:
            share = 100 * np.mean(self.full_scale)
            found.append(f"The clip is distorted: {share:.1f} % of it is at full scale.")
        snr_db = activity.speech_db - activity.floor_db
        if snr_db < _MIN_SNR_DB:
            found.append(
                f"The clip is noisy: the speech is only {snr_db:.0f} dB louder than the background."
            )
        longest_s = max((pause.duration_s for pause in activity.pauses), default=0.0)
        if longest_s > _MAX_PAUSE_S:
            found.append(f"The clip has a pause of {longest_s:.1f} s.")
        if reached_lufs is not None and reached_lufs < _MIN_LUFS:
            found.append(
                f"The clip's loudness is only {reached_lufs:.0f} LUFS, not {TARGET_LUFS:g}, since "
                "it holds sounds much louder than the speech."
            )
        return found


def _source_warnings(file: DecodedFile) -> list[str]:
    found = []
    if file.damaged:
        found.append("The file is damaged: not all of it could be decoded.")
    if file.source_hz < _MIN_SOURCE_HZ:
        found.append(
            f"The file's sample rate is only {file.source_hz} Hz; the voice will sound muffled."
        )
    return found
