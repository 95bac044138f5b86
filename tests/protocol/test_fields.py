"""Fields of requests and messages, whichever endpoint reads them."""

from typing import Any, ClassVar, Literal

from csm_trio.protocol.fields import JsonFields
from csm_trio.protocol.speech_fields import NO_SETTINGS, SPEECH_FIELDS, read_settings


class RecordingFields(JsonFields):
    """Members of an object; `read` has the names that were asked for."""

    location: ClassVar[Literal["body", "query"]] = "body"
    read: ClassVar[set[str]] = set()

    def text(self, name: str) -> str | None:
        self.read.add(name)
        return super().text(name)

    def flag(self, name: str) -> bool | None:
        self.read.add(name)
        return super().flag(name)

    def integer(self, name: str, low: int, high: int) -> int | None:
        self.read.add(name)
        return super().integer(name, low, high)

    def number(self, name: str, low: float, high: float) -> float | None:
        self.read.add(name)
        return super().number(name, low, high)

    def members(self, name: str) -> JsonFields:
        self.read.add(name)
        return super().members(name)


def test_the_fields_of_speech_are_those_that_are_read() -> None:
    values: dict[str, Any] = {"seed": 1}
    assert read_settings(RecordingFields(values)).seed == 1
    assert RecordingFields.read == SPEECH_FIELDS


def test_text_alone_sets_nothing() -> None:
    assert read_settings(JsonFields({"text": "Hi.", "flush": True})) is NO_SETTINGS
