"""The documentation agrees with the code: settings, formats, words and sizes."""

import re
from pathlib import Path

import pytest

from csm_trio.config import SETTINGS, Setting, settings_table
from tools.settings_table import PAGE, written_table

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REWRITE = "rewrite it with: PYTHONPATH=tests python -m tools.settings_table"
RETIRED_WORDS = re.compile(r"\b(house|room|door)s?\b", re.IGNORECASE)


def test_settings_table_is_what_the_code_renders() -> None:
    assert written_table(PAGE.read_text(encoding="utf-8")) == settings_table(), REWRITE


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.flag)
def test_every_setting_stands_in_the_configuration_page_with_its_default(setting: Setting) -> None:
    page = PAGE.read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{setting.flag}` |"))
    default = setting.help_line.rpartition("default: ")[2].removesuffix(")")
    assert row.split(" | ")[3] == default, REWRITE
    assert setting.help in row, REWRITE


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_no_page_uses_a_retired_word(page: Path) -> None:
    assert not RETIRED_WORDS.findall(page.read_text(encoding="utf-8"))
