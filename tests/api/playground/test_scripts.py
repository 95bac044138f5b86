"""The page's pure JavaScript, run by Node.js; skipped where there is none."""

import json
import math
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from csm_trio.api.playground import pages
from csm_trio.audio.g711 import decode_alaw, decode_ulaw
from csm_trio.audio.wav import wav_header
from csm_trio.telemetry import Metrics

FOLDER = Path(pages.__file__).parent
RUN_S = 60


@pytest.fixture
def run_script(tmp_path: Path) -> Any:
    """Return a function that runs a module beside the page's, and returns its JSON output."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not on this machine")
    for script in FOLDER.glob("*.js"):
        shutil.copy(script, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')

    def run(script: str, *values: object) -> Any:
        (tmp_path / "test.js").write_text(
            f"const values = {json.dumps(values)};\n"
            "const print = (value) => console.log(JSON.stringify(value));\n" + script,
            encoding="utf-8",
        )
        done = subprocess.run(
            [node, "test.js"], cwd=tmp_path, capture_output=True, text=True, timeout=RUN_S
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def alignment(text: str, *, from_ms: int = 0, each_ms: int = 10) -> dict[str, Any]:
    chars = list(text)
    starts = [from_ms + each_ms * index for index in range(len(chars))]
    return {"chars": chars, "charStartTimesMs": starts, "charDurationsMs": [each_ms] * len(chars)}


WORDS = """
import { WordTimes } from "./words.js";
const [deltas, alignments, times] = values;
const words = new WordTimes();
deltas.forEach((delta) => words.addText(delta));
alignments.forEach((one) => words.addAlignment(one));
print({
  words: words.words.filter((word) => !word.space).map((word) => word.text),
  starts: words.words.map((word, at) => (word.space ? null : words.starts[at] ?? -1))
    .filter((start) => start !== null),
  heard: times.map((ms) => words.textUntil(ms)),
});
"""


def test_words_start_with_their_first_character(run_script: Any) -> None:
    found = run_script(
        WORDS, ["Hel", "lo the", "re."], [alignment("Hello"), alignment(" there.", from_ms=50)],
        [-1, 0, 59, 60, 500],
    )  # fmt: skip
    assert found["words"] == ["Hello", "there."]
    assert found["starts"] == [0, 60]
    assert found["heard"] == ["", "Hello", "Hello", "Hello there.", "Hello there."]


def test_characters_that_are_not_spoken_are_stepped_over(run_script: Any) -> None:
    found = run_script(
        WORDS,
        ["So 👍🏽 <break time='1s'/> it is 😀 done."],
        [alignment("So it is done. ")],
        [70, 500],
    )
    assert found["words"][:2] == ["So", "👍🏽"]
    assert found["starts"][0] == 0
    assert found["heard"][0].endswith("it is")
    assert found["heard"][1].endswith("done.")


def test_a_character_that_is_not_in_the_text_does_no_harm(run_script: Any) -> None:
    found = run_script(WORDS, ["One two"], [alignment("One § two§§")], [500])
    assert found["heard"] == ["One two"]


@pytest.mark.parametrize(
    ("name", "decode"), [("ulaw_8000", decode_ulaw), ("alaw_8000", decode_alaw)]
)
def test_g711_is_decoded_bit_for_bit(run_script: Any, name: str, decode: Any) -> None:
    decoded = run_script(
        'import { samplesOf } from "./formats.js";\n'
        "print([...samplesOf(values[0], Uint8Array.from(values[1]))]);",
        name,
        list(range(256)),
    )
    assert [sample * 32_768 for sample in decoded] == decode(bytes(range(256))).tolist()


def test_pcm_is_decoded_exactly_and_written_as_wav(run_script: Any) -> None:
    pcm = [0, 1, -1, 32_767, -32_768, 1_234]
    got = run_script(
        'import { samplesOf } from "./formats.js";\nimport { wavFile } from "./wav.js";\n'
        "const samples = samplesOf('pcm_24000', Uint8Array.from(values[0]));\n"
        "print({ samples: [...samples], wav: [...wavFile(samples, 24000)] });",
        list(struct.pack("<6h", *pcm)),
    )
    assert [sample * 32_768 for sample in got["samples"]] == pcm
    assert bytes(got["wav"]) == wav_header(24_000, data_bytes=12) + struct.pack("<6h", *pcm)


@pytest.mark.parametrize(
    ("wanted", "heard", "rate_hz"),
    [
        ("pcm_44100", "pcm_44100", 44_100),
        ("wav_16000", "pcm_16000", 16_000),
        ("ulaw_8000", "ulaw_8000", 8_000),
        ("mp3_44100_128", "pcm_24000", 24_000),
        ("opus_48000_64", "pcm_24000", 24_000),
    ],
)
def test_each_format_has_one_to_hear(
    run_script: Any, wanted: str, heard: str, rate_hz: int
) -> None:
    got = run_script(
        'import { playbackFormat, sampleRateOf } from "./formats.js";\n'
        "const heard = playbackFormat(values[0]);\nprint([heard, sampleRateOf(heard)]);",
        wanted,
    )
    assert got == [heard, rate_hz]


def test_metrics_and_quantiles_are_those_of_the_exposition(run_script: Any) -> None:
    metrics = Metrics()
    metrics.slots.set(4)
    metrics.refusals.labels("EngineBusy").inc()
    metrics.refusals.labels("Unauthorized").inc(2)
    for _ in range(100):
        metrics.ttfa_s.observe(0.03)
    before = metrics.render().decode()
    for _ in range(10):
        metrics.ttfa_s.observe(0.3)
    metrics.ttfa_s.observe(60)
    got = run_script(
        'import { parseMetrics, quantile, since } from "./metrics.js";\n'
        "const [old, now] = values.map(parseMetrics);\n"
        "const [all, last] = [old, now].map((one) => one.histograms.csm_ttfa_seconds);\n"
        "print({ slots: now.values.csm_slots, refusals: now.values.csm_refusals_total,"
        " all: quantile(since(all), 0.5), last: quantile(since(last, all), 0.5),"
        " late: quantile(since(last, all), 0.99), none: quantile(since(last, last), 0.5),"
        " restarted: quantile(since(all, last), 0.5) });",
        before,
        metrics.render().decode(),
    )
    assert (got["slots"], got["refusals"]) == (4, 3)
    assert got["all"] == pytest.approx(0.03)
    assert 0.25 < got["last"] < 0.35
    assert got["late"] == 10.0
    assert got["none"] is None
    assert math.isclose(got["restarted"], 0.03)
