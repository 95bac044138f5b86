"""One context: every word becomes sound, in order, in one stream; or it says why not."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from csm_trio.alignment.alignment import Aligned
from csm_trio.audio.encoders import make_encoder
from csm_trio.audio.formats import AudioFormat
from csm_trio.config import SpeechConfig
from csm_trio.engine.service import Engine
from csm_trio.engine.utterance import (
    MAX_BATCH_FRAMES,
    EndReason,
    PromptSegment,
    Utterance,
    VoicePrefix,
)
from csm_trio.errors import ClientStalled, EngineFailed, InvalidRequest, TextTooLong
from csm_trio.pipeline.context import Synthesizer
from csm_trio.pipeline.spec import Backlog, ContextProgress, ContextSpec
from csm_trio.protocol.events import (
    AddText,
    Audio,
    ContextDone,
    ContextFailed,
    Flush,
    OutEvent,
    SpeechSettings,
)
from csm_trio.telemetry import Metrics
from csm_trio.text.duration import longest_speech_s
from csm_trio.voices import Voice
from support.fakes import FRAME_SAMPLES, FakeEngine, sine_frames

GUARD_S = 3_600
"""Of the mock clock's seconds, which pass at once while every task is blocked."""
FRAME_BYTES = 2 * FRAME_SAMPLES
FRAME_S = 0.08
PLAIN = SpeechSettings()
ONE, TWO, THREE = "This is the first one. ", "Here comes the second. ", "And now the third."


def make_spec(
    settings: SpeechSettings = PLAIN,
    *,
    audio_format: str = "pcm_24000",
    speaker_id: int = 0,
    max_audio_len_ms: int = 30_000,
    aligned: bool = False,
) -> ContextSpec:
    return ContextSpec(
        context_id="a",
        voice=Voice("vera", "Vera", speaker_id),
        audio_format=AudioFormat.parse(audio_format),
        settings=settings,
        max_audio_len_ms=max_audio_len_ms,
        max_pending_chars=10_000,
        aligned=aligned,
    )


class ContextRun:
    """One context while it is synthesized: the test holds the end of the text and of the events."""

    def __init__(
        self,
        engine: FakeEngine,
        spec: ContextSpec | None = None,
        *,
        config: SpeechConfig | None = None,
    ) -> None:
        self.engine = engine
        self.spec = spec or make_spec()
        self.progress = ContextProgress.begin(self.spec, lambda: "hang_up")
        self.metrics = Metrics()
        self.begun_s = time.monotonic()
        self._synthesizer = Synthesizer(
            cast(Engine, engine), config or SpeechConfig(), self.metrics
        )
        self.deltas, self._deltas = trio.open_memory_channel[AddText | Flush](1_000)
        self._outbox, self.outbox = trio.open_memory_channel[OutEvent](0)

    def add(self, *deltas: str | AddText | Flush) -> None:
        for delta in deltas:
            event = AddText("a", delta) if isinstance(delta, str) else delta
            self.progress.backlog.add(len(event.text) if isinstance(event, AddText) else 0)
            self.deltas.send_nowait(event)

    async def synthesize(self) -> None:
        with trio.fail_after(GUARD_S):
            await self._synthesizer.synthesize(self.spec, self.progress, self._deltas, self._outbox)

    async def run(self, *deltas: str | AddText | Flush, pace_s: float = 0.0) -> list[OutEvent]:
        """Synthesize all of it for a client that takes an event every `pace_s`."""
        self.add(*deltas)
        self.deltas.close()
        events: list[OutEvent] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.synthesize)
            async for event in self.outbox:
                events.append(event)
                await trio.sleep(pace_s)
        return events

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def joined_audio(events: Sequence[OutEvent]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Audio))


def encoded(
    utterances: Sequence[Utterance], audio_format: str = "pcm_24000", *, speed: float = 1.0
) -> bytes:
    """Return what one encoder makes of all frames at once."""
    encoder = make_encoder(AudioFormat.parse(audio_format), speed=speed)
    frames = [frame.pcm for utterance in utterances for frame in sine_frames(utterance)]
    pcm = np.concatenate([np.zeros(0, dtype=np.int16), *frames])
    return encoder.encode(pcm) + encoder.finish()


