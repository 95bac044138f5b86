"""What measuring the engine alone gives: frozen numbers, as JSON and as a table. No torch."""

import json
from dataclasses import asdict, dataclass

_FRAME_MS = 80.0


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """Steps of `batch` rows, each waited for by the host; `codec_ms` is what the codec takes."""

    batch: int
    median_ms: float
    p99_ms: float
    codec_ms: float


@dataclass(frozen=True, slots=True)
class PrefillTiming:
    """Opening `prompts` slots at once, each with `positions` rows of prompt."""

    prompts: int
    positions: int
    median_ms: float


@dataclass(frozen=True, slots=True)
class PeerTiming:
    """A frame of `batch` rows by another implementation on the same device."""

    name: str
    batch: int
    frame_ms: float


@dataclass(frozen=True, slots=True)
class EngineTiming:
    """One device, one model, and what it reached.

    frame_bytes: the weights that one frame must read, every use counted; copy_bytes_per_s: what
    the device copied, bytes read and written counted. No step is faster than their quotient
    unless weights stay in a cache.
    """

    device: str
    dtype: str
    model: str
    torch: str
    slots: int
    load_s: float
    warm_up_s: float
    allocated_bytes: int
    peak_bytes: int
    frame_bytes: int
    copy_bytes_per_s: float
    batches: tuple[BatchTiming, ...]
    prefills: tuple[PrefillTiming, ...]
    peers: tuple[PeerTiming, ...]

    @property
    def floor_ms(self) -> float:
        """The least time in which the device can read a frame's weights."""
        return 1e3 * self.frame_bytes / self.copy_bytes_per_s

    def to_json(self) -> str:
        """Return everything as one JSON object."""
        return json.dumps(asdict(self) | {"floor_ms": self.floor_ms}, indent=2)

    def table(self) -> str:
        """Return everything as text for a terminal."""
        lines = [
            f"{self.model} on {self.device}, {self.dtype}, torch {self.torch}, {self.slots} slots",
            f"loaded in {self.load_s:.1f} s, warm after {self.warm_up_s:.1f} s more; "
            f"memory {_gib(self.allocated_bytes)}, at most {_gib(self.peak_bytes)}",
            f"floor {self.floor_ms:.2f} ms a frame: {self.frame_bytes / 1e9:.2f} GB of weights "
            f"at {self.copy_bytes_per_s / 1e12:.2f} TB/s",
            "",
            "batch   median ms   p99 ms   codec ms   x floor   real-time factor",
        ]
        lines += [
            f"{row.batch:5d}   {row.median_ms:9.2f}   {row.p99_ms:6.2f}   {row.codec_ms:8.2f}   "
            f"{row.median_ms / self.floor_ms:7.2f}   {row.median_ms / _FRAME_MS:16.3f}"
            for row in self.batches
        ]
        lines += ["", "prefill: prompts x positions, ms"]
        lines += [
            f"{row.prompts:5d} x {row.positions:5d}   {row.median_ms:8.2f}" for row in self.prefills
        ]
        lines += [
            f"{row.name}: {row.batch} rows, {row.frame_ms:.1f} ms a frame" for row in self.peers
        ]
        return "\n".join(lines)


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
