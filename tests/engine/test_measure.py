"""The engine's timing: what is measured, how it reads, and that it may be asked for anywhere."""

import json

from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_model
from csm_trio.engine.measure import Plan, frame_bytes, measure_engine
from csm_trio.engine.timing import BatchTiming, EngineTiming, PeerTiming, PrefillTiming

TIMING = EngineTiming(
    device="a device",
    dtype="bfloat16",
    model="a model",
    torch="2.11.0",
    slots=2,
    load_s=1.0,
    warm_up_s=2.0,
    allocated_bytes=3 << 30,
    peak_bytes=4 << 30,
    frame_bytes=9_000_000_000,
    copy_bytes_per_s=3e12,
    batches=(BatchTiming(1, 6.0, 7.5, 0.5), BatchTiming(2, 12.0, 13.0, 0.75)),
    prefills=(PrefillTiming(8, 256, 12.5),),
    peers=(PeerTiming("transformers generate", 1, 215.0),),
)


def test_the_floor_is_the_bytes_over_the_bandwidth() -> None:
    assert TIMING.floor_ms == 3.0


def test_json_carries_every_number() -> None:
    content = json.loads(TIMING.to_json())
    assert content["floor_ms"] == 3.0
    assert content["batches"][1] == {
        "batch": 2, "median_ms": 12.0, "p99_ms": 13.0, "codec_ms": 0.75,
    }  # fmt: skip
    assert content["prefills"] == [{"prompts": 8, "positions": 256, "median_ms": 12.5}]
    assert content["peers"][0]["frame_ms"] == 215.0


def test_the_table_shows_ratios_beside_absolutes() -> None:
    rows = [line.split() for line in TIMING.table().splitlines()]
    assert ["1", "6.00", "7.50", "0.50", "2.00", "0.075"] in rows
    assert ["2", "12.00", "13.00", "0.75", "4.00", "0.150"] in rows
    assert ["8", "x", "256", "12.50"] in rows
    assert "transformers generate: 1 rows, 215.0 ms a frame" in TIMING.table()


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


def test_the_embedded_voice_is_measured_on_a_cpu() -> None:
    plan = Plan(batches=(1, 2), steps=2, peer_batches=(1,))
    timing = measure_engine(EngineConfig(device="cpu"), plan)
    assert timing.slots == 2
    assert [row.batch for row in timing.batches] == [1, 2]
    for row in timing.batches:
        assert row.codec_ms > 0
        assert 0 < row.median_ms <= row.p99_ms
    assert [row.positions for row in timing.prefills] == sorted(
        {row.positions for row in timing.prefills}
    )
    assert timing.copy_bytes_per_s > 1e8
    assert timing.peers[0].frame_ms > 0
