"""The picture of a sweep: a document any viewer reads, with every point where it belongs."""

from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csm_trio.bench.load.plot import svg
from csm_trio.bench.load.point import Point
from csm_trio.bench.load.report import Figures, Spread, sum_up

SVG = "{http://www.w3.org/2000/svg}"


def figures(calls: int, p50: float | None, p95: float | None, c100: float | None) -> Figures:
    first_audio = Spread(9, p50, p95, p95, p95)
    return replace(sum_up(Point(calls)), first_audio_ms=first_audio, c100=c100)


def draw(*sweep: Figures, title: str = "A sweep") -> ElementTree.Element:
    return ElementTree.fromstring(svg(sweep, title=title))


def dots(picture: ElementTree.Element) -> dict[str, list[tuple[float, float]]]:
    """Return where the dots of each series are, by its name."""
    found: dict[str, list[tuple[float, float]]] = {}
    for circle in picture.iter(f"{SVG}circle"):
        name = (circle.findtext(f"{SVG}title") or "").rpartition(":")[0]
        found.setdefault(name, []).append((float(circle.attrib["cx"]), float(circle.attrib["cy"])))
    return found


def words(picture: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


SWEEP = (
    figures(1, 40, 45, 1.0),
    figures(8, 50, 60, 1.0),
    figures(64, 70, 110, 0.995),
    figures(256, 120, 400, 0.9),
)


def test_every_point_of_every_series_is_drawn_with_its_value() -> None:
    picture = draw(*SWEEP)
    series = dots(picture)
    assert set(series) == {"first audio p50 (ms)", "first audio p95 (ms)", "C100 (%)"}
    assert {len(places) for places in series.values()} == {4}
    shown = words(picture)
    for word in ("1", "8", "64", "256", "40", "400", "99.5", "90", "calls at once", "A sweep"):
        assert word in shown
    assert len(list(picture.iter(f"{SVG}polyline"))) == 3


def test_more_calls_are_further_right_and_a_longer_wait_is_higher() -> None:
    series = dots(draw(*reversed(SWEEP)))
    p95 = series["first audio p95 (ms)"]
    assert all(x < next_x and y > next_y for (x, y), (next_x, next_y) in pairwise(p95))
    # Equal factors are equal distances: from 1 to 8 is as far as from 8 to 64.
    assert p95[1][0] - p95[0][0] == pytest.approx(p95[2][0] - p95[1][0], abs=0.2)
    assert series["C100 (%)"][3][1] > series["C100 (%)"][0][1]


def test_a_wide_range_is_drawn_in_decades() -> None:
    p50 = dots(draw(figures(1, 10, 10, 1.0), figures(2, 100, 100, 1.0), figures(4, 1e3, 1e3, 1.0)))[
        "first audio p50 (ms)"
    ]
    assert p50[0][1] - p50[1][1] == pytest.approx(p50[1][1] - p50[2][1], abs=0.2)


def test_what_was_not_measured_is_not_drawn() -> None:
    series = dots(draw(figures(1, 40, 45, 1.0), figures(2, None, None, None)))
    assert {len(places) for places in series.values()} == {1}
    assert dots(draw(figures(2, None, None, None))) == {}
    assert dots(draw()) == {}


def test_the_title_is_text_and_nothing_else() -> None:
    assert "<b>&" in words(draw(*SWEEP, title="<b>&"))


waits = st.none() | st.floats(0, 1e7)


@given(st.lists(st.builds(figures, st.integers(1, 10_000), waits, waits, st.floats(0, 1))))
def test_any_sweep_stays_on_the_page(sweep: list[Figures]) -> None:
    picture = draw(*sweep)
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    for places in dots(picture).values():
        assert all(0 < x < width and 0 < y < height for x, y in places)
    assert len(words(picture)) < 60 + 20 * len(sweep)
