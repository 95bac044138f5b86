"""The README is part of what is done: its table of settings says what the code says."""

from pathlib import Path

import pytest

from csm_trio.audio.formats import FORMATS
from csm_trio.config import SETTINGS, Setting

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.flag)
def test_every_setting_stands_in_the_readme_with_its_default(setting: Setting) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{setting.flag}` |"))
    default = setting.help_line.rpartition("default: ")[2].removesuffix(")")
    assert row.split(" | ")[1] == default
    assert setting.help in row


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_stands_in_the_readme(name: str) -> None:
    assert name in README
