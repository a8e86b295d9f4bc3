"""A merge gives a model that plain transformers loads and that computes what base + adapter compute."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from taigi_lightning.errors import InputError
from taigi_lightning.model.base_model import nf4_config
from taigi_lightning.model.lineage import base_identity, write_lineage
from taigi_lightning.model.merge import Onto, merge_adapter
from taigi_lightning.planning.memory import PROJECTIONS
from tests.taigi_lightning.model.saved_adapters import save_adapter, save_base
from tests.warm_python import WarmPython

IDS = torch.arange(1, 33)[None]  # (B=1, T=32)


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(IDS).logits  # type: ignore[no-any-return]


def reference_logits(base: Path, adapter: Path) -> torch.Tensor:
    """Base + adapter in float32 through PEFT alone."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(model, adapter))


def merged_logits(folder: Path) -> torch.Tensor:
    return logits(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"use_rslora": True},
        {
            "rank_pattern": {"q_proj": 4, r"layers\.1\.mlp\.up_proj": 2},
            "alpha_pattern": {"0.mlp.down_proj": 64},
        },
        {"target_modules": ["q_proj", "lm_head"]},
    ],
    ids=["plain", "rslora", "patterns", "lm_head"],
)
def test_merged_model_computes_what_base_and_adapter_compute(tmp_path: Path, lora: dict[str, Any]) -> None:
    base = save_base(tmp_path / "base", dtype=torch.float32)
    adapter = save_adapter(base, tmp_path / "adapter", **lora)
    report = merge_adapter(base, adapter, tmp_path / "merged")
    assert report.weights == len(load_file(adapter / "adapter_model.safetensors")) // 2
    wanted = reference_logits(base, adapter)
    assert (wanted - merged_logits(base)).abs().max() > 0.1
    torch.testing.assert_close(merged_logits(tmp_path / "merged"), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard_size", ["20KB", "1GB"])
def test_a_16_bit_merge_is_the_reference_to_rounding(tmp_path: Path, tied: bool, shard_size: str) -> None:
    base = save_base(tmp_path / "base", tie_word_embeddings=tied, shard_size=shard_size)
    index = base / "model.safetensors.index.json"
    if single := not index.exists():  # one of an earlier save in several files
        index.write_text('{"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}')
    assert single == (shard_size == "1GB")
    adapter = save_adapter(base, tmp_path / "adapter", r=2, lora_alpha=2)
    merge_adapter(base, adapter, tmp_path / "merged")
    assert (tmp_path / "merged" / index.name).exists() != single
    wanted, found = reference_logits(base, adapter), merged_logits(tmp_path / "merged")
    assert (wanted - found).norm() < 0.01 * wanted.norm()
    change = (wanted - merged_logits(base)).norm()
    assert (wanted - found).norm() < 0.05 * change


def test_onto_the_dequantised_weights_is_the_function_that_was_trained(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", dtype=torch.float32)
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])
    merge_adapter(base, adapter, tmp_path / "merged", onto="dequantized")
    quantised = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=nf4_config(torch.float32), device_map="cpu"
    )
    # As in training (dropout is 0 here): for inference bitsandbytes multiplies in bfloat16 on some CPUs.
    wanted = logits(PeftModel.from_pretrained(quantised, adapter).train())
    torch.testing.assert_close(merged_logits(tmp_path / "merged"), wanted, rtol=1e-3, atol=1e-3)


