"""Settings that are merged field by field."""

from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Overridable:
    """Base of settings whose fields are None where they leave the value to others."""

    def overridden_by(self, other: Self) -> Self:
        """Return these settings with every field that `other` sets replaced by its value.

        Where it sets none, they are returned themselves: every delta comes through here.
        """
        changes = {
            name: value
            for name in other.__dataclass_fields__
            if (value := getattr(other, name)) is not None
        }
        return replace(self, **changes) if changes else self
