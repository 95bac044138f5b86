"""The embedded voice, served for real: can it be understood, and does company change it?"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
import pytest
import trio
from numpy.typing import NDArray

from csm_trio.audio.wav import read_wav
from csm_trio.config import Config, EngineConfig, SpeechConfig
from csm_trio.engine.load import load_runner
from csm_trio.engine.runner import TorchRunner
from csm_trio.engine.utterance import Frame, StepResult, Utterance
from csm_trio.errors import SpeechError
from data.sentences import SENTENCES
from support.client_calls import SPEECH, http_client, joined_audio, receive_all, send
from support.serving import TEST_SERVER, Server, serving
from support.timestamp_client import BREAK_MS, ENDPOINTS, SPOKEN, WRITTEN, receive
from tools.word_error_rate import WordErrors, recognize

SEED = 7
PARAGRAPH = SENTENCES[10:14]
GUARD_S = 300.0
FULL_SCALE = 32_767

Pcm = NDArray[np.int16]


@cache
def embedded_runner() -> TorchRunner:
    """Load the embedded voice once; between two servers all of its slots are free."""
    return load_runner(EngineConfig(device="cpu"))


class Stenographer:
    """A Runner that also counts the frames of each utterance, in the order they were begun."""

    def __init__(self, runner: TorchRunner) -> None:
        self._runner = runner
        self._utterance_in: dict[int, int] = {}
        self.texts: list[str] = []
        self.frames: list[int] = []

    @property
    def slots(self) -> int:
        return self._runner.slots

    @property
    def max_prefills_per_step(self) -> int:
        return self._runner.max_prefills_per_step

    def open(self, batch: Sequence[tuple[int, Utterance]]) -> Sequence[int | SpeechError]:
        frame_limits = self._runner.open(batch)
        for slot, utterance in batch:
            self._utterance_in[slot] = len(self.texts)
            self.texts.append(utterance.text)
            self.frames.append(0)
        return frame_limits

    def prefill(self) -> Sequence[int]:
        return self._runner.prefill()

    def step(self, slots: Sequence[int]) -> Sequence[StepResult]:
        frames = self._runner.step(slots)
        for slot, frame in zip(slots, frames, strict=True):
            self.frames[self._utterance_in[slot]] += isinstance(frame, Frame)
        return frames

    def close(self, slot: int) -> None:
        self._runner.close(slot)


async def hear_sentence(server: Server, text: str, *, seed: int = SEED) -> tuple[Pcm, int]:
    async with http_client(server) as client:
        answer = await client.post(
            f"{SPEECH}?output_format=wav_16000", json={"text": text, "seed": seed}, timeout=GUARD_S
        )
    assert answer.status_code == 200
    return read_wav(answer.content)


async def hear_paragraph(server: Server, sentences: Iterable[str]) -> Pcm:
    async with server.dial(output_format="pcm_24000", seed=SEED) as ws:
        for sentence in sentences:
            await send(ws, {"text": f"{sentence} "})
        await send(ws, {"text": ""})
        received, code = await receive_all(ws)
    assert (received[-1]["isFinal"], code) == (True, 1000)
    return np.frombuffer(joined_audio(received), dtype="<i2")


async def test_twenty_sentences_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    speech: dict[str, tuple[Pcm, int]] = {}

    async def receive(server: Server, text: str) -> None:
        speech[text] = await hear_sentence(server, text)

    with trio.fail_after(GUARD_S):
        config = Config(server=TEST_SERVER, speech=SpeechConfig())
        async with serving(embedded_runner, config) as server:
            for first in range(0, len(SENTENCES), server.state.admission.limit):
                async with trio.open_nursery() as nursery:
                    for text in SENTENCES[first : first + server.state.admission.limit]:
                        nursery.start_soon(receive, server, text)
    counts = WordErrors.pooled(
        WordErrors.between(text, recognize(*speech[text])) for text in SENTENCES
    )
    with capsys.disabled():
        print(f"\npooled WER {counts.rate:.1%} ({counts.errors} errors in {counts.words} words)")
    assert counts.rate < 0.40


async def test_a_seed_gives_the_same_bytes_alone_and_in_a_batch() -> None:
    text = SENTENCES[1]
    company = [SENTENCES[5], SENTENCES[9], SENTENCES[15]]
    together: list[Pcm] = []

    async def receive(server: Server, text: str, into: Callable[[Pcm], None], seed: int) -> None:
        into((await hear_sentence(server, text, seed=seed))[0])

    with trio.fail_after(GUARD_S):
        async with serving(embedded_runner) as server:
            alone, _ = await hear_sentence(server, text)
            others: list[Pcm] = []
            async with trio.open_nursery() as nursery:
                for seed, other in enumerate(company):
                    nursery.start_soon(receive, server, other, others.append, seed)
                nursery.start_soon(receive, server, text, together.append, SEED)
            different, _ = await hear_sentence(server, text, seed=SEED + 1)
    assert len(others) == 3
    assert together[0].tobytes() == alone.tobytes()
    assert different.tobytes() != alone.tobytes()


async def test_a_paragraph_over_a_socket_is_one_clean_stream(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runner = Stenographer(embedded_runner())
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server:
            sound = await hear_paragraph(server, PARAGRAPH)
    assert runner.texts == list(PARAGRAPH)
    assert len(sound) == 1_920 * sum(runner.frames)
    assert_no_click(sound, joints=1_920 * np.cumsum(runner.frames)[:-1])
    assert longest_run_at_full_scale(sound) < 24, "1 ms at full scale is clipped"
    errors = WordErrors.between(" ".join(PARAGRAPH), recognize(sound, 24_000))
    with capsys.disabled():
        print(f"\nparagraph WER {errors.rate:.1%} ({errors.errors} errors in {errors.words} words)")
    assert errors.rate < 0.5


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_alignments_cover_all_text_as_the_audio_arrives(endpoint: str) -> None:
    runner = Stenographer(embedded_runner())
    with trio.fail_after(GUARD_S):
        async with serving(lambda: runner) as server:
            received = await receive(server, endpoint)
    assert (received.written.text, received.spoken.text) == (WRITTEN, SPOKEN)
    said_ms = 80 * sum(runner.frames) + BREAK_MS
    assert (
        received.written.clock_ms == received.spoken.clock_ms == len(received.audio) / 48 == said_ms
    )


def assert_no_click(sound: Pcm, *, joints: NDArray[np.int64]) -> None:
    """Check that no step from sample to sample at a joint is larger than speech's own."""
    steps = np.abs(np.diff(sound.astype(np.int32)))  # [samples - 1]; steps[i] leads to i + 1
    at_joints = np.zeros(len(steps), dtype=bool)
    at_joints[joints - 1] = True
    assert steps[at_joints].max() <= steps[~at_joints].max()
    # A joint lies in a pause: what is a small step for speech would be a click there.
    assert steps[at_joints].max() < 0.05 * FULL_SCALE


def longest_run_at_full_scale(sound: Pcm) -> int:
    edges = np.diff(np.concatenate([[0], np.abs(sound.astype(np.int32)) >= FULL_SCALE, [0]]))
    lengths = np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)
    return int(lengths.max(initial=0))
