"""Measure the alignment error: word starts against a forced alignment of the same audio.

Run as `PYTHONPATH=tests python -m tools.alignment_error`, it synthesizes fifty sentences in the
embedded voice and prints, for each alignment method, the mean and the 95th percentile of the
absolute error. The reference is PocketSphinx's forced alignment, whose own errors are included.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pocketsphinx import Decoder  # type: ignore[import-untyped]

from csm_trio.alignment.acoustics import WINDOW_MS, AcousticModel
from csm_trio.alignment.aligner import Aligner
from csm_trio.alignment.hmm import ForwardAligner
from csm_trio.alignment.phonetics import units_of
from csm_trio.alignment.voice_profiles import VoiceProfiles
from csm_trio.audio.resample import Resampler
from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_runner
from csm_trio.engine.runner import TorchRunner
from csm_trio.engine.utterance import Frame, Sampling, Utterance
from csm_trio.text.duration import longest_speech_s
from csm_trio.text.spans import TracedText
from data.sentences import VARIED_SENTENCES

_RATE_HZ = 16_000
_SILENCE_MS = 300
_FRAME_MS = 80
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
_SILENCE_PROBABILITY = 0.5
"""Probability of silence between words: PocketSphinx's default, 0.005, misses many pauses."""

Starts = list[float]


@dataclass(frozen=True, slots=True)
class Speech:
    """One synthesized sentence; `word_starts_ms` is the reference."""

    text: str
    speaker: str
    frames: list[Frame]
    word_starts_ms: Starts

    @property
    def pcm(self) -> NDArray[np.int16]:
        return np.concatenate([frame.pcm for frame in self.frames])

    @property
    def length_ms(self) -> int:
        return _FRAME_MS * len(self.frames)


