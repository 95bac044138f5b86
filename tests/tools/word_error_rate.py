"""Measure the word error rate of synthesized speech with an offline recognizer.

Run as `PYTHONPATH=tests python -m tools.word_error_rate`, it requests sentences (twenty, or as many
as `--sentences` says) from a running server and prints the words recognized. The recognizer is
PocketSphinx with the US English model that it ships; its own errors are included.
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray
from pocketsphinx import Decoder  # type: ignore[import-untyped]

from csm_trio.audio.resample import Resampler
from csm_trio.audio.wav import read_wav
from data.sentences import CALL_SENTENCES, SENTENCES

_RATE_HZ = 16_000
_SILENCE_S = 0.3
_ANSWER_TIMEOUT_S = 300

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)*")


def recognize(pcm: NDArray[np.int16], sample_rate_hz: int) -> str:
    """Return the words recognized in `pcm` [samples], lower-case; empty if there are none.

    Each recording gets a new decoder, so that it cannot influence the next.
    """
    if not pcm.any():
        return ""  # PocketSphinx makes up a word for digital silence
    resampler = Resampler(sample_rate_hz, _RATE_HZ)
    silence = np.zeros(round(_SILENCE_S * _RATE_HZ), dtype=np.int16)
    sound = np.concatenate([silence, resampler.feed(pcm), resampler.finish(), silence])
    decoder = Decoder(samprate=_RATE_HZ, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(sound.tobytes(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return "" if hypothesis is None else str(hypothesis.hypstr)


@dataclass(frozen=True, slots=True)
class WordErrors:
    """Substituted, missing or inserted words, and the number of words of the reference."""

    errors: int = 0
    words: int = 0

    @classmethod
    def between(cls, reference: str, recognized: str) -> Self:
        """Count the fewest substitutions, deletions and insertions from one to the other."""
        expected = words_of(reference)
        return cls(_distance(expected, words_of(recognized)), len(expected))

    @classmethod
    def pooled(cls, counts: Iterable[Self]) -> Self:
        """Return the sum of `counts`: every word weighs the same, whatever its sentence."""
        counted = list(counts)
        return cls(sum(one.errors for one in counted), sum(one.words for one in counted))

    @property
    def rate(self) -> float:
        """Errors a word; where no word was expected, 0.0 for none and infinity for any."""
        if self.words:
            return self.errors / self.words
        return float("inf") if self.errors else 0.0


def word_error_rate(reference: str, recognized: str) -> float:
    """Return the word error rate of `recognized`; above 1.0 where it inserts many words."""
    return WordErrors.between(reference, recognized).rate


def words_of(text: str) -> list[str]:
    """Return the words of `text`, lower-case and without punctuation but for apostrophes."""
    return _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def _distance(expected: Sequence[str], recognized: Sequence[str]) -> int:
    """Return the Levenshtein distance between two lists of words."""
    row = list(range(len(recognized) + 1))
    for i, word in enumerate(expected, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(recognized, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def _synthesize(
    base_url: str, voice_id: str, text: str, seed: int | None
) -> tuple[NDArray[np.int16], int]:
    voice = quote(voice_id, safe="")
    request = Request(
        f"{base_url.rstrip('/')}/v1/text-to-speech/{voice}?output_format=wav_{_RATE_HZ}",
        data=json.dumps({"text": text, "seed": seed}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=_ANSWER_TIMEOUT_S) as answer:
        return read_wav(answer.read())


def main() -> None:
    """Print the reference, recognized words and WER of each sentence, and the pooled WER."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--voice", default="default")
    parser.add_argument("--sentences", type=int, default=len(SENTENCES), help="at most 200")
    parser.add_argument("--seed", type=int, help="one for every sentence")
    flags = parser.parse_args()
    counts = []
    for sentence in CALL_SENTENCES[: flags.sentences]:
        recognized = recognize(*_synthesize(flags.url, flags.voice, sentence, flags.seed))
        counts.append(WordErrors.between(sentence, recognized))
        print(f"reference  {sentence}\nrecognized {recognized}")
        print(f"WER        {counts[-1].rate:.1%}\n", flush=True)
    pooled = WordErrors.pooled(counts)
    print(
        f"pooled WER {pooled.rate:.1%} ({pooled.errors} errors in {pooled.words} words, "
        f"{len(counts)} sentences)"
    )


if __name__ == "__main__":
    main()