def texts(engine: FakeEngine) -> list[str]:
    return [utterance.text for utterance in engine.utterances]


# On the real clock: the mock one would not see mp3's thread.
@pytest.mark.parametrize("buffer_size", [1, 2, 5, 500])
@pytest.mark.parametrize(
    "name",
    ["pcm_24000", "pcm_16000", "ulaw_8000", "wav_22050", "mp3_44100_64", "opus_48000_32"],
)
async def test_the_stream_is_one_encoder_over_all_frames(name: str, buffer_size: int) -> None:
    call = ContextRun(
        FakeEngine(), make_spec(SpeechSettings(buffer_size=buffer_size), audio_format=name)
    )
    events = await call.run(ONE, TWO, THREE)
    assert texts(call.engine) == [ONE.strip(), TWO.strip(), THREE]
    assert joined_audio(events) == encoded(call.engine.utterances, name)
    assert events[-1] == ContextDone("a")
    assert all(isinstance(event, Audio) and event.context_id == "a" for event in events[:-1])


def pieces(events: Sequence[OutEvent]) -> list[Aligned]:
    return [event.aligned for event in events if isinstance(event, Audio) and event.aligned]


# On the real clock, as above.
@pytest.mark.parametrize("buffer_size", [1, 5, 500])
@pytest.mark.parametrize("name", ["pcm_24000", "mp3_44100_64", "opus_48000_32"])
@pytest.mark.parametrize("speed", [1.0, 1.2])
async def test_alignments_cover_all_that_is_said_and_no_other_audio(
    name: str, buffer_size: int, speed: float
) -> None:
    settings = SpeechSettings(buffer_size=buffer_size, speed=speed)
    call = ContextRun(FakeEngine(), make_spec(settings, audio_format=name, aligned=True))
    events = await call.run(ONE, "*Really* \N{EM DASH} here. ", THREE)
    told = pieces(events)
    assert joined_audio(events) == encoded(call.engine.utterances, name, speed=speed)
    written = "".join(char for piece in told for char in piece.written.chars)
    assert written == f"{ONE}*Really* \N{EM DASH} here. {THREE} "
    spoken = "".join(char for piece in told for char in piece.spoken.chars)
    assert spoken == "".join(f"{text} " for text in texts(call.engine))
    ends = [piece.from_ms + piece.written.end_ms for piece in told]
    assert [0, *ends[:-1]] == [piece.from_ms for piece in told]
    assert ends[-1] == round(call.progress.spoken_frames * 80 / speed)


async def test_the_last_sentence_of_a_context_is_closed_in_the_alignment() -> None:
    call = ContextRun(FakeEngine(), make_spec(aligned=True))
    events: list[OutEvent] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.synthesize)
        call.add(ONE, Flush("a"))
        while not (events and pieces(events[-1:]) and pieces(events)[-1].written.chars[-1] == " "):
            events.append(await call.outbox.receive())
        assert "".join(char for piece in pieces(events) for char in piece.written.chars) == ONE
        assert len(joined_audio(events)) == len(encoded(call.engine.utterances))
        nursery.cancel_scope.cancel()


async def test_nothing_is_aligned_unless_requested_and_enabled() -> None:
    assert pieces(await ContextRun(FakeEngine()).run(ONE, TWO)) == []
    call = ContextRun(FakeEngine(), make_spec(aligned=True), config=SpeechConfig(alignment="off"))
    events = await call.run(ONE, TWO)
    assert pieces(events) == []
    assert all(event.data for event in events if isinstance(event, Audio))


