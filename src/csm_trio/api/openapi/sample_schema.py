"""The schema of answers, inferred from real ones: the code that makes a body is its description."""

from collections.abc import Mapping, Sequence

from csm_trio.protocol.described import Schema

_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def schema_of_samples(*samples: object) -> Schema:
    """Return the JSON Schema that all samples fit: types, members, and which are always there.

    A member that is null in every sample is always null. A list's items are those of all samples
    together.
    """
    objects = [one for one in samples if isinstance(one, Mapping)]
    lists = [one for one in samples if isinstance(one, list | tuple)]
    kinds = {_KINDS[type(one)] for one in samples if type(one) in _KINDS}
    schema: Schema = {}
    if objects:
        kinds.add("object")
        schema |= _members(objects)
    if lists:
        kinds.add("array")
        schema["items"] = schema_of_samples(*(item for one in lists for item in one))
    if "number" in kinds:
        kinds.discard("integer")
    ordered = sorted(kinds)
    schema["type"] = ordered[0] if len(ordered) == 1 else ordered
    return schema if kinds else {}


def _members(objects: Sequence[Mapping[str, object]]) -> Schema:
    names = list(dict.fromkeys(name for one in objects for name in one))
    return {
        "properties": {
            name: schema_of_samples(*(one[name] for one in objects if name in one))
            for name in names
        },
        "required": [name for name in names if all(name in one for one in objects)],
    }