def test_weights_that_the_adapter_leaves_alone_and_files_beside_them_are_copied(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    merge_adapter(base, adapter, tmp_path / "merged")
    for file in base.iterdir():
        merged = tmp_path / "merged" / file.name
        if file.suffix != ".safetensors":
            assert merged.read_bytes() == file.read_bytes(), file.name
            continue
        assert merged.stat().st_size == file.stat().st_size
        after = load_file(merged)
        for name, weight in load_file(file).items():
            assert torch.equal(weight, after[name]) == ("q_proj" not in name), name


def test_an_untrained_adapter_changes_no_byte_and_two_merges_are_alike(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    fresh = save_adapter(base, tmp_path / "fresh", init_lora_weights=True)
    trained = save_adapter(base, tmp_path / "trained")
    for name, adapter in {"a": fresh, "b": trained, "c": trained}.items():
        merge_adapter(base, adapter, tmp_path / name)
    assert contents(tmp_path / "a") == contents(base)
    assert contents(tmp_path / "b") == contents(tmp_path / "c") != contents(base)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_report_says_how_much_a_second_quantisation_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_base(tmp_path / "base", hidden_size=256, intermediate_size=512)
    adapter = save_adapter(base, tmp_path / "adapter", r=1, lora_alpha=0.01)
    report = merge_adapter(base, adapter, tmp_path / "merged", onto="dequantized")
    assert set(report.survival) == set(PROJECTIONS)
    assert report.overall.fraction_4bit < 0.5
    assert "of the update, less than 99 %" in str(report)
    assert "16 bits keep " in str(report)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("Merging model-00001-of-") for line in lines)


def test_an_earlier_model_is_replaced_and_folders_beside_it_are_left_alone(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", shard_size="100KB")
    output = tmp_path / "merged"
    adapter = save_adapter(base, output / "adapter")
    (output / "checkpoints").mkdir()
    (output / "checkpoints" / "last.ckpt").write_text("kept")
    (output / "config.json").write_text("{}")
    (output / "model-00001-of-00099.safetensors").write_text("of an earlier model")
    merge_adapter(base, adapter, output)
    assert (output / "checkpoints" / "last.ckpt").read_text() == "kept"
    assert (output / "adapter" / "adapter_model.safetensors").exists()
    assert not (output / "model-00001-of-00099.safetensors").exists()
    assert not (output / ".partial").exists()
    wanted = reference_logits(base, adapter)
    assert (wanted - merged_logits(output)).norm() < 0.05 * wanted.norm()


# Ends itself with SIGKILL at the given call of a function: of writing a shard, or of renaming a file.
KILLED_MERGE = """
import os, signal, sys
from pathlib import Path
from taigi_lightning.model import merge as merging
base, adapter, output, name, count = sys.argv[1:]
owner = merging if name == "rewrite_shard" else Path
original, calls = getattr(owner, name), []
def counted(*arguments):
    calls.append(1)
    if len(calls) == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
setattr(owner, name, counted)
merging.merge_adapter(base, Path(adapter), Path(output))
"""


@pytest.mark.posix("SIGKILL")
@pytest.mark.parametrize(("name", "count"), [("rewrite_shard", 3), ("replace", 1), ("replace", 7)])
def test_killed_half_way_nothing_loads_and_a_second_run_succeeds(
    tmp_path: Path, name: str, count: int, warm_python: WarmPython
) -> None:
    base = save_base(tmp_path / "base")
    output = tmp_path / "merged"
    adapter = save_adapter(base, output / "adapter")
    arguments = [str(base), str(adapter), str(output), name, str(count)]
    command = [warm_python.executable, "-c", KILLED_MERGE, *arguments]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert list(output.rglob("model-*.safetensors"))
    for folder in (output, output / ".partial"):
        with pytest.raises((OSError, ValueError)):
            AutoModelForCausalLM.from_pretrained(folder)
    merge_adapter(base, adapter, output)
    wanted = reference_logits(base, adapter)
    assert (wanted - merged_logits(output)).norm() < 0.05 * wanted.norm()
    assert not (output / ".partial").exists()


# Not ru_maxrss: that begins with what the process took that started this one, the test's.
MEASURED_MERGE = """
import re, sys
from pathlib import Path
from taigi_lightning.model.lineage import base_identity, write_lineage
from taigi_lightning.model.merge import merge_adapter
for base in map(Path, sys.argv[1:]):
    merge_adapter(base, base / "adapter", base / "merged")
    print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.posix("/proc")
def test_memory_depends_on_the_largest_shard_and_not_on_the_model(tmp_path: Path) -> None:
    shard_bytes = 2 * 2048 * 4096
    for layers in (8, 32):  # with fewer the allocator has not yet taken all that it keeps for later
        folder = tmp_path / f"{layers}-layers"
        (folder / "adapter").mkdir(parents=True)
        sizes = {"hidden_size": 4096, "intermediate_size": 2048, "num_hidden_layers": layers}
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
        weight_map, lora = {}, {}
        for layer in range(layers):
            module = f"model.layers.{layer}.mlp.up_proj"
            weight_map[f"{module}.weight"] = f"model-{layer:05}.safetensors"
            weight = torch.full((2048, 4096), 0.02).bfloat16()
            save_file({f"{module}.weight": weight}, folder / f"model-{layer:05}.safetensors")
            lora[f"base_model.model.{module}.lora_A.weight"] = torch.ones(64, 4096)
            lora[f"base_model.model.{module}.lora_B.weight"] = torch.full((2048, 64), 1e-4)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        save_file(lora, folder / "adapter" / "adapter_model.safetensors")
        LoraConfig(r=64).save_pretrained(folder / "adapter")
    command = [sys.executable, "-c", MEASURED_MERGE, tmp_path / "8-layers", tmp_path / "32-layers"]
    ended = subprocess.run(command, capture_output=True, check=True, text=True)
    small, large = map(int, ended.stdout.split())
    assert large - small < 2 * shard_bytes
    assert large < 1.5 * shard_bytes + 2**30


def test_a_merge_rounds_stochastically(tmp_path: Path) -> None:
    """An update far below a bfloat16 weight's precision is kept on average; rounding to the nearest would drop it."""
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", lora_alpha=8)
    weights = load_file(adapter / "adapter_model.safetensors")
    small = {name: value * (2e-3 if "lora_B" in name else 1) for name, value in weights.items()}
    save_file(small, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    report = merge_adapter(base, adapter, tmp_path / "merged")
    assert report.overall.size < 2e-3
    assert report.overall.fraction_16bit == pytest.approx(1.0, abs=0.1)


def test_a_merge_checks_the_adapters_lineage(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    other = save_base(tmp_path / "other", dtype=torch.float16)
    write_lineage(adapter, base=base_identity(other))
    with pytest.raises(InputError, match="not the one this was trained on"):
        merge_adapter(base, adapter, tmp_path / "merged")
    assert not (tmp_path / "merged" / "config.json").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("onto", ["original", "dequantized"])
def test_a_gpu_gives_the_same_model(tmp_path: Path, onto: Onto) -> None:
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    for device in ("cpu", "cuda"):
        merge_adapter(base, adapter, tmp_path / device, onto=onto, device=device)
    on_gpu, on_cpu = merged_logits(tmp_path / "cuda"), merged_logits(tmp_path / "cpu")
    assert (on_gpu - on_cpu).norm() < 0.02 * on_cpu.norm()