# On the real clock, as above: the tempo is changed in a thread.
@pytest.mark.parametrize("speed", [0.7, 1.0, 1.2])
async def test_the_whole_context_plays_at_its_speed(speed: float) -> None:
    call = ContextRun(FakeEngine(), make_spec(SpeechSettings(speed=speed)))
    audio = joined_audio(await call.run(ONE, TWO, THREE))
    assert audio == encoded(call.engine.utterances, speed=speed)
    made_s = call.progress.spoken_frames * FRAME_S
    assert len(audio) / 48_000 == pytest.approx(made_s / speed, abs=1e-4)


async def test_the_engine_knows_how_long_a_fast_frame_plays() -> None:
    call = ContextRun(FakeEngine(), make_spec(SpeechSettings(speed=1.2)))
    begun_s = time.monotonic()
    call.add(AddText("a", "FRAMES=30 "), Flush("a"), AddText("a", "FRAMES=30"))
    call.deltas.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.synthesize)
        async for _ in call.outbox:
            pass
    first, second = call.engine.utterances
    assert {first.frame_s, second.frame_s} == {FRAME_S / 1.2}
    assert first.plays_at_s is None
    assert second.plays_at_s is not None
    assert 30 * FRAME_S / 1.2 <= second.plays_at_s - begun_s < 30 * FRAME_S


