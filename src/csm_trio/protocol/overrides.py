"""Settings that are merged field by field."""

from dataclasses import dataclass, fields, replace
from typing import Self


@dataclass(frozen=True, slots=True)
class Overridable:
    """Base of settings whose fields are None where they leave the value to others."""

    def overridden_by(self, other: Self) -> Self:
        """Return these settings with every field that `other` sets replaced by its value."""
        values = {field.name: getattr(other, field.name) for field in fields(other)}
        return replace(self, **{name: value for name, value in values.items() if value is not None})
