"""Alignments in the vendor's JSON: one form on sockets, one in dialogues, one over REST."""

from csm_trio.alignment.alignment import Alignment

Json = dict[str, object]


def socket_alignment(alignment: Alignment) -> Json:
    """Return what a text-to-speech socket calls an alignment: whole milliseconds."""
    return {
        "chars": alignment.chars,
        "charStartTimesMs": alignment.starts_ms,
        "charDurationsMs": alignment.durations_ms,
    }


def dialogue_alignment(alignment: Alignment) -> Json:
    """Return the same in the spelling of the dialogue sockets."""
    return {
        "chars": alignment.chars,
        "char_start_times_ms": alignment.starts_ms,
        "char_durations_ms": alignment.durations_ms,
    }


def rest_alignment(alignment: Alignment) -> Json:
    """Return what a REST answer calls an alignment: seconds, and ends instead of durations."""
    ends_ms = map(sum, zip(alignment.starts_ms, alignment.durations_ms, strict=True))
    return {
        "characters": alignment.chars,
        "character_start_times_seconds": [ms / 1000 for ms in alignment.starts_ms],
        "character_end_times_seconds": [ms / 1000 for ms in ends_ms],
    }