@pytest.mark.parametrize("pace_s", [0.0, 0.05, 0.3, 2.0])
@pytest.mark.parametrize("frame_delay_s", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("frames_alone", [0, 5, 1_000])
async def test_the_pace_of_text_and_client_changes_no_byte(
    autojump_clock: MockClock, pace_s: float, frame_delay_s: float, frames_alone: int
) -> None:
    call = ContextRun(FakeEngine(frame_delay_s=frame_delay_s, frames_alone=frames_alone))
    events = await call.run(ONE, TWO, THREE, pace_s=pace_s)
    assert joined_audio(events) == encoded(call.engine.utterances)
    assert events[-1] == ContextDone("a")
    assert call.progress.spoken_frames * FRAME_BYTES == len(joined_audio(events))
    assert call.progress.backlog.waiting_chars == 0
    assert call.engine.open_utterances == 0


async def test_a_client_that_keeps_up_gets_every_frame_at_once(autojump_clock: MockClock) -> None:
    call = ContextRun(FakeEngine(frame_delay_s=FRAME_S))
    events = await call.run("FRAMES=40")
    assert [len(event.data) for event in events if isinstance(event, Audio)] == [FRAME_BYTES] * 40


async def test_a_slow_client_gets_several_frames_a_chunk(
    autojump_clock: MockClock,
) -> None:
    call = ContextRun(FakeEngine())
    sizes = [
        len(event.data) // FRAME_BYTES
        for event in await call.run("FRAMES=40", pace_s=1.0)
        if isinstance(event, Audio)
    ]
    assert 1 < max(sizes) <= MAX_BATCH_FRAMES
    assert sum(sizes) == 40
    assert len(sizes) < 20


@pytest.mark.parametrize(
    ("of_settings", "of_config", "waits_for"), [(None, 1, 1), (None, 6, 6), (4, 6, 4), (9, 1, 9)]
)
async def test_the_buffer_holds_back_the_first_chunk_and_no_other(
    autojump_clock: MockClock, of_settings: int | None, of_config: int, waits_for: int
) -> None:
    spec = make_spec(SpeechSettings(buffer_size=of_settings))
    call = ContextRun(
        FakeEngine(frame_delay_s=1.0), spec, config=SpeechConfig(buffer_size=of_config)
    )
    call.add("FRAMES=20")
    call.deltas.close()
    heard: list[tuple[int, int]] = []  # whole seconds, frames
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.synthesize)
        start_s = trio.current_time()
        async for event in call.outbox:
            if isinstance(event, Audio):
                at_s = round(trio.current_time() - start_s)
                heard.append((at_s, len(event.data) // FRAME_BYTES))
    first = [frames for at_s, frames in heard if at_s <= waits_for]
    assert heard[0][0] == waits_for
    assert sum(first) == waits_for
    assert heard[len(first) :] == [(at_s, 1) for at_s in range(waits_for + 1, 21)]


async def test_a_frame_batch_leaves_as_one_chunk(autojump_clock: MockClock) -> None:
    call = ContextRun(FakeEngine(frame_delay_s=FRAME_S, frames_alone=4))
    events = await call.run("FRAMES=12")
    sizes = [len(event.data) // FRAME_BYTES for event in events if isinstance(event, Audio)]
    assert sizes == [1, 1, 1, 1, 6, 2]
    assert joined_audio(events) == encoded(call.engine.utterances)
    assert call.progress.spoken_frames == 12


@pytest.mark.parametrize(
    ("buffer_size", "sizes"), [(2, [2, 6, 6]), (3, [6, 2, 6]), (8, [6, 2, 6]), (9, [6, 6, 2])]
)
async def test_the_buffer_size_counts_frames_and_not_frame_batches(
    autojump_clock: MockClock, buffer_size: int, sizes: list[int]
) -> None:
    spec = make_spec(SpeechSettings(buffer_size=buffer_size))
    call = ContextRun(FakeEngine(frame_delay_s=FRAME_S, frames_alone=2), spec)
    events = await call.run("FRAMES=14")
    assert [len(event.data) // FRAME_BYTES for event in events if isinstance(event, Audio)] == sizes
    assert joined_audio(events) == encoded(call.engine.utterances)


@pytest.mark.parametrize("text", ["", " ", "— ... 🙂 ", "\n\n", "***"])
async def test_a_context_of_unspeakable_text_ends_without_an_utterance(text: str) -> None:
    call = ContextRun(FakeEngine())
    assert await call.run(text, Flush("a")) == [ContextDone("a")]
    assert call.engine.utterances == []


async def test_a_context_without_text_ends() -> None:
    assert await ContextRun(FakeEngine()).run() == [ContextDone("a")]


@pytest.mark.parametrize(
    ("deltas", "expected_texts"),
    [
        (["Hello there"], []),
        (["Hello there", Flush("a")], ["Hello there"]),
        (["Hello there", Flush("a", hint=True)], []),
        (["Hello there.", Flush("a", hint=True)], ["Hello there."]),
        (["Hello there. And"], ["Hello there."]),
    ],
)
async def test_a_sentence_is_generated_as_soon_as_it_is_complete(
    deltas: list[str | Flush], expected_texts: list[str]
) -> None:
    call = ContextRun(FakeEngine())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.synthesize)
        call.add(*deltas)
        await wait_all_tasks_blocked()
        assert texts(call.engine) == expected_texts
        nursery.cancel_scope.cancel()


async def test_new_settings_flush_earlier_text_and_hold_from_their_own_on() -> None:
    call = ContextRun(FakeEngine(), make_spec(SpeechSettings(temperature=0.5, top_k=9)))
    await call.run(
        "Said before",
        AddText("a", "and said after", SpeechSettings(speaker_id=2, temperature=0.0)),
        " with the same. ",
        AddText("a", "At last", SpeechSettings(top_k=1)),
    )
    assert [
        (
            utterance.text,
            utterance.speaker_id,
            utterance.sampling.temperature,
            utterance.sampling.top_k,
        )
        for utterance in call.engine.utterances
    ] == [
        ("Said before", 0, 0.5, 9),
        ("and said after with the same.", 2, 0.0, 9),
        ("At last", 2, 0.0, 1),
    ]


async def test_repeated_settings_do_not_split_a_sentence() -> None:
    again = SpeechSettings(temperature=0.5)
    call = ContextRun(FakeEngine(), make_spec(again))
    await call.run(AddText("a", "One sen", again), AddText("a", "tence only.", again))
    assert texts(call.engine) == ["One sentence only."]


@pytest.mark.parametrize(("of_settings", "speaker_id"), [(None, 5), (0, 0), (3, 3)])
async def test_the_speaker_id_of_settings_overrides_the_voices(
    of_settings: int | None, speaker_id: int
) -> None:
    spec = make_spec(SpeechSettings(speaker_id=of_settings), speaker_id=5)
    call = ContextRun(FakeEngine(), spec)
    await call.run(ONE)
    assert [utterance.speaker_id for utterance in call.engine.utterances] == [speaker_id]


@pytest.mark.parametrize(
    ("of_settings_ms", "of_order_ms", "max_frames"),
    [
        (None, 2_000, 25),
        (800, 2_000, 10),
        (2_400, 2_000, 30),
        (80, 10_000, 1),
        (159, 10_000, 1),
        (None, 600_000, int(longest_speech_s(ONE.strip()) / FRAME_S)),
        (600_000, 2_000, int(longest_speech_s(ONE.strip()) / FRAME_S)),
    ],
)
async def test_the_frame_budget_is_the_limit_or_what_the_text_can_need(
    of_settings_ms: int | None, of_order_ms: int, max_frames: int
) -> None:
    settings = SpeechSettings(max_audio_len_ms=of_settings_ms)
    call = ContextRun(FakeEngine(), make_spec(settings, max_audio_len_ms=of_order_ms))
    await call.run(ONE)
    assert [utterance.max_frames for utterance in call.engine.utterances] == [max_frames]


@pytest.mark.parametrize(
    ("of_settings_ms", "of_order_ms", "parts"),
    [(None, 10_000, 3), (None, 30_000, 1), (None, 4_999, 1), (10_000, 10_000, 1)],
)
async def test_a_sentence_longer_than_the_servers_cap_is_generated_in_parts(
    of_settings_ms: int | None, of_order_ms: int, parts: int
) -> None:
    settings = SpeechSettings(max_audio_len_ms=of_settings_ms)
    call = ContextRun(FakeEngine(), make_spec(settings, max_audio_len_ms=of_order_ms))
    text = "one two three four, " * 13
    await call.run(text)
    assert len(call.engine.utterances) == parts
    assert " ".join(texts(call.engine)) == text.strip()


async def seeds(settings: SpeechSettings) -> list[int | None]:
    call = ContextRun(FakeEngine(), make_spec(settings))
    await call.run(ONE, ONE, ONE)
    return [utterance.sampling.seed for utterance in call.engine.utterances]


async def test_a_seed_gives_each_sentence_its_own_repeatable_noise() -> None:
    first = await seeds(SpeechSettings(seed=7))
    assert first == await seeds(SpeechSettings(seed=7))
    assert first[0] == 7
    other = await seeds(SpeechSettings(seed=8)) + await seeds(SpeechSettings(seed=2**32 - 1))
    assert len({*first, *other}) == 9


async def test_without_a_seed_no_two_sentences_share_their_noise() -> None:
    assert len({*await seeds(PLAIN), *await seeds(PLAIN)}) == 6


def turns(utterance: Utterance) -> list[tuple[int, str]]:
    return [(turn.speaker_id, turn.text) for turn in utterance.history]


@pytest.mark.parametrize(("history_sentences", "heard"), [(0, []), (1, [TWO]), (2, [ONE, TWO])])
async def test_a_prompt_holds_the_last_sentences_of_its_context(
    history_sentences: int, heard: list[str]
) -> None:
    call = ContextRun(FakeEngine(), config=SpeechConfig(history_sentences=history_sentences))
    await call.run(ONE, TWO, THREE)
    first, second, third = call.engine.utterances
    assert turns(first) == []
    assert turns(second) == ([(0, ONE.strip())] if history_sentences else [])
    assert turns(third) == [(0, text.strip()) for text in heard]
    for turn, utterance in zip(
        third.history, call.engine.utterances[2 - history_sentences :], strict=False
    ):
        expected = np.stack([frame.codes for frame in sine_frames(utterance)])
        np.testing.assert_array_equal(turn.codes, expected)


async def test_the_first_prompt_holds_the_history_of_the_spec() -> None:
    before = [PromptSegment(0, text, np.zeros((2, 4), dtype=np.int16)) for text in ("A.", "B.")]
    told: list[PromptSegment] = []
    spec = replace(make_spec(), history=tuple(before), on_segment=told.append)
    call = ContextRun(FakeEngine(), spec, config=SpeechConfig(history_sentences=1))
    await call.run(ONE, TWO, THREE)
    one, two, three = ((0, text.strip()) for text in (ONE, TWO, THREE))
    assert [turns(utterance) for utterance in call.engine.utterances] == [
        [(0, "A."), (0, "B.")],
        [(0, "B."), one],
        [one, two],
    ]
    assert [(turn.speaker_id, turn.text) for turn in told] == [one, two, three]
    frames = sine_frames(call.engine.utterances[0])
    assert (told[0].codes == np.stack([frame.codes for frame in frames])).all()


async def test_a_capped_sentence_is_remembered_whole(caplog: pytest.LogCaptureFixture) -> None:
    call = ContextRun(FakeEngine(), config=SpeechConfig(history_sentences=3))
    with caplog.at_level(logging.INFO):
        await call.run(
            ONE,
            AddText("a", TWO, SpeechSettings(max_audio_len_ms=240)),
            AddText("a", THREE, SpeechSettings(max_audio_len_ms=10_000)),
        )
    assert [turns(utterance) for utterance in call.engine.utterances] == [
        [],
        [(0, ONE.strip())],
        [(0, ONE.strip()), (0, TWO.strip())],
    ]
    capped = call.engine.utterances[1]
    heard = np.stack([frame.codes for frame in sine_frames(capped)])
    assert len(heard) == 3
    assert (call.engine.utterances[2].history[1].codes == heard).all()
    cut = [
        one
        for one in caplog.records
        if one.getMessage() == "utterance ended early (capped): 3 frames"
    ]
    assert [record.levelno for record in cut] == [logging.INFO], "a cap is the caller's to set"


@pytest.mark.parametrize("end", [EndReason.REPEATING, EndReason.SILENT])
@pytest.mark.parametrize("heard", [0, 1, 17])
async def test_a_runaway_sentence_is_remembered_without_its_window(
    end: EndReason, heard: int
) -> None:
    told: list[PromptSegment] = []
    spec = replace(make_spec(), on_segment=told.append)
    call = ContextRun(FakeEngine(ends={"equals": end}), spec)
    await call.run(f"FRAMES={end.window_frames + heard}. ", TWO)
    first, second = call.engine.utterances
    assert len(sine_frames(first)) == end.window_frames + heard
    assert turns(second) == ([(0, first.text)] if heard else [])
    assert [segment.text for segment in told] == [first.text, second.text][not heard :]
    for segment in second.history:
        assert (segment.codes == np.stack([one.codes for one in sine_frames(first)[:heard]])).all()


async def test_another_speaker_is_not_in_the_prompt() -> None:
    call = ContextRun(FakeEngine(), config=SpeechConfig(history_sentences=3))
    await call.run(
        ONE,
        AddText("a", TWO, SpeechSettings(speaker_id=1)),
        AddText("a", THREE, SpeechSettings(speaker_id=0)),
    )
    assert [turns(utterance) for utterance in call.engine.utterances] == [
        [],
        [],
        [(0, ONE.strip())],
    ]


async def test_a_sentence_has_the_voice_it_names_or_that_of_its_context() -> None:
    spec = replace(make_spec(), prefix_of=lambda voice_id: VoicePrefix(voice_id, ()))
    call = ContextRun(FakeEngine(), spec)
    await call.run(
        ONE,
        AddText("a", TWO, SpeechSettings(speaker_id=1)),
        AddText("a", THREE, SpeechSettings(speaker_id=7, voice_id="bob")),
    )
    utterance = [(one.speaker_id, one.prefix) for one in call.engine.utterances]
    assert utterance == [(0, VoicePrefix("vera", ())), (1, None), (7, VoicePrefix("bob", ()))]


async def test_a_break_is_silence_of_its_length_and_holds_no_slot() -> None:
    call = ContextRun(FakeEngine())
    events = await call.run('<break time="80ms"/>', ONE, "Two <bre", 'ak time="1s"/> and three.')
    assert texts(call.engine) == [ONE.strip(), "Two", "and three."]
    one, two, three = (
        [frame.pcm for frame in sine_frames(utterance)] for utterance in call.engine.utterances
    )
    silence = [np.zeros(FRAME_SAMPLES, dtype=np.int16)]
    assert (
        joined_audio(events)
        == np.concatenate([*silence, *one, *two, *silence * 12, *three]).tobytes()
    )
    assert call.progress.spoken_frames * FRAME_BYTES == len(joined_audio(events))
    assert [turns(utterance) for utterance in call.engine.utterances] == [
        [],
        [(0, ONE.strip())],
        [(0, "Two")],
    ]


@pytest.mark.parametrize(("speed", "frames"), [(0.8, 20), (1.0, 25), (1.2, 30)])
async def test_a_break_lasts_as_long_at_any_speed(speed: float, frames: int) -> None:
    call = ContextRun(FakeEngine(), make_spec(SpeechSettings(speed=speed)))
    await call.run('<break time="2s"/>')
    assert call.progress.spoken_frames == frames
    assert call.progress.spoken_frames * call.spec.frame_s == pytest.approx(2)


async def test_a_break_delays_the_deadline_of_the_next_sentence() -> None:
    call = ContextRun(FakeEngine())
    await call.run(ONE, '<break time="3s"/>', TWO)
    first, second = call.engine.utterances
    assert first.plays_at_s is None
    assert second.plays_at_s is not None
    played_s = FRAME_S * len(sine_frames(first))
    assert second.plays_at_s >= call.begun_s + played_s + 3 - FRAME_S


async def test_numbers_are_normalized_unless_normalization_is_off() -> None:
    call = ContextRun(FakeEngine())
    off = SpeechSettings(normalization="off")
    await call.run("It is $5.20. ", AddText("a", "It is $5.30. ", off))
    assert texts(call.engine) == ["It is five dollars and twenty cents.", "It is $5.30."]


async def test_invalid_markup_fails_the_context_before_any_audio() -> None:
    call = ContextRun(FakeEngine(), make_spec(SpeechSettings(ssml=True)))
    events = await call.run(ONE + "<!DOCTYPE x>")
    assert texts(call.engine) == []
    (last,) = events
    assert isinstance(last, ContextFailed)
    assert isinstance(last.error, InvalidRequest)
    assert last.error.param == "text"


async def test_an_utterance_without_frames_enters_no_history() -> None:
    call = ContextRun(FakeEngine())
    await call.run("FRAMES=0. ", TWO)
    assert [turns(utterance) for utterance in call.engine.utterances] == [[], []]


@pytest.mark.parametrize("stall_timeout_s", [0.5, 10.0])
async def test_a_client_that_stops_reading_fails_the_context(
    autojump_clock: MockClock, stall_timeout_s: float
) -> None:
    call = ContextRun(FakeEngine(), config=SpeechConfig(stall_timeout_s=stall_timeout_s))
    call.add("FRAMES=60")
    call.deltas.close()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.synthesize)
        assert isinstance(await call.outbox.receive(), Audio)
        stalled_at_s = trio.current_time()
        await trio.sleep(stall_timeout_s + 100)
        assert call.engine.open_utterances == 0
        assert call.engine.closed_at_s == [pytest.approx(stalled_at_s + stall_timeout_s)]
        last = await call.outbox.receive()
        with pytest.raises(trio.EndOfChannel):
            await call.outbox.receive()
    assert isinstance(last, ContextFailed)
    assert isinstance(last.error, ClientStalled)
    assert last.error.timeout_s == stall_timeout_s
    assert call.count("csm_cancels_total", reason="stalled") == 1
    assert call.count("csm_failures_total", error="ClientStalled") == 1


async def test_a_client_just_below_the_stall_timeout_gets_all_audio(
    autojump_clock: MockClock,
) -> None:
    call = ContextRun(FakeEngine(), config=SpeechConfig(stall_timeout_s=10.0))
    events = await call.run("FRAMES=60", pace_s=9.9)
    assert events[-1] == ContextDone("a")
    assert joined_audio(events) == encoded(call.engine.utterances)


async def test_a_slow_engine_is_not_a_stalled_client(autojump_clock: MockClock) -> None:
    call = ContextRun(FakeEngine(frame_delay_s=60.0), config=SpeechConfig(stall_timeout_s=0.1))
    assert (await call.run(ONE))[-1] == ContextDone("a")


async def test_a_cancelled_context_sends_nothing_more(autojump_clock: MockClock) -> None:
    call = ContextRun(FakeEngine(frame_delay_s=1.0))
    call.add(ONE, TWO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.synthesize)
        assert isinstance(await call.outbox.receive(), Audio)
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.EndOfChannel):
        call.outbox.receive_nowait()
    with pytest.raises(trio.BrokenResourceError):
        call.add(THREE)
    assert call.engine.open_utterances == 0
    assert call.count("csm_cancels_total", reason="hang_up") == 1


async def test_a_cancel_is_counted_under_the_reason_at_its_time() -> None:
    call = ContextRun(FakeEngine())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.synthesize)
        await wait_all_tasks_blocked()
        call.progress.cancel_reason = lambda: "shutdown"
        nursery.cancel_scope.cancel()
    assert call.count("csm_cancels_total", reason="shutdown") == 1
    assert call.count("csm_cancels_total", reason="hang_up") == 0


