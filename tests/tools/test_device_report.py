"""The report of a device: its parts in their CPU form, what is skipped, left out and marked."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools import device_report

linux = pytest.mark.skipif(sys.platform != "linux", reason="ends process groups")

PARTS = {
    "engine",
    "calls_alignment_on",
    "calls_alignment_off",
    "cancels",
    "rates",
    "memory",
    "gpu_tests",
}


def outcomes(out: Path) -> dict[str, str]:
    """Return what became of every part by its name."""
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return {outcome["name"]: outcome["status"] for outcome in report["outcomes"]}


@linux
@pytest.mark.soak
def test_the_cpu_form_measures_every_part_and_the_next_run_skips_them(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--device", "cpu"]
    assert device_report.main(arguments) == 0
    assert outcomes(tmp_path) == dict.fromkeys(PARTS, "done")
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    parts = report["parts"]
    assert [row["batch"] for row in parts["engine"]["engine"]["batches"]] == [1, 2]
    for alignment in ("on", "off"):
        points = parts[f"calls_alignment_{alignment}"]["points"]
        assert [point["calls"] for point in points] == [2]
        assert all(point["completed"] and not point["failed"] for point in points)
        assert (tmp_path / f"calls_alignment_{alignment}.svg").exists()
    assert [rate["rate_hz"] for rate in parts["rates"]["rates"]] == [2.0, 4.0]
    assert (tmp_path / "rates.svg").exists()
    (point,) = parts["cancels"]["points"]
    assert point["cancel_to_free"] is not None
    assert parts["memory"]["processes"][0]["peak_rss_mb"] > 50
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| rows | step median, ms |" in page
    assert "Alignment on:" in page
    assert "**" not in page
    assert not list(tmp_path.glob("*.writing"))

    before = (tmp_path / "engine.json").read_bytes()
    assert device_report.main(arguments) == 0
    assert outcomes(tmp_path) == dict.fromkeys(PARTS, "skipped")
    assert (tmp_path / "engine.json").read_bytes() == before
    again = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert again["parts"] == parts


def test_parts_that_do_not_fit_are_left_out_and_named(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path), "--device", "cpu", "--time-limit-s", "0"]
    assert device_report.main(arguments) == 1
    assert outcomes(tmp_path) == dict.fromkeys(PARTS, "left out")
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "- rates: left out: 0 s left, about " in page


@linux
def test_a_server_that_does_not_start_fails_its_parts_only(tmp_path: Path) -> None:
    for name in PARTS - {"calls_alignment_on"}:
        device_report.write_json(tmp_path / f"{name}.json", {"took_s": 1.0, "figures": {}})
    arguments = ["--out", str(tmp_path), "--device", "cpu", "--serve-flags=--cpu --dtype f8"]
    for name in ("calls_alignment_off", "rates"):
        figures: dict[str, Any] = {"points": [], "rates": []}
        device_report.write_json(tmp_path / f"{name}.json", {"took_s": 1.0, "figures": figures})
    (tmp_path / "memory.json").unlink()
    (tmp_path / "gpu_tests.json").write_text(
        json.dumps({"took_s": 1.0, "figures": {"summary": "13 passed in 1.0s"}})
    )
    assert device_report.main(arguments) == 1
    assert outcomes(tmp_path)["calls_alignment_on"] == "failed"
    assert outcomes(tmp_path)["rates"] == "skipped"
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "- calls_alignment_on: failed: the server did not start: " in page
    assert "'f8' is not one of" in page


@pytest.mark.soak
@linux
def test_a_command_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    script = "import time\ntry:\n time.sleep(60)\nexcept KeyboardInterrupt:\n print('written')"
    log = tmp_path / "log"
    with log.open("wb") as file:
        assert device_report.run_limited([sys.executable, "-u", "-c", script], 11.0, file)
    assert log.read_text() == "written\n"


@pytest.mark.soak
@linux
def test_a_sweep_that_is_cut_keeps_its_points_and_is_not_whole(tmp_path: Path) -> None:
    # Ctrl-C at the limit ends the one point, which would take an hour.
    scale = replace(device_report.CPU, calls_for_s=3_600.0)
    session = device_report.Session(tmp_path, scale, scale.serve, time.monotonic() + 100)
    session.server = device_report.start_server(scale.serve, tmp_path / "log", 50)
    try:
        figures, complete = session._calls(15.0)
    finally:
        session.server.stop()
    assert [point["calls"] for point in figures["points"]] == [2]
    assert 0 < figures["points"][0]["seconds"] < 60
    assert not complete


def test_a_partial_result_is_shown_until_there_is_a_whole_one(tmp_path: Path) -> None:
    device_report.write_json(tmp_path / "rates.partial.json", {"figures": {"rates": [1]}})
    assert device_report.read_parts(tmp_path, ["rates", "engine"]) == {"rates": {"rates": [1]}}
    device_report.write_json(tmp_path / "rates.json", {"figures": {"rates": [1, 2]}})
    assert device_report.read_parts(tmp_path, ["rates"]) == {"rates": {"rates": [1, 2]}}


def spread(p50: float, p95: float) -> dict[str, float]:
    return {"p50": p50, "p95": p95, "p99": p95}


# The figures of a GPU, made up: some keep their bar, some miss it.
FIGURES: dict[str, dict[str, Any]] = {
    "engine": {
        "engine": {
            "device": "a GPU",
            "weight_bytes": 1 << 30,
            "slot_bytes": 1 << 20,
            "slots": 64,
            "peak_bytes": 1 << 31,
            "batches": [
                {"batch": 1, "median_ms": 3.5, "p99_ms": 3.6, "codec_ms": 0.4},
                {"batch": 64, "median_ms": 7.5, "p99_ms": 7.6, "codec_ms": 0.9},
            ],
        }
    },
    "calls_alignment_on": {
        "points": [
            {
                "calls": 512,
                "first_audio_ms": spread(90.0, 160.0),
                "c100": 0.985,
                "streams": 500.0,
                "turns": 700,
                "failed": 1,
                "unfinished": 2,
                "busy": 0.95,
                "saturated": True,
            }
        ]
    },
    "cancels": {
        "points": [
            {
                "calls": 256,
                "cancel_to_free": {"count": 9, "p50_ms_at_most": 20.0, "p99_ms_at_most": None},
            }
        ]
    },
    "memory": {"processes": [{"pid": 1, "peak_rss_mb": 100.0}, {"pid": 2}], "gpu_used_mb": 9000.0},
    "gpu_tests": {"summary": "13 passed in 40.0s"},
}
ABOUT: dict[str, Any] = {
    "commit": "abc1234",
    "date": "2026-11-28T09:00:00",
    "device": "cuda",
    "serve_flags": ("--pool-size", "64"),
    "machine": {"cpus": 16},
    "outcomes": [{"name": "rates", "status": "left out", "reason": "3 s left"}],
}


def test_a_figure_that_misses_its_bar_is_marked() -> None:
    page = device_report.markdown(FIGURES, ABOUT)
    assert page.startswith("### Device report: a GPU (commit abc1234, 2026-11-28)\n")
    assert "| 1 | 3.50 | 3.60 | 0.40 |" in page
    assert "| 64 | **7.50** (bar 7) | 7.60 | 0.90 |" in page
    assert (
        "| 512 | 90 / **160** (bar 150) | **98.5** (bar 99) | 500.0 | 700 | 3 | 95, the limit |"
        in page
    )
    assert "p50 at most 20 ms, p99 at most **-** (bar 80) ms (9 cancels)" in page
    assert "2 processes at most: 100 MB; 9000 MB used on the GPU; engine alone: " in page
    assert "- `pytest -m gpu`: 13 passed in 40.0s" in page
    assert "- rates: left out: 3 s left" in page
    assert "**" not in device_report.markdown(FIGURES, ABOUT | {"device": "cpu"})


def test_all_parts_together_fit_into_ten_minutes(tmp_path: Path) -> None:
    for scale in (device_report.CUDA, device_report.CPU):
        session = device_report.Session(tmp_path, scale, scale.serve, 0.0)
        parts = session.parts()
        assert {part.name for part in parts} == PARTS
        assert sum(part.expected_s for part in parts) + 2 * scale.server_start_s <= 575
