"""What a sentence hears of those before it."""

import numpy as np

from csm_trio.engine.utterance import PromptSegment
from csm_trio.pipeline.prompt_history import PromptHistory


def turn(speaker_id: int, text: str) -> PromptSegment:
    return PromptSegment(speaker_id, text, np.zeros((1, 4), dtype=np.int16))


def generated(history: PromptHistory, speaker_id: int, *, others: bool) -> list[str]:
    return [one.text for one in history.prompt_for(speaker_id, others=others)]


def test_each_speaker_keeps_its_own_last_turns_in_order() -> None:
    history = PromptHistory(2)
    for speaker_id, text in [(0, "a"), (1, "b"), (0, "c"), (0, "d"), (1, "e"), (2, "f")]:
        history.add(turn(speaker_id, text))
    assert generated(history, 0, others=False) == ["c", "d"]
    assert generated(history, 1, others=False) == ["b", "e"]
    assert generated(history, 0, others=True) == ["b", "c", "d", "e", "f"]
    assert generated(history, 9, others=False) == []


def test_segments_of_the_context_replace_those_before_it() -> None:
    history = PromptHistory(1, before=[turn(0, "a"), turn(0, "b")])
    assert generated(history, 0, others=False) == ["a", "b"]
    history.add(turn(0, "c"))
    assert generated(history, 0, others=False) == ["b", "c"]


def test_without_history_the_prompt_is_empty() -> None:
    history = PromptHistory(0)
    history.add(turn(0, "a"))
    assert generated(history, 0, others=True) == []
