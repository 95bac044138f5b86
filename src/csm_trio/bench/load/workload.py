"""The workload of a load test: random arrival times and turns of every call, from a seed.

Pure: a workload and a seed in, arrivals and turns out; knows no socket and no clock.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from csm_trio.audio.formats import AudioFormat

Arrivals = Literal["poisson", "fixed", "together"]

TEXTS: tuple[str, ...] = (
    "Good morning, and thank you for calling. How can I help you today?",
    "I see. Let me look that up for you, it will only take a moment.",
    "Could you give me your full name and the date you placed the order, please?",
    "I am sorry to hear that. The driver was held up, but he is on his way to you now.",
    "Your table is booked for two people tomorrow evening at eight. Is there anything else?",
    "The doctor is free on Friday afternoon. Would three o'clock suit you?",
    "All right.",
    "Yes, we are open every day until ten in the evening, and on Sundays until six.",
    "Would you like to speak with someone in our sales office? I can put you through right away.",
    "I can send you a message with the address. Is this the best number to reach you?",
    "Can you tell me what happened with your car? Take your time, I am listening.",
    "We will call you back as soon as the work is done. It should not take more than a day.",
    "Your payment has been received, thank you. Nothing more is due until next month.",
    "It looks like the train from the city is running twenty minutes late this morning.",
    "Please say yes if that is right, or no if it is not.",
    "The weather will be warm and dry for the whole week, so you will not need a coat.",
    "There is a small problem with the number you gave me. Could you read it to me once more?",
    "Of course! I have changed your appointment to Monday at nine. You will get a note by mail.",
    "Let me repeat that to be sure. You want two large boxes, and both should go to your office.",
    "The technician will come between eight and noon. Someone should be at home to let him in.",
    "I understand. In that case the best thing is to turn it off, wait a minute, and try again.",
    "No, that is not a problem at all.",
    "You can return it within thirty days, as long as it is in the box it came in.",
    "Your room is ready from two in the afternoon, and breakfast is served from seven to ten.",
    "One moment, please.",
    "Our menu has changed a little. We no longer have the soup, but the fish is very good today.",
    "I have found your account. Before we go on, could you tell me the last four digits?",
    "That will be forty five dollars in total. Would you like to pay now, or when you come in?",
    "The flight leaves at half past six from gate twelve, and boarding starts thirty minutes before"
    " that. Please have your passport ready, and keep small bags with you at all times.",
    "Thank you for calling, and have a wonderful day. Goodbye!",
)
"""Texts of phone bots, one to three sentences each, 2 to 31 words, nothing to normalize."""

SPEECH_S_PER_WORD = 0.3
"""Seconds per word of a quick speaker; places most barge-ins within the audio of their turn."""

_WORD = re.compile(r"\S+\s*")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s*$")
_TITLES = frozenset({"mr.", "mrs.", "ms.", "dr.", "st."})


@dataclass(frozen=True, slots=True)
class Workload:
    """Settings of a load test; equal workloads have equal schedules.

    `words_per_s` is how fast a turn's text is written, 0 being all at once. `turn_pause_s` is the
    mean of the exponential pause between turns, `barge_in` the share of turns that the caller
    interrupts. `base_url` is a ws: or wss: address.
    """

    base_url: str
    formats: tuple[AudioFormat, ...]
    voice_id: str = "default"
    api_key: str | None = field(default=None, repr=False)
    texts: tuple[str, ...] = TEXTS
    words_per_s: float = 20.0
    turn_pause_s: float = 1.0
    barge_in: float = 0.2
    arrivals: Arrivals = "poisson"
    ramp_s: float = 2.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of the bot, the caller's barge-in time, if any, and the pause after the turn."""

    text: str
    interrupt_after_s: float | None
    pause_s: float


def arrival_times_s(workload: Workload, calls: int) -> list[float]:
    """Return the start times of `calls`, in seconds from the start of the point, ascending.

    `poisson` is a Poisson process conditioned on `calls` events within the ramp: sorted uniform
    times.
    """
    ramp_s = workload.ramp_s
    match workload.arrivals:
        case "together":
            return [0.0] * calls
        case "fixed":
            return [ramp_s * index / calls for index in range(calls)]
        case "poisson":
            rng = random.Random(f"{workload.seed} arrivals {calls}")
            return sorted(rng.uniform(0, ramp_s) for _ in range(calls))


def turns(workload: Workload, calls: int, index: int) -> Iterator[Turn]:
    """Yield the turns of call `index` out of `calls`, without end."""
    rng = random.Random(f"{workload.seed} call {calls} {index}")
    while True:
        text = rng.choice(workload.texts)
        # All three are always drawn, so that no setting shifts the random numbers after them.
        interrupts, moment, pause = rng.random(), rng.random(), rng.expovariate(1.0)
        speech_s = SPEECH_S_PER_WORD * len(text.split())
        yield Turn(
            text,
            moment * speech_s if interrupts < workload.barge_in else None,
            pause * workload.turn_pause_s,
        )


def request_times_s(rate_hz: float, seed: int) -> Iterator[float]:
    """Yield the start times of a Poisson process of `rate_hz`, in seconds from 0, without end."""
    rng = random.Random(f"{seed} requests {rate_hz:g}")
    at_s = 0.0
    while True:
        at_s += rng.expovariate(rate_hz)
        yield at_s


def request_turn(workload: Workload, rate_hz: float, seed: int, index: int) -> Turn:
    """Return the one turn of request `index`, which is not interrupted."""
    rng = random.Random(f"{seed} request {rate_hz:g} {index}")
    return Turn(rng.choice(workload.texts), None, 0.0)


def format_of(workload: Workload, index: int) -> AudioFormat:
    """Return the format of call `index`: formats are assigned in rotation."""
    return workload.formats[index % len(workload.formats)]


def split_words(text: str) -> tuple[list[str], int]:
    """Split a text into deltas as a writer sends them, each word with the space after it.

    Also returns the index of the delta that completes the first sentence: the first word that
    ends in `.`, `!` or `?` and is no title, else the last.
    """
    words = _WORD.findall(text)
    for index, word in enumerate(words):
        if _SENTENCE_END.search(word) and word.strip().lower() not in _TITLES:
            return words, index
    return words, len(words) - 1
