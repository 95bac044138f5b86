"""Settings that are merged field by field."""

from dataclasses import dataclass, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Overridable:
    """Base of settings whose fields are None where they leave the value to others."""

    def set_values(self) -> dict[str, object]:
        """Return the fields that are set, by name."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in values.items() if value is not None}

    def overridden_by(self, other: Self) -> Self:
        """Return these settings with every field that `other` sets replaced by its value.

        Where it sets none, they are returned themselves: every delta comes through here.
        """
        changes: dict[str, Any] = other.set_values()
        return replace(self, **changes) if changes else self
