"""Where to cut a recording that is too long: at a pause between two sentences of its transcript.

The module must not know text: sentences are the seconds that an ordinary voice needs for them.
"""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from csm_trio.audio.speech_activity import HOP_S, Pause, SpeechActivity

KEPT_PAUSE_FRAMES = 15
"""Frames of the pause that are kept, at most: 150 ms."""

_MIN_PAUSE_S = 0.15
# The search takes time by the product of both, so each is bounded.
_MAX_PAUSES, _MAX_GROUPS = 200, 150
_MIN_GROUP_S = 1.0
_MAX_RUN_TOGETHER = 3  # groups that a speaker may speak without a pause between them
_RUN_TOGETHER_COST = 0.1
_PAUSE_GAIN_PER_S, _LONGEST_GAINING_PAUSE_S = 0.5, 0.6
_MIN_STRETCH_S = 0.2
_MAX_DEVIATION_S, _MAX_DEVIATION_SHARE = 0.5, 0.1


def find_cut(
    activity: SpeechActivity, sentences_s: Sequence[float], max_s: float
) -> tuple[int, int] | None:
    """Return how many frames and how many sentences to keep; None where no end fits a pause.

    It is the last sentence end within `max_s`. Sentences are matched with the stretches between
    pauses all at once, so that each is about as long as it should be and ends at a long pause. A
    match is dropped where its share of the speech is far from its share of the transcript.
    """
    pauses = _longest_pauses(activity)
    ends = _group_ends(sentences_s)
    before_s = np.concatenate([[0.0], list(accumulate(sentences_s))])
    # Sentences in the seconds of this voice.
    before_s *= activity.spoken_s[-1] / before_s[-1]
    found: tuple[int, int] | None = None
    for pause, end in _match(activity, pauses, before_s[[0, *ends]]):
        n_frames = min(pause.start + KEPT_PAUSE_FRAMES, (pause.start + pause.end) // 2)
        expected_s = before_s[ends[end]]
        deviation_s = abs(activity.spoken_s[pause.start] - expected_s)
        near = deviation_s <= _MAX_DEVIATION_S + _MAX_DEVIATION_SHARE * expected_s
        if near and n_frames * HOP_S <= max_s:
            found = n_frames, ends[end]
    return found


def _longest_pauses(activity: SpeechActivity) -> list[Pause]:
    long_enough = [pause for pause in activity.pauses if pause.duration_s >= _MIN_PAUSE_S]
    longest = sorted(long_enough, key=lambda pause: pause.duration_s)[-_MAX_PAUSES:]
    return sorted(longest, key=lambda pause: pause.start)


def _group_ends(sentences_s: Sequence[float]) -> list[int]:
    """Return the ends of groups of sentences, as numbers of sentences; short ones stay together."""
    min_s = max(_MIN_GROUP_S, sum(sentences_s) / _MAX_GROUPS)
    ends: list[int] = []
    group_s = 0.0
    for index, sentence_s in enumerate(sentences_s):
        group_s += sentence_s
        if group_s >= min_s:
            ends.append(index + 1)
            group_s = 0.0
    return [*ends[:-1], len(sentences_s)]


def _match(
    activity: SpeechActivity, pauses: list[Pause], before_s: NDArray[np.float64]
) -> list[tuple[Pause, int]]:
    """Return the pauses that end groups, and those groups' indices, in order.

    `before_s` [groups + 1] is the expected speech before each group. The sum over the stretches of
    log(duration / expected duration)^2, less a gain for long pauses, is the least possible.
    """
    spoken_s, n_groups = activity.spoken_s, len(before_s) - 1
    # Nodes: the start, the pauses, the end. A stretch goes from one node to a later one.
    begins_s = np.array([0.0, *(spoken_s[pause.end] for pause in pauses), spoken_s[-1]])
    ends_s = np.array([0.0, *(spoken_s[pause.start] for pause in pauses), spoken_s[-1]])
    gaining_s = [min(pause.duration_s, _LONGEST_GAINING_PAUSE_S) for pause in pauses]
    gains = _PAUSE_GAIN_PER_S * np.array([0.0, *gaining_s, 0.0])
    stretches_s = ends_s[None, :] - begins_s[:, None]
    possible = stretches_s >= _MIN_STRETCH_S
    logs = np.log(np.where(possible, stretches_s, 1.0))

    costs = np.full((n_groups + 1, len(ends_s)), np.inf)  # the least, of so many groups to a node
    costs[0, 0] = 0.0
    steps: dict[tuple[int, int], tuple[int, int]] = {}  # the groups and the node before
    for group in range(1, n_groups + 1):
        for together in range(1, min(_MAX_RUN_TOGETHER, group) + 1):
            expected_s = before_s[group] - before_s[group - together]
            misfits = np.where(possible, (logs - np.log(expected_s)) ** 2, np.inf)
            totals = costs[group - together][:, None] + misfits
            best = totals.min(axis=0) + _RUN_TOGETHER_COST * (together - 1) - gains
            origins = totals.argmin(axis=0)
            for node in np.flatnonzero(best < costs[group]).tolist():
                steps[group, node] = group - together, int(origins[node])
            costs[group] = np.minimum(costs[group], best)

    found: list[tuple[Pause, int]] = []
    at = steps.get((n_groups, len(ends_s) - 1))
    while at is not None and at[0] > 0:
        group, node = at
        found.append((pauses[node - 1], group - 1))
        at = steps[at]
    return found[::-1]
