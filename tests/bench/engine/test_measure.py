"""The engine's timing: its measurements, its table and its JSON."""

import json
from dataclasses import replace

import pytest

from csm_trio.bench.engine.measure import Plan, frame_bytes, measure_engine
from csm_trio.bench.engine.report import BaselineTiming, BatchTiming, EngineTiming, PrefillTiming
from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_model

TIMING = EngineTiming(
    device="a device",
    dtype="bfloat16",
    model="a model",
    torch="2.11.0",
    slots=2,
    load_s=1.0,
    warm_up_s=2.0,
    weight_bytes=3 << 30,
    slot_bytes=64 << 20,
    peak_bytes=4 << 30,
    frame_bytes=9_000_000_000,
    copy_bytes_per_s=3e12,
    batches=(BatchTiming(1, 60, 6.0, 7.5, 0.5), BatchTiming(2, 60, 12.0, 13.0, 0.75)),
    prefills=(PrefillTiming(8, 256, 12.5),),
    baselines=(BaselineTiming("transformers generate", 1, 215.0),),
)


def test_the_floor_is_the_bytes_over_the_bandwidth() -> None:
    assert TIMING.floor_ms == 3.0


def test_json_has_every_number() -> None:
    content = json.loads(json.dumps(TIMING.to_dict()))
    assert content["floor_ms"] == 3.0
    assert content["batches"][1] == {
        "batch": 2, "steps": 60, "median_ms": 12.0, "p99_ms": 13.0, "codec_ms": 0.75,
    }  # fmt: skip
    assert content["prefills"] == [{"prompts": 8, "positions": 256, "median_ms": 12.5}]
    assert content["baselines"][0]["frame_ms"] == 215.0


def test_the_table_has_times_and_ratios() -> None:
    rows = [line.split() for line in TIMING.table().splitlines()]
    assert ["1", "6.00", "7.50", "0.50", "2.00", "0.075"] in rows
    assert ["2", "12.00", "13.00", "0.75", "4.00", "0.150"] in rows
    assert ["8", "x", "256", "12.50"] in rows
    assert TIMING.table().endswith(
        "\ntransformers generate, 1 row, no audio: 215.0 ms a frame, "
        "35.8 x the step with audio, 39.1 x without"
    )
    assert "weights 3.00 GiB, slots 192.0 MiB (64.0 MiB each), at most 4.00 GiB" in TIMING.table()
    assert "to read 9 GB of weights at 3000 GB/s" in TIMING.table()


def test_the_table_names_what_was_not_measured() -> None:
    left_out = replace(TIMING, baselines=(), notes=("transformers generate: not measured.",))
    assert left_out.table().endswith("\n\ntransformers generate: not measured.")


def test_a_frame_reads_the_depth_decoder_once_for_each_codebook_but_the_first() -> None:
    loaded = load_model(EngineConfig(device="cpu"))
    model, steps = loaded.model, loaded.config.codebooks - 1
    depth = sum(tensor.nbytes for layer in model.depth.layers for tensor in layer.parameters())
    backbone = sum(
        tensor.nbytes for layer in model.backbone.layers for tensor in layer.parameters()
    )
    assert frame_bytes(loaded) > steps * depth + backbone
    heads = (
        model.first_head.nbytes
        + model.depth_projector.nbytes
        + sum(head.nbytes for head in model.depth_heads)
    )
    codec = sum(tensor.nbytes for tensor in loaded.codec.parameters())
    assert frame_bytes(loaded) == steps * depth + backbone + heads + codec


@pytest.mark.parametrize(("pool_size", "batches"), [(None, [1, 2, 4]), (3, [1, 2])])
def test_default_batches_fit_into_the_pool_of_serve(
    pool_size: int | None, batches: list[int]
) -> None:
    config = EngineConfig(device="cpu", pool_size=pool_size, max_positions=256)
    timing = measure_engine(config, Plan(steps=1, baseline_batches=()))
    assert [row.batch for row in timing.batches] == batches
    assert timing.slots == (pool_size or 4)
    assert [row.positions for row in timing.prefills] == [64, 128]
    for row in timing.batches:
        assert row.codec_ms > 0
        assert 0 < row.median_ms <= row.p99_ms
    assert timing.copy_bytes_per_s > 1e8
    assert timing.baselines == ()
