"""Metrics of several processes as one: snapshots that can be sent, added up and rendered."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its samples by name and labels."""

    name: str
    documentation: str
    kind: str
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float]


Snapshot = tuple[Family, ...]


def take_snapshot(registry: CollectorRegistry) -> Snapshot:
    """Return the metrics of a registry as they are now."""
    return tuple(
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            {(one.name, tuple(one.labels.items())): one.value for one in metric.samples},
        )
        for metric in registry.collect()
    )


def add_up(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of snapshots, sample by sample; times of creation become the earliest."""
    sums: dict[str, Family] = {}
    for snapshot in snapshots:
        for family in snapshot:
            total = sums.get(family.name)
            if total is None:
                sums[family.name] = Family(
                    family.name, family.documentation, family.kind, dict(family.samples)
                )
                continue
            for key, value in family.samples.items():
                before = total.samples.get(key)
                if before is None:
                    total.samples[key] = value
                elif key[0].endswith("_created"):
                    total.samples[key] = min(before, value)
                else:
                    total.samples[key] = before + value
    return tuple(sums.values())


def without_gauges(snapshot: Snapshot) -> Snapshot:
    """Return the part of a snapshot that outlives its process: counters and histograms."""
    return tuple(family for family in snapshot if family.kind in ("counter", "histogram"))


def render(snapshot: Snapshot) -> bytes:
    """Return a snapshot in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Collected(snapshot))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        for family in self._snapshot:
            metric = Metric(family.name, family.documentation, family.kind)
            for (name, labels), value in family.samples.items():
                metric.add_sample(name, dict(labels), value)
            yield metric
