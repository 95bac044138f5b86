"""Draw a sweep as SVG: first audio (TTFA) above, a share of smooth turns below, against the load.

Pure: figures in, a document out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from csm_trio.bench.load.rate_report import RateFigures
from csm_trio.bench.load.report import Figures

_WIDTH, _LEFT, _RIGHT = 760, 80, 730
_TOP_PANEL = (70, 330)
_LOW_PANEL = (400, 560)
_HEIGHT = 620

_BLUE, _ORANGE, _GREEN, _GRAY, _GRID = "#1f5fbf", "#d9480f", "#2b7a3d", "#555", "#ddd"

# Maximum ratio of the largest to the smallest value on a linear axis; beyond it, logarithmic.
_MAX_LINEAR_RATIO = 8

_C100_BAR = 99.0


@dataclass(frozen=True, slots=True)
class _Axis:
    """A vertical axis between two y coordinates of the drawing, linear or logarithmic."""

    low: float
    high: float
    ticks: tuple[float, ...]
    panel: tuple[int, int]
    logarithmic: bool = False

    def y(self, value: float) -> float:
        top, bottom = self.panel
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return bottom - (at - low) / (high - low) * (bottom - top)


@dataclass(frozen=True, slots=True)
class _Picture:
    """The words and the values of a drawing; a value that was not measured is None."""

    title: str
    load: str
    loads: Sequence[float]
    latency: str
    p50: Sequence[float | None]
    p95: Sequence[float | None]
    share: str
    share_axis: str
    shares: Sequence[float | None]


def svg(sweep: Sequence[Figures], *, title: str) -> str:
    """Draw first audio (p50, p95) and C100 against the number of calls; the latter in doublings."""
    points = sorted(sweep, key=lambda figures: figures.calls)
    return _draw(
        _Picture(
            title=title,
            load="calls at once",
            loads=[figures.calls for figures in points],
            latency="first audio",
            p50=[figures.first_audio_ms.p50 for figures in points],
            p95=[figures.first_audio_ms.p95 for figures in points],
            share="C100",
            share_axis="C100, % of turns without an underrun above 100 ms",
            shares=[figures.c100 for figures in points],
        )
    )


def rate_svg(rates: Sequence[RateFigures], *, title: str) -> str:
    """Draw audible first audio and smooth requests against requests a second, in doublings.

    Values are medians over the trials of a rate.
    """
    points = sorted(rates, key=lambda rate: rate.rate_hz)
    return _draw(
        _Picture(
            title=title,
            load="requests a second",
            loads=[rate.rate_hz for rate in points],
            latency="audible first audio",
            p50=[rate.median(lambda trial: trial.audible_ms.p50) for rate in points],
            p95=[rate.median(lambda trial: trial.audible_ms.p95) for rate in points],
            share="no underrun",
            share_axis="requests without any underrun, %",
            shares=[rate.smooth_share for rate in points],
        )
    )


def _draw(picture: _Picture) -> str:
    xs = _xs(picture.loads)
    p50, p95, latency = picture.p50, picture.p95, picture.latency
    shares = [None if share is None else 100 * share for share in picture.shares]
    top = _latency_axis([value for value in (*p50, *p95) if value is not None])
    low = _Axis(0, 100, (0, 25, 50, 75, 100), _LOW_PANEL)
    bar_y = f"{low.y(_C100_BAR):.1f}"
    loads = picture.loads
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        _text(_LEFT, 26, picture.title, size=15),
        *_frame(top, f"{latency}, ms", xs, loads),
        _text(_RIGHT, 56, "● p50", anchor="end", color=_BLUE),
        _text(_RIGHT - 50, 56, "● p95", anchor="end", color=_ORANGE),
        *_series(top, xs, p95, _ORANGE, f"{latency} p95 (ms)", label_dy=-9),
        *_series(top, xs, p50, _BLUE, f"{latency} p50 (ms)", label_dy=17),
        *_frame(low, picture.share_axis, xs, loads),
        f'<path d="M{_LEFT} {bar_y}H{_RIGHT}" stroke="{_GRAY}" stroke-dasharray="5 4"/>',
        *_series(low, xs, shares, _GREEN, f"{picture.share} (%)", label_dy=17),
        _text((_LEFT + _RIGHT) / 2, _HEIGHT - 16, picture.load, anchor="middle"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _xs(loads: Sequence[float]) -> list[float]:
    """Return the x coordinates of ascending loads, on a logarithmic scale."""
    if not loads:
        return []
    margin = 36
    low, high = math.log2(loads[0]), math.log2(loads[-1])
    span = _RIGHT - _LEFT - 2 * margin
    if high == low:
        return [(_LEFT + _RIGHT) / 2] * len(loads)
    return [_LEFT + margin + (math.log2(load) - low) / (high - low) * span for load in loads]


def _latency_axis(values: Sequence[float]) -> _Axis:
    """Choose an axis for milliseconds; values below 1 ms count as 1 ms."""
    highest = max([1.0, *values])
    lowest = max(1.0, min(values, default=1.0))
    if highest / lowest > _MAX_LINEAR_RATIO:
        low, high = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
        decades = (10.0**power for power in range(low, high + 1))
        ticks = [digit * decade for decade in decades for digit in (1, 2, 5)]
        shown = tuple(tick for tick in ticks if tick <= 10.0**high)
        return _Axis(10.0**low, 10.0**high, shown, _TOP_PANEL, logarithmic=True)
    step = _round_step(highest / 5)
    n_steps = math.ceil(1.1 * highest / step)
    ticks = [index * step for index in range(n_steps + 1)]
    return _Axis(0, ticks[-1], tuple(ticks), _TOP_PANEL)


def _round_step(min_step: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, … (or their fractions) from `min_step` up."""
    decade = 10.0 ** math.floor(math.log10(min_step))
    return next(digit * decade for digit in (1, 2, 5, 10) if digit * decade >= 0.999 * min_step)


def _frame(axis: _Axis, name: str, xs: Sequence[float], loads: Sequence[float]) -> list[str]:
    """Draw the grid, the ticks with their values, and the name of the quantity."""
    top, bottom = axis.panel
    parts = [_text(_LEFT, top - 14, name, color=_GRAY)]
    for tick in axis.ticks:
        y = axis.y(tick)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="{_GRID}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{tick:,g}", anchor="end", color=_GRAY))
    for x, load in zip(xs, loads, strict=True):
        parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="{_GRAY}"/>')
        parts.append(_text(x, bottom + 19, f"{load:.15g}", anchor="middle", color=_GRAY))
    parts.append(f'<path d="M{_LEFT} {top}V{bottom}H{_RIGHT}" fill="none" stroke="{_GRAY}"/>')
    return parts


def _series(
    axis: _Axis,
    xs: Sequence[float],
    values: Sequence[float | None],
    color: str,
    name: str,
    *,
    label_dy: float,
) -> list[str]:
    """Draw a line through the points that have a value, each with its value beside it."""
    known = [(x, value) for x, value in zip(xs, values, strict=True) if value is not None]
    path = " ".join(f"{x:.1f},{axis.y(value):.1f}" for x, value in known)
    parts = [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>']
    for x, value in known:
        y = axis.y(value)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}">'
            f"<title>{escape(name)}: {value:.1f}</title></circle>"
        )
        label = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        parts.append(_text(x, y + label_dy, label, anchor="middle", color=color))
    return parts


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", color: str = "#222", size: int = 12
) -> str:
    attributes = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" font-size="{size}"'
    return f"<text {attributes}>{escape(text)}</text>"
