"""What is read of a server's own figures."""

import math

import pytest
from trio_websocket import WebSocketRequest

from csm_trio.bench.load.point import (
    buckets_between,
    parse_metrics,
    read_metrics,
    settle,
)
from csm_trio.telemetry import Metrics
from support.fakes import SineRunner
from support.scripted_server import scripted_server
from support.serving import serving

NAME = "csm_cancel_to_free_seconds"


def bucket(bound: str) -> str:
    return f'{NAME}_bucket{{le="{bound}"}}'


def test_a_servers_own_text_is_parsed() -> None:
    metrics = Metrics()
    metrics.slots_used.set(3)
    metrics.step_s.observe(0.007)
    samples = parse_metrics(metrics.render().decode())
    assert samples["csm_slots_used"] == 3
    assert samples['csm_step_seconds_bucket{le="0.005"}'] == 0
    assert samples['csm_step_seconds_bucket{le="+Inf"}'] == 1
    assert buckets_between({}, samples, "csm_step_seconds") is not None


@pytest.mark.parametrize("text", ["", "\n\n", "# HELP a b", "<html>no such page</html>", "a b c"])
def test_what_is_no_sample_is_passed_over(text: str) -> None:
    assert parse_metrics(text) == {}


# totals before, totals after, what fell into each bucket in between
HISTOGRAMS: list[tuple[dict[str, float], dict[str, float], dict[float, float] | None]] = [
    ({}, {}, None),
    ({}, {bucket("0.1"): 2, bucket("+Inf"): 3}, {0.1: 2, math.inf: 1}),
    # Prometheus sorts bounds as the program wrote them, which need not be by size.
    (
        {bucket("1.0"): 5, bucket("0.08"): 4, bucket("+Inf"): 5},
        {bucket("+Inf"): 15, bucket("0.08"): 12, bucket("1.0"): 15},
        {0.08: 8, 1.0: 2, math.inf: 0},
    ),
    ({bucket("0.1"): 5, bucket("+Inf"): 5}, {bucket("0.1"): 1, bucket("+Inf"): 1}, None),
    ({}, {'other_bucket{le="0.1"}': 1, f"{NAME}_sum": 4.0}, None),
]


@pytest.mark.parametrize(("before", "after", "between"), HISTOGRAMS)
def test_buckets_count_what_came_in_between(
    before: dict[str, float], after: dict[str, float], between: dict[float, float] | None
) -> None:
    assert buckets_between(before, after, NAME) == between


async def test_metrics_are_read_over_http_and_a_free_server_is_settled() -> None:
    async with serving(SineRunner) as server:
        url = server.url().replace("http:", "ws:")
        metrics = await read_metrics(url)
        assert metrics is not None
        assert (metrics["csm_slots"], metrics["csm_slots_used"]) == (4, 0)
        assert await read_metrics(f"{url}/elsewhere") is None
        await settle(url)


async def test_a_server_without_metrics_has_none() -> None:
    async def script(request: WebSocketRequest) -> None:
        await request.reject(404)

    async with scripted_server(script) as url:
        assert await read_metrics(url) is None
