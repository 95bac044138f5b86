"""Loading: the host memory that it takes, the log, and the CUDA device that it selects."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_finite_codec, load_model, load_runner
from csm_trio.engine.placement import Placement, choose_placement
from csm_trio.errors import StartupError
from csm_trio.model.checkpoint.random_weights import random_weights
from csm_trio.model.checkpoint.read_config import read_config
from csm_trio.model.mimi.overflow import stays_finite
from support.tiny_csm import (
    tiny_config,
    write_generation_config,
    write_tiny_checkpoint,
    write_tokenizer,
)

SHARDS = 3

MEASURE = """
import json, sys
from pathlib import Path
import torch
from csm_trio.config import EngineConfig
from csm_trio.engine.load import load_model
from csm_trio.engine.memory import weight_bytes
from csm_trio.model.checkpoint.tensor_files import open_tensors

def peak():  # of this program: ru_maxrss begins with that of the process it was started by
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return 1024 * int(status["VmHWM"].split()[0])

tiny, large = map(Path, sys.argv[1:])
load_model(EngineConfig(device="cpu", weights_path=tiny))  # libraries are loaded once
before = peak()
for shard in sorted(large.glob("*.safetensors")):
    for stored in open_tensors(shard):
        stored.load(torch.device("cpu"))  # and released, like a copy to a device
passed_through = peak() - before
loaded = load_model(EngineConfig(device="cpu", weights_path=large))
print(json.dumps([passed_through, peak() - before, weight_bytes(loaded.model, loaded.codec)]))
"""


def write_large_checkpoint(folder: Path) -> int:
    """Write a few hundred megabytes of noise in shards; return the largest one's bytes."""
    tiny_config(
        hidden_size=1024, intermediate_size=3072, num_hidden_layers=8, head_dim=64,
        num_attention_heads=16, num_key_value_heads=4,
    ).save_pretrained(folder)  # fmt: skip
    write_generation_config(folder)
    write_tokenizer(folder)
    config = read_config(folder / "config.json", None)
    tensors = random_weights(config, device=torch.device("cpu"), dtype=torch.float32)
    total = sum(tensor.nbytes for tensor in tensors.values())
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in tensors.items():
        if sum(held.nbytes for held in shards[-1].values()) > total / SHARDS:
            shards.append({})
        shards[-1][name] = tensor
    weight_map: dict[str, str] = {}
    for number, held in enumerate(shards):
        save_file(held, folder / f"model-{number}.safetensors")
        weight_map |= dict.fromkeys(held, f"model-{number}.safetensors")
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return max(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_loading_takes_at_most_half_again_its_largest_shard_of_host_memory(
    tmp_path: Path,
) -> None:
    """On a CPU that comes on top of the model itself, which is in memory once."""
    tiny = write_tiny_checkpoint(tmp_path / "tiny")
    largest = write_large_checkpoint(tmp_path / "large")
    ended = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tiny), str(tmp_path / "large")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    passed_through, whole, weights = json.loads(ended.stdout)
    assert weights > 2.5 * largest  # else the bound below would hold a second copy
    assert passed_through < 1.5 * largest
    assert whole < weights + 1.5 * largest


def test_the_log_names_model_device_precision_and_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="csm_trio"):
        load_runner(EngineConfig(device="cpu", pool_size=2))
    expected = [
        r"loading the embedded voice onto cpu in float32",
        r"Loaded the embedded voice: [\d.]+ M values in \d+\.\d s\.",
        r"using the embedded demonstration voice; .*",
        r"memory on cpu: [\d.]+ MiB of weights \+ \(2 slots \+ 1\) x [\d.]+ MiB "
        r"\+ [\d.]+ MiB of prefix cache at most = .*",
        r"making 2 slots and warming them up",
        r"alignment head: layer \d+, head \d+, share 0\.\d\d \(\d+\.\d s\)",
        r"warm after \d+\.\d s",
        r"the embedded voice on cpu in float32: 2 slots; codec in float32",
    ]
    logged = [message for message in caplog.messages if " of 2 slots" not in message]
    assert len(logged) == len(expected)
    for pattern, message in zip(expected, logged, strict=True):
        assert re.fullmatch(pattern, message), message


def test_a_numbered_device_becomes_current_before_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    selected: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", selected.append)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 1 << 30))
    with pytest.raises(StartupError, match=r"cuda:1 has 0.0 MiB left"):
        load_model(EngineConfig(device="cuda:1"))
    assert selected == [torch.device("cuda:1")]


def test_a_codec_that_overflows_in_f16_runs_in_f32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_tiny_checkpoint(tmp_path)
    sizes = read_config(tmp_path / "config.json", None)
    cpu = torch.device("cpu")
    placement = Placement(cpu, torch.float32, codec_dtype=torch.float16)
    tensors = random_weights(sizes, device=cpu, dtype=torch.float32)
    assert load_finite_codec(sizes.codec, tensors, placement).dtype == torch.float16
    caplog.clear()
    tensors["codec_model.decoder.layers.0.conv.weight"] *= 1e6
    codec = load_finite_codec(sizes.codec, tensors, placement)
    assert codec.dtype == torch.float32
    assert stays_finite(codec, sizes.codec)
    assert caplog.messages == [
        "the codec of these weights overflows in float16: it runs in float32"
    ]


@pytest.mark.parametrize("dtype", ["auto", "f32", "f16", "bf16"])
def test_the_codec_runs_in_f16_on_cuda_whatever_the_models_type(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    placement = choose_placement(EngineConfig(device="cuda", dtype=dtype))
    assert placement.codec_dtype == torch.float16
    on_cpu = choose_placement(EngineConfig(device="cpu", dtype=dtype))
    # On a CPU f32 is faster than f16, in which the codec's values may overflow.
    assert on_cpu.codec_dtype == (torch.float32 if dtype == "f16" else on_cpu.dtype)
