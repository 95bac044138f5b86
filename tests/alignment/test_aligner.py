"""An alignment covers its text and its audio exactly and never goes back, for any audio."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from csm_trio.alignment.aligner import Aligner
from csm_trio.alignment.alignment import Aligned, Alignment, join, whole_words
from csm_trio.alignment.voice_profiles import VoiceProfile, VoiceProfiles
from csm_trio.text.spans import Run, SpokenText, TracedText

FRAME = 1_920
FRAME_MS = 80
PEAK = 12_000.0

Pcm = NDArray[np.int16]


def as_written(text: str) -> SpokenText:
    return TracedText(text).finish()


def silence(ms: int) -> Pcm:
    return np.zeros(24 * ms, dtype=np.int16)


def voice(ms: int, hz: float = 140.0) -> Pcm:
    """Return a loud low-frequency tone, which the acoustic model takes for a vowel."""
    wave: Pcm = (PEAK * np.sin(2 * np.pi * hz / 24_000 * np.arange(24 * ms))).astype(np.int16)
    return wave


@dataclass
class Collected:
    """The parts that `take` returned, joined as by a client that adds up durations."""

    written: str = ""
    spoken: str = ""
    starts_ms: list[int] = field(default_factory=list)
    clock_ms: int = 0

    def add(self, part: Aligned | None) -> None:
        if part is None:
            return
        assert part.from_ms == self.clock_ms
        assert 0 <= part.late_ms <= part.written.end_ms
        for alignment in (part.written, part.spoken):
            assert_tiles(alignment)
            assert_tiles(alignment.since(part.late_ms))
            assert alignment.end_ms == alignment.since(part.late_ms).end_ms == part.written.end_ms
        self.written += "".join(part.written.chars)
        self.spoken += "".join(part.spoken.chars)
        self.starts_ms += part.written.shifted(part.from_ms).starts_ms
        self.clock_ms += part.written.end_ms


def assert_tiles(alignment: Alignment) -> None:
    ends = [
        start + duration
        for start, duration in zip(alignment.starts_ms, alignment.durations_ms, strict=True)
    ]
    assert len(alignment.chars) == len(ends) > 0
    assert [0, *ends[:-1]] == list(alignment.starts_ms)
    assert all(type(ms) is int and ms >= 0 for ms in alignment.durations_ms)


def advance(
    text: str | SpokenText,
    pcm: Pcm,
    *,
    messages: Sequence[int] = (FRAME,),
    profiles: VoiceProfiles | None = None,
    attended_chars: Sequence[float | None] = (),
) -> Collected:
    """Align one sentence whose audio is fed in `messages` samples at a time, cyclically."""
    spoken = as_written(text) if isinstance(text, str) else text
    aligner = Aligner(VoiceProfiles() if profiles is None else profiles)
    aligner.begin(spoken, "a voice")
    collected = Collected()
    at = message = 0
    while at < len(pcm):
        size = messages[message % len(messages)]
        aligner.feed(
            pcm[at : at + size], attended_chars[message] if message < len(attended_chars) else None
        )
        collected.add(aligner.take())
        at, message = at + size, message + 1
    aligner.end()
    collected.add(aligner.take())
    assert aligner.take() is None
    return collected


def sounds() -> st.SearchStrategy[Pcm]:
    """Frames of silence, voice and noise, in any order."""
    noise = np.random.default_rng(1).normal(0, 2_000, FRAME).astype(np.int16)
    frame = st.sampled_from([silence(FRAME_MS), voice(FRAME_MS), noise])
    return st.lists(frame, max_size=40).map(
        lambda frames: np.concatenate([*frames, np.empty(0, dtype=np.int16)])
    )


TEXTS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(["", "a", ".", "Hi there.", "No, wait: it's 42%!", "\n Élan vital… 好的。"]),
)


@settings(deadline=None, max_examples=150)
@given(TEXTS, sounds(), st.lists(st.integers(1, 7_000), min_size=1, max_size=5))
def test_an_alignment_covers_text_and_audio_exactly_for_any_division(
    text: str, pcm: Pcm, messages: list[int]
) -> None:
    collected = advance(text, pcm, messages=messages)
    assert collected.written == collected.spoken == (text if text[-1:].isspace() else text + " ")
    assert collected.clock_ms == round(len(pcm) / 24)
    assert collected.starts_ms == sorted(collected.starts_ms)


@settings(deadline=None, max_examples=60)
@given(TEXTS, sounds(), st.lists(st.one_of(st.none(), st.floats(0, 80)), max_size=40))
def test_an_alignment_covers_the_audio_for_any_attended_character(
    text: str, pcm: Pcm, attended_chars: list[float | None]
) -> None:
    collected = advance(text, pcm, attended_chars=attended_chars)
    assert collected.clock_ms == len(pcm) // 24
    assert collected.starts_ms == sorted(collected.starts_ms)


def test_word_starts_do_not_depend_on_how_the_audio_is_divided() -> None:
    text = "One two three four."
    pcm = np.concatenate([silence(80), voice(1_520), silence(160)])
    once, often = advance(text, pcm, messages=[len(pcm)]), advance(text, pcm, messages=[480])
    words = [at for at in range(1, len(text)) if text[at - 1] == " "]
    assert [once.starts_ms[at] for at in words] == [often.starts_ms[at] for at in words]


def test_characters_are_returned_with_the_audio_in_which_they_begin() -> None:
    aligner = Aligner(VoiceProfiles())
    aligner.begin(as_written("Anyone there?"), "a voice")
    counts = [0]
    for frame in range(14):
        aligner.feed(voice(FRAME_MS))
        part = aligner.take()
        if part is not None:
            assert part.from_ms + part.written.end_ms == (frame + 1) * FRAME_MS
        counts.append(counts[-1] + (len(part.written.chars) if part else 0))
    # The tone is even, so the characters arrive evenly and not all at the end.
    assert counts[7] in range(4, 10)
    assert counts[14] >= len("Anyone there")


def test_the_word_after_a_comma_starts_at_the_end_of_the_pause() -> None:
    text = "Oh no, I am so sorry."
    pcm = np.concatenate([silence(80), voice(480), silence(640), voice(1_200), silence(160)])
    collected = advance(text, pcm)
    assert 460 <= collected.starts_ms[text.index(",")] <= 700
    assert 1_180 <= collected.starts_ms[text.index("I")] <= 1_320


def test_silence_at_the_end_belongs_to_the_last_space() -> None:
    collected = advance("Good.", np.concatenate([voice(400), silence(800)]))
    assert collected.starts_ms[-1] == collected.starts_ms[-2] or collected.starts_ms[-1] <= 1_200
    assert collected.starts_ms[-2] <= 560


def test_characters_that_were_not_reached_begin_at_the_end() -> None:
    text = "This is far more text than one could say in so short a time."
    collected = advance(text, voice(240))
    assert collected.starts_ms[-20:] == [240] * 20


def test_written_characters_get_the_times_of_their_spoken_form() -> None:
    spoken = SpokenText("five dollars now", "$5 now", (Run(0, 12, 0, 2), Run(12, 16, 2, 6)))
    pcm = np.concatenate([silence(80), voice(1_280), silence(80)])
    collected = advance(spoken, pcm)
    assert collected.written == "$5 now "
    assert collected.spoken == "five dollars now "
    assert collected.starts_ms[3] - collected.starts_ms[0] > 600


def test_the_attended_character_moves_the_position() -> None:
    text = "All this is said in one breath and never pauses"
    pcm = voice(800)
    slow = advance(text, pcm, attended_chars=[2.0] * 10)
    fast = advance(text, pcm, attended_chars=[4.0 * (message + 1) for message in range(10)])
    tenth = text.index("one")
    assert fast.starts_ms[tenth] < 700
    assert slow.starts_ms[tenth] == 800


def test_sentences_follow_each_other_on_one_clock() -> None:
    aligner, collected = Aligner(VoiceProfiles()), Collected()
    for text in ("First.", "Second one."):
        aligner.begin(as_written(text), "a voice")
        for _ in range(10):
            aligner.feed(voice(FRAME_MS))
            collected.add(aligner.take())
        aligner.end()
    collected.add(aligner.take())
    assert collected.written == "First. Second one. "
    assert collected.clock_ms == 1_600
    assert collected.starts_ms[len("First. ")] >= 800 - FRAME_MS


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.booleans()), max_size=6))
def test_sentences_with_and_without_a_spoken_form_follow_each_other(
    sentences: list[tuple[bool, int, bool]],
) -> None:
    price = SpokenText("five dollars now", "$5 now", (Run(0, 12, 0, 2), Run(12, 16, 2, 6)))
    aligner, collected = Aligner(VoiceProfiles()), Collected()
    for differs, frames, taken in sentences:
        aligner.begin(price if differs else as_written("Come now."), "a voice")
        for _ in range(frames):
            aligner.feed(voice(FRAME_MS))
            if taken:
                collected.add(aligner.take())
        aligner.end()
        if taken:
            collected.add(aligner.take())
    collected.add(aligner.take())
    kinds = [differs for differs, _, _ in sentences]
    assert collected.written == "".join("$5 now " if one else "Come now. " for one in kinds)
    assert collected.spoken == "".join(
        "five dollars now " if one else "Come now. " for one in kinds
    )


def test_a_tempo_stage_scales_the_times() -> None:
    collected = Collected()
    aligner = Aligner(VoiceProfiles(), time_scale=1.25)
    aligner.begin(as_written("Slowly now."), "a voice")
    for _ in range(10):
        aligner.feed(voice(FRAME_MS))
        collected.add(aligner.take())
    aligner.end()
    collected.add(aligner.take())
    assert collected.clock_ms == 1_000


def test_a_slow_voice_gets_a_profile_with_a_slower_pace() -> None:
    profiles = VoiceProfiles()
    text = "We never learned a rule, one or another."
    for _ in range(8):
        advance(text, np.concatenate([silence(80), voice(3_600), silence(240)]), profiles=profiles)
    assert profiles.of("a voice").pace > 1.1
    assert profiles.of("another voice").pace == 1.0


def test_an_implausible_pace_does_not_change_the_profile() -> None:
    assert VoiceProfile(1.2).after(9.0, 66.0) == VoiceProfile(1.2, 66.0)
    assert VoiceProfile(1.2).after(None, 66.0) == VoiceProfile(1.2, 66.0)


def test_voice_profiles_keep_at_most_their_capacity() -> None:
    profiles = VoiceProfiles(capacity=3)
    for name in "abcada":
        profiles.keep(name, VoiceProfile(1.5))
    assert len(profiles) == 3
    assert [profiles.of(name).pace for name in "abcd"] == [1.5, 1.0, 1.5, 1.5]


def test_a_pause_between_sentences_belongs_to_the_next_part() -> None:
    aligner, collected = Aligner(VoiceProfiles()), Collected()
    for text in ("One.", "Two."):
        aligner.begin(as_written(text), "a voice")
        aligner.feed(voice(480))
        aligner.end()
        collected.add(aligner.take())
        aligner.feed(silence(1_000))
        assert aligner.take() is None
    assert collected.written == "One. Two. "
    assert collected.clock_ms == 1_960
    assert collected.starts_ms[5] == 480  # tiles leave no gap
    assert collected.starts_ms[6] > 1_400


def test_late_ms_counts_the_messages_that_started_no_character() -> None:
    aligner = Aligner(VoiceProfiles())
    aligner.begin(as_written("One. "), "a voice")
    aligner.feed(voice(480))
    aligner.end()
    assert aligner.take() is not None
    aligner.begin(as_written("Two."), "a voice")
    for _ in range(3):
        aligner.feed(silence(80))
        aligner.take()
    aligner.feed(voice(80))
    aligner.end()
    part = aligner.take()
    assert part is not None
    assert part.late_ms == 800 - 80 - part.from_ms
    assert part.written.since(part.late_ms).starts_ms[-1] <= 80


def test_since_keeps_the_end_by_extending_the_last_character() -> None:
    whole = Alignment(("a", "b", "c"), (0, 50, 120), (50, 70, 40))
    assert whole.since(0) == whole
    assert whole.since(100) == Alignment(("a", "b", "c"), (0, 0, 20), (0, 20, 140))


def test_join_returns_one_part() -> None:
    aligner, parts = Aligner(VoiceProfiles()), []
    aligner.begin(as_written("Well, well."), "a voice")
    for _ in range(9):
        aligner.feed(voice(FRAME_MS))
        parts.append(aligner.take())
    aligner.end()
    parts.append(aligner.take())
    whole = join([part for part in parts if part is not None])
    assert whole is not None
    assert whole.from_ms == 0
    assert "".join(whole.written.chars) == "".join(whole.spoken.chars) == "Well, well. "
    assert_tiles(whole.written)
    assert whole.spoken.end_ms == 720
    assert join([]) is None


@settings(deadline=None, max_examples=100)
@given(TEXTS, sounds(), st.lists(st.integers(1, 7_000), min_size=1, max_size=5))
def test_whole_words_are_the_same_characters_at_the_same_times(
    text: str, pcm: Pcm, messages: list[int]
) -> None:
    aligner = Aligner(VoiceProfiles())
    aligner.begin(as_written(text), "a voice")
    original: list[Aligned] = []
    words: list[Aligned] = []
    begun: Aligned | None = None

    def note() -> None:
        nonlocal begun
        part = aligner.take()
        original.extend([part] if part else [])
        parts = [one for one in (begun, part) if one]
        assert all(one.written is one.spoken for one in parts)
        apart = whole_words([replace(one, spoken=replace(one.spoken)) for one in parts])
        whole, begun = whole_words(parts)
        assert (whole, begun) == apart
        words.extend([whole] if whole else [])

    at = message = 0
    while at < len(pcm):
        size = messages[message % len(messages)]
        aligner.feed(pcm[at : at + size])
        note()
        at, message = at + size, message + 1
    aligner.end()
    note()
    assert begun is None
    assert all(part.written.chars[-1].isspace() for part in words)
    for part in words:
        assert_tiles(part.written)
        assert_tiles(part.spoken)
    assert join(words) == join(original)


def test_a_word_that_may_go_on_is_held_back() -> None:
    def part(text: str, from_ms: int) -> Aligned:
        alignment = Alignment(tuple(text), tuple(range(0, 10 * len(text), 10)), (10,) * len(text))
        return Aligned(alignment, alignment, from_ms)

    whole, begun = whole_words([part("Than", 0), part("k y", 40)])
    assert (whole, begun) == (part("Thank ", 0), part("y", 60))
    assert whole_words([part("y", 60)]) == (None, part("y", 60))
    assert whole_words([part("y", 60), part("ou. ", 70)]) == (part("you. ", 60), None)
    assert whole_words([]) == (None, None)
