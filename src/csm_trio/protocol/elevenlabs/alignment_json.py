"""Alignments in the vendor's JSON: one form on sockets, one in dialogues, one over REST."""

from csm_trio.alignment.alignment import Alignment

Json = dict[str, object]


def socket_alignment(alignment: Alignment) -> Json:
    """Return an alignment as text-to-speech sockets send it: whole milliseconds."""
    return {
        "chars": alignment.chars,
        "charStartTimesMs": alignment.starts_ms,
        "charDurationsMs": alignment.durations_ms,
    }


def dialogue_alignment(alignment: Alignment) -> Json:
    """Return an alignment as text-to-dialogue sockets send it: milliseconds, snake_case keys."""
    return {
        "chars": alignment.chars,
        "char_start_times_ms": alignment.starts_ms,
        "char_durations_ms": alignment.durations_ms,
    }


def rest_alignment(alignment: Alignment) -> Json:
    """Return an alignment as REST answers have it: seconds, and ends instead of durations."""
    ends_ms = map(sum, zip(alignment.starts_ms, alignment.durations_ms, strict=True))
    return {
        "characters": alignment.chars,
        "character_start_times_seconds": [ms / 1000 for ms in alignment.starts_ms],
        "character_end_times_seconds": [ms / 1000 for ms in ends_ms],
    }
