"""Write the settings table of docs/configuration.md anew, from the table in the code.

`PYTHONPATH=tests python -m tools.settings_table` rewrites the file in place.
"""

import re
from pathlib import Path

from csm_trio.config import settings_table

PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"
BEGIN, END = "<!-- settings table: begin -->\n", "<!-- settings table: end -->\n"
_BETWEEN = re.compile(f"(?<={re.escape(BEGIN)}).*(?={re.escape(END)})", re.DOTALL)


def written_table(page: str) -> str:
    """Return the table between the markers of a page; raise `ValueError` if there is none."""
    found = _BETWEEN.search(page)
    if found is None:
        raise ValueError("the page has no markers of the settings table")
    return found[0]


def main() -> None:
    """Replace the table in the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_BETWEEN.sub(lambda _: settings_table(), page, count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
