"""Fields described once: each reads its value from a request, and has a JSON Schema.

The schemas are of dialect 2020-12, as OpenAPI 3.1 and AsyncAPI 3.0 use it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from csm_trio.errors import InvalidRequest
from csm_trio.protocol.fields import Fields, JsonFields

Schema = dict[str, object]


class Field(Protocol):
    """A field of a body, a message, a form or a query."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def about(self) -> str:
        """What it means, in a sentence."""

    @property
    def required(self) -> bool:
        """Whether a request without it is refused."""

    def schema(self) -> Schema:
        """Return the JSON Schema of its value, without null."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string: one of `choices`, if there are any, or one that `pattern` matches as a whole.

    With `absent_if_empty`, an empty one counts as absent.
    """

    name: str
    about: str
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    max_chars: int | None = None
    required: bool = False
    default: str | None = None
    absent_if_empty: bool = False

    def read(self, fields: Fields) -> str | None:
        """Return the value; None where it is absent."""
        value = fields.text(self.name)
        if value is None or (self.absent_if_empty and not value):
            return None
        if self.choices and value not in self.choices:
            *others, last = self.choices
            allowed = f"{', '.join(others)} or {last}"
            raise self._invalid(fields, f"{self.name} must be {allowed}.")
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise self._invalid(fields, f"{self.name} is not valid.")
        if self.max_chars is not None and len(value) > self.max_chars:
            raise self._invalid(fields, f"{self.name} has more than {self.max_chars} characters.")
        return value

    def _invalid(self, fields: Fields, message: str) -> InvalidRequest:
        return InvalidRequest(message, param=self.name, location=fields.location)

    def schema(self) -> Schema:
        """Return the schema."""
        schema: Schema = {"type": "string"}
        if self.choices:
            schema["enum"] = [*self.choices, *([""] if self.absent_if_empty else [])]
        elif self.absent_if_empty and self.required:
            schema["minLength"] = 1
        if self.pattern is not None:
            schema["pattern"] = f"^(?:{self.pattern})$"
        if self.max_chars is not None:
            schema["maxLength"] = self.max_chars
        return schema if self.default is None else {**schema, "default": self.default}


@dataclass(frozen=True, slots=True)
class Flag:
    """A truth value."""

    name: str
    about: str
    default: bool | None = None
    required: bool = False

    def read(self, fields: Fields) -> bool | None:
        """Return the value; None where it is absent."""
        return fields.flag(self.name)

    def schema(self) -> Schema:
        """Return the schema."""
        schema: Schema = {"type": "boolean"}
        return schema if self.default is None else {**schema, "default": self.default}


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number within [low, high]."""

    name: str
    about: str
    low: int
    high: int
    default: int | None = None
    required: bool = False

    def read(self, fields: Fields) -> int | None:
        """Return the value; None where it is absent."""
        return fields.integer(self.name, self.low, self.high)

    def schema(self) -> Schema:
        """Return the schema."""
        schema: Schema = {"type": "integer", "minimum": self.low, "maximum": self.high}
        return schema if self.default is None else {**schema, "default": self.default}


@dataclass(frozen=True, slots=True)
class Number:
    """A number within [low, high]."""

    name: str
    about: str
    low: float
    high: float
    default: float | None = None
    required: bool = False

    def read(self, fields: Fields) -> float | None:
        """Return the value; None where it is absent."""
        return fields.number(self.name, self.low, self.high)

    def schema(self) -> Schema:
        """Return the schema."""
        schema: Schema = {"type": "number", "minimum": self.low, "maximum": self.high}
        return schema if self.default is None else {**schema, "default": self.default}


@dataclass(frozen=True, slots=True)
class Strings:
    """A list of strings."""

    name: str
    about: str
    at_most: int
    required: bool = False

    def read(self, fields: JsonFields) -> tuple[str, ...]:
        """Return the values; none where it is absent."""
        return fields.strings(self.name, self.at_most)

    def schema(self) -> Schema:
        """Return the schema."""
        return {"type": "array", "items": {"type": "string"}, "maxItems": self.at_most}


@dataclass(frozen=True, slots=True)
class Members:
    """An object; its members are described by `fields`, others are ignored."""

    name: str
    about: str
    fields: tuple[Field, ...]
    required: bool = False

    def read(self, fields: JsonFields) -> JsonFields:
        """Return the members; none where it is absent."""
        return fields.members(self.name)

    def schema(self) -> Schema:
        """Return the schema."""
        return object_schema(self.fields)


@dataclass(frozen=True, slots=True)
class Objects:
    """A list of objects, each described by `fields`."""

    name: str
    about: str
    fields: tuple[Field, ...]
    at_least: int
    at_most: int
    required: bool = False

    def read(self, fields: JsonFields) -> list[dict[str, object]] | None:
        """Return the objects; None where it is absent."""
        return fields.objects(self.name, at_least=self.at_least, at_most=self.at_most)

    def schema(self) -> Schema:
        """Return the schema."""
        return {
            "type": "array",
            "items": object_schema(self.fields),
            "minItems": self.at_least,
            "maxItems": self.at_most,
        }


@dataclass(frozen=True, slots=True)
class Described:
    """A field whose reading follows a rule of its own; its schema is given."""

    name: str
    about: str
    given: Schema
    required: bool = False

    def schema(self) -> Schema:
        """Return the schema."""
        return dict(self.given)


# Truth values in a query, in any case, as `QueryFields.flag` reads them.
_QUERY_FLAG = "^(?:[tT][rR][uU][eE]|[fF][aA][lL][sS][eE]|[01])$"


def query_schema(field: Field) -> Schema:
    """Return the schema of a field in a query, where every value is text."""
    schema = field.schema()
    if schema.get("type") != "boolean":
        return schema
    text = {"type": "string", "pattern": _QUERY_FLAG}
    default = {name: schema[name] for name in schema if name != "type"}
    return {"anyOf": [{"type": "boolean"}, text], **default}


def object_schema(fields: Sequence[Field], *, nullable: bool = True) -> Schema:
    """Return the schema of an object with these fields; a field that may be absent may be null."""
    properties: dict[str, object] = {}
    for field in fields:
        schema = field.schema()
        if nullable and not field.required:
            schema = or_null(schema)
        properties[field.name] = {**schema, "description": field.about}
    schema = {"type": "object", "properties": properties}
    required = [field.name for field in fields if field.required]
    return {**schema, "required": required} if required else schema


def or_null(schema: Schema) -> Schema:
    """Return the schema of the same values and null."""
    kind = schema.get("type")
    if not isinstance(kind, str):
        return {"anyOf": [schema, {"type": "null"}]}
    nullable = {**schema, "type": [kind, "null"]}
    choices = schema.get("enum")
    return {**nullable, "enum": [*choices, None]} if isinstance(choices, list) else nullable
