"""The result of timing the engine alone, as JSON and as a table. It must not know torch."""

from dataclasses import asdict, dataclass
from typing import Any

from csm_trio.engine.byte_size import format_bytes
from csm_trio.timebase import FRAME_MS


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """Times of `steps` steps of `batch` rows, codec included; the host waits for each step.

    `codec_ms` is the time of the codec alone, with full ring buffers.
    """

    batch: int
    steps: int
    median_ms: float
    p99_ms: float
    codec_ms: float


@dataclass(frozen=True, slots=True)
class PrefillTiming:
    """Time to prefill `prompts` slots at once, each with a prompt of `positions` rows."""

    prompts: int
    positions: int
    median_ms: float


@dataclass(frozen=True, slots=True)
class BaselineTiming:
    """Time of a frame of `batch` rows by a baseline on the same device, without audio."""

    name: str
    batch: int
    frame_ms: float


@dataclass(frozen=True, slots=True)
class EngineTiming:
    """The times and the memory of one model on one device.

    frame_bytes: bytes of weights that one frame must read, every use counted; copy_bytes_per_s:
    the device's copy rate, bytes read and written counted. No step is faster than their quotient
    unless weights stay in a cache. slots: rows of the batch; a CPU always computes them all.
    slot_bytes: memory of each of them (and of one more, for padding). peak_bytes: the maximum of
    memory used, on a CPU by the whole process. notes: measurements left out, and why.
    """

    device: str
    dtype: str
    model: str
    torch: str
    slots: int
    load_s: float
    warm_up_s: float
    weight_bytes: int
    slot_bytes: int
    peak_bytes: int
    frame_bytes: int
    copy_bytes_per_s: float
    batches: tuple[BatchTiming, ...]
    prefills: tuple[PrefillTiming, ...]
    baselines: tuple[BaselineTiming, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def floor_ms(self) -> float:
        """The minimum time in which the device can read a frame's weights."""
        return 1e3 * self.frame_bytes / self.copy_bytes_per_s

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return asdict(self) | {"floor_ms": self.floor_ms}

    def table(self) -> str:
        """Return all fields as text for a terminal."""
        slots_bytes = (self.slots + 1) * self.slot_bytes
        lines = [
            f"{self.model} on {self.device}, {self.dtype}, torch {self.torch}, {self.slots} slots",
            f"loaded in {self.load_s:.1f} s, warm after {self.warm_up_s:.1f} s more",
            f"memory: weights {format_bytes(self.weight_bytes)}, slots {format_bytes(slots_bytes)} "
            f"({format_bytes(self.slot_bytes)} each), "
            f"at most {format_bytes(self.peak_bytes)} in all",
            f"floor: {self.floor_ms:.2f} ms a frame, to read {self.frame_bytes / 1e9:.3g} GB of "
            f"weights at {self.copy_bytes_per_s / 1e9:.0f} GB/s",
            "",
            "batch   median ms   p99 ms   codec ms   x floor   real-time factor",
        ]
        lines += [
            f"{row.batch:5d}   {row.median_ms:9.2f}   {row.p99_ms:6.2f}   {row.codec_ms:8.2f}   "
            f"{row.median_ms / self.floor_ms:7.2f}   {row.median_ms / FRAME_MS:16.3f}"
            for row in self.batches
        ]
        lines += ["", "prefill: prompts x positions, ms"]
        lines += [
            f"{row.prompts:5d} x {row.positions:5d}   {row.median_ms:8.2f}" for row in self.prefills
        ]
        lines += [""] if self.baselines or self.notes else []
        lines += [
            f"{row.name}, {row.batch} {_rows(row.batch)}, no audio: {row.frame_ms:.1f} ms a frame"
            f"{self._ratios(row)}"
            for row in self.baselines
        ]
        return "\n".join([*lines, *self.notes])

    def _ratios(self, baseline: BaselineTiming) -> str:
        """Compare a baseline with the step of as many rows, with the codec and without."""
        for row in self.batches:
            if row.batch == baseline.batch:
                with_audio = f", {baseline.frame_ms / row.median_ms:.1f} x the step with audio"
                silent_ms = row.median_ms - row.codec_ms
                # The codec is timed separately: on a busy machine it may be longer than the step.
                ratio = f", {baseline.frame_ms / silent_ms:.1f} x without" if silent_ms > 0 else ""
                return with_audio + ratio
        return ""


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"