def word_starts_ms(text: str, pcm: NDArray[np.int16]) -> Starts | None:
    """Return where each word of `text` starts in `pcm` at 24 kHz; None if it cannot be aligned."""
    words = _WORD.findall(text.lower())
    resampler = Resampler(24_000, _RATE_HZ)
    # PocketSphinx recognizes spurious words in digital silence, so pad with faint noise.
    noise = np.random.default_rng(0).normal(0, 3, _SILENCE_MS * _RATE_HZ // 1000).astype(np.int16)
    sound = np.concatenate([noise, resampler.feed(pcm), resampler.finish(), noise]).tobytes()
    decoder = Decoder(
        samprate=_RATE_HZ, loglevel="FATAL", lm=None, bestpath=False, silprob=_SILENCE_PROBABILITY
    )
    decoder.set_align_text(" ".join(words))
    _decode(decoder, sound)
    if decoder.hyp() is None:
        return None
    decoder.set_alignment()  # words first, then their sounds within them
    _decode(decoder, sound)
    aligned = [
        (re.sub(r"\(\d+\)$", "", word.name), float(word.start * 10 - _SILENCE_MS))
        for word in decoder.get_alignment()
        if word.name[0] not in "<["
    ]
    if [name for name, _ in aligned] != words:
        return None
    return [start for _, start in aligned]


def _decode(decoder: Decoder, sound: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(sound, full_utt=True)
    decoder.end_utt()


def synthesize(runner: TorchRunner, text: str, *, speaker_id: int, seed: int) -> list[Frame]:
    """Return the frames that the engine generates for `text`."""
    max_frames = round(longest_speech_s(text) * 1000) // _FRAME_MS
    runner.open([(0, Utterance(text, speaker_id, max_frames, Sampling(seed=seed)))])
    runner.prefill_all()
    frames: list[Frame] = []
    while len(frames) < max_frames and isinstance(frame := runner.step([0])[0], Frame):
        frames.append(frame)
    runner.close(0)
    return frames


def uniform(speech: Speech) -> Starts:
    """Return starts at even spacing over the whole audio, a baseline."""
    return [at * speech.length_ms / len(speech.text) for at in range(len(speech.text))]


def attention_alone(speech: Speech) -> Starts:
    """Return starts interpolated from the alignment head alone, without the acoustic model."""
    attended_chars = [frame.attended_char or 0.0 for frame in speech.frames]
    positions = np.maximum.accumulate(attended_chars) + np.arange(len(attended_chars)) * 1e-6
    times = np.arange(len(attended_chars)) * _FRAME_MS + _FRAME_MS / 2
    return list(np.interp(np.arange(len(speech.text)) + 0.5, positions, times))


class Delivered:
    """Align frame by frame, as for a client: with `attended_chars`, or from the audio only."""

    def __init__(self, *, attended_chars: bool) -> None:
        self._use_attended_chars = attended_chars
        self._profiles = VoiceProfiles()

    def __call__(self, speech: Speech) -> Starts:
        aligner, starts = Aligner(self._profiles), Starts()

        def take() -> None:
            if (part := aligner.take()) is not None:
                starts.extend(part.written.shifted(part.from_ms).starts_ms)

        aligner.begin(TracedText(speech.text).finish(), speech.speaker)
        for frame in speech.frames:
            aligner.feed(frame.pcm, frame.attended_char if self._use_attended_chars else None)
            take()
        aligner.end()
        take()
        return starts


class Smoothed(ForwardAligner):
    """Forward-backward smoothing with the same model, from the audio only, at the end."""

    @classmethod
    def starts(cls, speech: Speech) -> Starts:
        model = cls(units_of(speech.text), 1.0)
        evidence = AcousticModel(60.0).feed(np.append(speech.pcm, np.int16(0)))[:, model._classes]
        forward = np.empty_like(evidence)
        skip, step, stay = model._arrivals.T
        belief = np.zeros(evidence.shape[1])
        belief[0] = 1.0
        for row, likely in zip(forward, evidence, strict=True):
            predicted = belief * stay
            predicted[1:] += belief[:-1] * step[1:]
            predicted[2:] += belief[:-2] * skip[2:]
            row[:] = belief = predicted * likely / (predicted @ likely)
        backward = np.zeros(evidence.shape[1])
        backward[-1] = 1.0
        for row, likely in zip(forward[::-1], evidence[::-1], strict=True):
            row *= backward
            row /= row.sum()
            weighted = backward * likely
            backward = weighted * stay
            backward[:-1] += step[1:] * weighted[1:]
            backward[:-2] += skip[2:] * weighted[2:]
            backward /= backward.max()
        medians = model._observe(forward)
        positions = np.array(medians) + np.arange(len(medians)) * 1e-6
        times = np.arange(len(medians)) * WINDOW_MS + WINDOW_MS / 2
        return list(np.interp(np.arange(len(speech.text)), positions, times))


Align = Callable[[Speech], Starts]


def errors_ms(speech: Speech, align: Align) -> list[float]:
    """Return the error of each word's start in ms; positive is late."""
    starts = align(speech)
    words = [match.start() for match in _WORD.finditer(speech.text.lower())]
    return [starts[at] - ms for at, ms in zip(words, speech.word_starts_ms, strict=True)]


def synthesize_sentences(
    runner: TorchRunner, texts: Sequence[str], *, speaker_id: int, seed: int
) -> list[Speech]:
    """Synthesize the sentences; return those that the reference could align."""
    speeches = []
    for index, text in enumerate(texts):
        frames = synthesize(runner, text, speaker_id=speaker_id, seed=seed + index)
        reference = word_starts_ms(text, np.concatenate([frame.pcm for frame in frames]))
        if reference is not None:
            speeches.append(Speech(text, str(speaker_id), frames, reference))
    return speeches


def main() -> None:
    """Print one row per alignment method."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--speaker", type=int, action="append", help="default: 1; may be repeated")
    parser.add_argument("--seed", type=int, default=1000)
    flags = parser.parse_args()
    runner = load_runner(EngineConfig(device="cpu", pool_size=1))
    for speaker_id in flags.speaker or [1]:
        speeches = synthesize_sentences(
            runner, VARIED_SENTENCES, speaker_id=speaker_id, seed=flags.seed
        )
        words = sum(len(speech.word_starts_ms) for speech in speeches)
        print(f"speaker {speaker_id}: {len(speeches)} sentences, {words} words")
        methods: dict[str, Align] = {
            "even spacing": uniform,
            "audio only, as delivered": Delivered(attended_chars=False),
            "audio only, smoothed at the end": Smoothed.starts,
            "attention alone": attention_alone,
            "audio and attention, as delivered": Delivered(attended_chars=True),
        }
        for name, align in methods.items():
            errors = np.array([ms for speech in speeches for ms in errors_ms(speech, align)])
            absolute = np.abs(errors)
            print(
                f"  {name:36} mean {absolute.mean():4.0f} ms"
                f"   p95 {np.percentile(absolute, 95):4.0f} ms"
                f"   median offset {np.median(errors):+4.0f} ms"
            )


if __name__ == "__main__":
    main()