@pytest.mark.parametrize("error", [EngineFailed(), TextTooLong(5)])
async def test_a_failure_is_the_last_event(error: EngineFailed | TextTooLong) -> None:
    call = ContextRun(FakeEngine(errors={"second": error}))
    events = await call.run(ONE, TWO, THREE)
    assert events[-1] == ContextFailed("a", error)
    assert all(isinstance(event, Audio) for event in events[:-1])
    assert encoded(call.engine.utterances[:1]).startswith(joined_audio(events))
    assert texts(call.engine) == [ONE.strip(), TWO.strip()]
    assert call.engine.open_utterances == 0
    assert call.count("csm_failures_total", error=type(error).__name__) == 1
    assert call.count("csm_cancels_total", reason="hang_up") == 0


async def test_text_for_a_failed_context_is_rejected_and_not_stored() -> None:
    call = ContextRun(FakeEngine(errors={"first": EngineFailed()}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.synthesize)
        call.add(ONE, Flush("a"))
        assert isinstance(await call.outbox.receive(), ContextFailed)
        with pytest.raises(trio.BrokenResourceError):
            call.add(TWO)


async def test_a_context_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await ContextRun(FakeEngine(), make_spec(audio_format="ulaw_8000")).run("FRAMES=25")
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith("context done: voice=vera format=ulaw_8000 audio=2.00s ")
    marks = [mark.partition("=")[0] for mark in line.split()[5:]]
    assert marks == ["segmented", "admitted", "first_frame", "first_chunk"]


async def test_the_times_of_chunks_are_counted() -> None:
    call = ContextRun(FakeEngine())
    events = await call.run(ONE, TWO)
    assert call.count("csm_ttfa_seconds_count") == 1
    assert call.count("csm_chunk_gap_seconds_count") == len(events) - 2


def test_a_backlog_counts_only_waiting_text() -> None:
    backlog = Backlog(10)
    for _ in range(5):
        backlog.add(6)
        backlog.add(4)
        backlog.remove(6)
        backlog.remove(4)
    backlog.add(10)
    with pytest.raises(TextTooLong) as caught:
        backlog.add(1)
    assert caught.value.limit_chars == 10


def test_empty_deltas_fill_a_backlog_too() -> None:
    backlog = Backlog(3)
    for _ in range(3):
        backlog.add(0)
    with pytest.raises(TextTooLong):
        backlog.add(0)
