"""Alignments in the vendor's JSON: one form on sockets, one in dialogues, one over REST."""

from json.encoder import encode_basestring_ascii

from csm_trio.alignment.alignment import Alignment

Json = dict[str, object]


class JsonText(str):
    """The JSON of a value, which needs no more encoding."""

    __slots__ = ()


def socket_alignment(alignment: Alignment) -> JsonText:
    """Return an alignment as text-to-speech sockets send it: whole milliseconds."""
    return _json(alignment, "chars", "charStartTimesMs", "charDurationsMs")


def dialogue_alignment(alignment: Alignment) -> JsonText:
    """Return an alignment as text-to-dialogue sockets send it: milliseconds, snake_case keys."""
    return _json(alignment, "chars", "char_start_times_ms", "char_durations_ms")


def _json(alignment: Alignment, chars: str, starts: str, durations: str) -> JsonText:
    """Return an alignment under these keys, as `json.dumps` would but in half the time."""
    encoded = ", ".join(map(encode_basestring_ascii, alignment.chars))
    return JsonText(
        f'{{"{chars}": [{encoded}], "{starts}": {list(alignment.starts_ms)}, '
        f'"{durations}": {list(alignment.durations_ms)}}}'
    )


def rest_alignment(alignment: Alignment) -> Json:
    """Return an alignment as REST answers have it: seconds, and ends instead of durations."""
    ends_ms = map(sum, zip(alignment.starts_ms, alignment.durations_ms, strict=True))
    return {
        "characters": alignment.chars,
        "character_start_times_seconds": [ms / 1000 for ms in alignment.starts_ms],
        "character_end_times_seconds": [ms / 1000 for ms in ends_ms],
    }
