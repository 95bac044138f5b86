"""The documentation agrees with the code: settings, formats, words and sizes."""

import re
from pathlib import Path

import pytest

from csm_trio.audio.formats import FORMATS
from csm_trio.config import SETTINGS, Setting, settings_table
from tools.settings_table import PAGE, written_table

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REWRITE = "rewrite it with: PYTHONPATH=tests python -m tools.settings_table"


def test_settings_table_is_what_the_code_renders() -> None:
    assert written_table(PAGE.read_text(encoding="utf-8")) == settings_table(), REWRITE


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.flag)
def test_every_setting_stands_in_the_configuration_page_with_its_default(setting: Setting) -> None:
    page = PAGE.read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| `{setting.flag}` |"))
    default = setting.help_line.rpartition("default: ")[2].removesuffix(")")
    assert row.split(" | ")[3] == default, REWRITE
    assert setting.help in row, REWRITE


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_stands_in_the_api_page(name: str) -> None:
    assert name in (DOCS / "api.md").read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    readme = (ROOT / "README.md").read_bytes()
    assert len(readme) <= 8192
    assert readme.count(b"\n") <= 150


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=str)
def test_relative_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link
