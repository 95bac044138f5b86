"""Whatever is heard, an alignment covers its text and its audio exactly, and never goes back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from csm_trio.alignment.aligner import Aligner
from csm_trio.alignment.alignment import Aligned, Alignment, joined, whole_words
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
    """Return what is loud and dark, as vowels are."""
    wave: Pcm = (PEAK * np.sin(2 * np.pi * hz / 24_000 * np.arange(24 * ms))).astype(np.int16)
    return wave


@dataclass
class Heard:
    """What `take` returned, put together as a client does who adds up spans."""

    written: str = ""
    spoken: str = ""
    starts_ms: list[int] = field(default_factory=list)
    clock_ms: int = 0

    def note(self, piece: Aligned | None) -> None:
        if piece is None:
            return
        assert piece.from_ms == self.clock_ms
        assert 0 <= piece.late_ms <= piece.written.end_ms
        for alignment in (piece.written, piece.spoken):
            assert_tiles(alignment)
            assert_tiles(alignment.since(piece.late_ms))
            assert alignment.end_ms == alignment.since(piece.late_ms).end_ms == piece.written.end_ms
        self.written += "".join(piece.written.chars)
        self.spoken += "".join(piece.spoken.chars)
        self.starts_ms += piece.written.shifted(piece.from_ms).starts_ms
        self.clock_ms += piece.written.end_ms


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
) -> Heard:
    """Align one sentence whose audio is fed in pieces of so many samples, over and over."""
    spoken = as_written(text) if isinstance(text, str) else text
    aligner = Aligner(VoiceProfiles() if profiles is None else profiles)
    aligner.begin(spoken, "a voice")
    heard = Heard()
    at = turn = 0
    while at < len(pcm):
        size = messages[turn % len(messages)]
        aligner.feed(
            pcm[at : at + size], attended_chars[turn] if turn < len(attended_chars) else None
        )
        heard.note(aligner.take())
        at, turn = at + size, turn + 1
    aligner.end()
    heard.note(aligner.take())
    assert aligner.take() is None
    return heard


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
def test_it_covers_text_and_audio_exactly_however_they_are_cut(
    text: str, pcm: Pcm, messages: list[int]
) -> None:
    heard = advance(text, pcm, messages=messages)
    assert heard.written == heard.spoken == (text if text[-1:].isspace() else text + " ")
    assert heard.clock_ms == round(len(pcm) / 24)
    assert heard.starts_ms == sorted(heard.starts_ms)


@settings(deadline=None, max_examples=60)
@given(TEXTS, sounds(), st.lists(st.one_of(st.none(), st.floats(0, 80)), max_size=40))
def test_it_does_so_wherever_the_model_says_it_looks(
    text: str, pcm: Pcm, attended_chars: list[float | None]
) -> None:
    heard = advance(text, pcm, attended_chars=attended_chars)
    assert heard.clock_ms == len(pcm) // 24
    assert heard.starts_ms == sorted(heard.starts_ms)


def test_words_start_at_the_same_time_however_the_audio_is_cut() -> None:
    text = "One two three four."
    pcm = np.concatenate([silence(80), voice(1_520), silence(160)])
    once, often = advance(text, pcm, messages=[len(pcm)]), advance(text, pcm, messages=[480])
    words = [at for at in range(1, len(text)) if text[at - 1] == " "]
    assert [once.starts_ms[at] for at in words] == [often.starts_ms[at] for at in words]


def test_characters_come_with_the_audio_they_begin_in() -> None:
    aligner = Aligner(VoiceProfiles())
    aligner.begin(as_written("Anyone there?"), "a voice")
    come = [0]
    for frame in range(14):
        aligner.feed(voice(FRAME_MS))
        piece = aligner.take()
        if piece is not None:
            assert piece.from_ms + piece.written.end_ms == (frame + 1) * FRAME_MS
        come.append(come[-1] + (len(piece.written.chars) if piece else 0))
    # It speaks evenly, so the characters come evenly: none of them in a heap at the end.
    assert come[7] in range(4, 10)
    assert come[14] >= len("Anyone there")


def test_what_follows_a_comma_starts_when_the_pause_is_over() -> None:
    text = "Oh no, I am so sorry."
    pcm = np.concatenate([silence(80), voice(480), silence(640), voice(1_200), silence(160)])
    heard = advance(text, pcm)
    assert 460 <= heard.starts_ms[text.index(",")] <= 700
    assert 1_180 <= heard.starts_ms[text.index("I")] <= 1_320


def test_silence_at_the_end_belongs_to_the_last_space() -> None:
    heard = advance("Good.", np.concatenate([voice(400), silence(800)]))
    assert heard.starts_ms[-1] == heard.starts_ms[-2] or heard.starts_ms[-1] <= 1_200
    assert heard.starts_ms[-2] <= 560


def test_what_was_not_reached_begins_at_the_end() -> None:
    text = "This is far more text than one could say in so short a time."
    heard = advance(text, voice(240))
    assert heard.starts_ms[-20:] == [240] * 20


def test_written_characters_follow_what_is_said_of_them() -> None:
    spoken = SpokenText("five dollars now", "$5 now", (Run(0, 12, 0, 2), Run(12, 16, 2, 6)))
    pcm = np.concatenate([silence(80), voice(1_280), silence(80)])
    heard = advance(spoken, pcm)
    assert heard.written == "$5 now "
    assert heard.spoken == "five dollars now "
    assert heard.starts_ms[3] - heard.starts_ms[0] > 600


def test_a_glance_moves_the_place() -> None:
    text = "All this is said in one breath and never pauses"
    pcm = voice(800)
    slow = advance(text, pcm, attended_chars=[2.0] * 10)
    fast = advance(text, pcm, attended_chars=[4.0 * (turn + 1) for turn in range(10)])
    tenth = text.index("one")
    assert fast.starts_ms[tenth] < 700
    assert slow.starts_ms[tenth] == 800


def test_sentences_follow_each_other_on_one_clock() -> None:
    aligner, heard = Aligner(VoiceProfiles()), Heard()
    for text in ("First.", "Second one."):
        aligner.begin(as_written(text), "a voice")
        for _ in range(10):
            aligner.feed(voice(FRAME_MS))
            heard.note(aligner.take())
        aligner.end()
    heard.note(aligner.take())
    assert heard.written == "First. Second one. "
    assert heard.clock_ms == 1_600
    assert heard.starts_ms[len("First. ")] >= 800 - FRAME_MS


def test_a_tempo_stage_scales_the_times() -> None:
    heard = Heard()
    aligner = Aligner(VoiceProfiles(), time_scale=1.25)
    aligner.begin(as_written("Slowly now."), "a voice")
    for _ in range(10):
        aligner.feed(voice(FRAME_MS))
        heard.note(aligner.take())
    aligner.end()
    heard.note(aligner.take())
    assert heard.clock_ms == 1_000


def test_a_slow_voice_is_known_to_be_slow() -> None:
    profiles = VoiceProfiles()
    text = "We never learned a rule, one or another."
    for _ in range(8):
        advance(text, np.concatenate([silence(80), voice(3_600), silence(240)]), profiles=profiles)
    assert profiles.of("a voice").pace > 1.1
    assert profiles.of("another voice").pace == 1.0


def test_a_sentence_that_was_not_spoken_as_written_says_nothing_of_its_voice() -> None:
    assert VoiceProfile(1.2).after(9.0, 66.0) == VoiceProfile(1.2, 66.0)
    assert VoiceProfile(1.2).after(None, 66.0) == VoiceProfile(1.2, 66.0)


def test_only_so_many_voices_are_kept() -> None:
    profiles = VoiceProfiles(capacity=3)
    for name in "abcada":
        profiles.keep(name, VoiceProfile(1.5))
    assert len(profiles) == 3
    assert [profiles.of(name).pace for name in "abcd"] == [1.5, 1.0, 1.5, 1.5]


def test_a_pause_between_sentences_belongs_to_what_comes_next() -> None:
    aligner, heard = Aligner(VoiceProfiles()), Heard()
    for text in ("One.", "Two."):
        aligner.begin(as_written(text), "a voice")
        aligner.feed(voice(480))
        aligner.end()
        heard.note(aligner.take())
        aligner.feed(silence(1_000))
        assert aligner.take() is None
    assert heard.written == "One. Two. "
    assert heard.clock_ms == 1_960
    assert heard.starts_ms[5] == 480  # tiles leave no gap
    assert heard.starts_ms[6] > 1_400


def test_what_begins_after_messages_without_is_counted_from_its_own_message() -> None:
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
    piece = aligner.take()
    assert piece is not None
    assert piece.late_ms == 800 - 80 - piece.from_ms
    assert piece.written.since(piece.late_ms).starts_ms[-1] <= 80


def test_counted_later_the_last_character_makes_up_for_what_is_left_out() -> None:
    whole = Alignment(("a", "b", "c"), (0, 50, 120), (50, 70, 40))
    assert whole.since(0) == whole
    assert whole.since(100) == Alignment(("a", "b", "c"), (0, 0, 20), (0, 20, 140))


def test_pieces_joined_are_one_piece() -> None:
    aligner, pieces = Aligner(VoiceProfiles()), []
    aligner.begin(as_written("Well, well."), "a voice")
    for _ in range(9):
        aligner.feed(voice(FRAME_MS))
        pieces.append(aligner.take())
    aligner.end()
    pieces.append(aligner.take())
    whole = joined([piece for piece in pieces if piece is not None])
    assert whole is not None
    assert whole.from_ms == 0
    assert "".join(whole.written.chars) == "".join(whole.spoken.chars) == "Well, well. "
    assert_tiles(whole.written)
    assert whole.spoken.end_ms == 720
    assert joined([]) is None


@settings(deadline=None, max_examples=100)
@given(TEXTS, sounds(), st.lists(st.integers(1, 7_000), min_size=1, max_size=5))
def test_whole_words_are_the_same_characters_at_the_same_times(
    text: str, pcm: Pcm, messages: list[int]
) -> None:
    aligner = Aligner(VoiceProfiles())
    aligner.begin(as_written(text), "a voice")
    said: list[Aligned] = []
    words: list[Aligned] = []
    begun: Aligned | None = None

    def note() -> None:
        nonlocal begun
        piece = aligner.take()
        said.extend([piece] if piece else [])
        whole, begun = whole_words([one for one in (begun, piece) if one])
        words.extend([whole] if whole else [])

    at = turn = 0
    while at < len(pcm):
        size = messages[turn % len(messages)]
        aligner.feed(pcm[at : at + size])
        note()
        at, turn = at + size, turn + 1
    aligner.end()
    note()
    assert begun is None
    assert all(piece.written.chars[-1].isspace() for piece in words)
    for piece in words:
        assert_tiles(piece.written)
        assert_tiles(piece.spoken)
    assert joined(words) == joined(said)


def test_a_word_that_may_go_on_is_kept_back() -> None:
    def piece(text: str, from_ms: int) -> Aligned:
        alignment = Alignment(tuple(text), tuple(range(0, 10 * len(text), 10)), (10,) * len(text))
        return Aligned(alignment, alignment, from_ms)

    whole, begun = whole_words([piece("Than", 0), piece("k y", 40)])
    assert (whole, begun) == (piece("Thank ", 0), piece("y", 60))
    assert whole_words([piece("y", 60)]) == (None, piece("y", 60))
    assert whole_words([piece("y", 60), piece("ou. ", 70)]) == (piece("you. ", 60), None)
    assert whole_words([]) == (None, None)
