"""A base whose packed weights wait on the host: the same bits as any 4-bit base, and never two copies of them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from taigi_lightning.kernels.host_memory import held_in_place
from taigi_lightning.model.adapters import LoraSettings, attach_adapter
from taigi_lightning.model.base_model import load_base_model

CPU = torch.device("cpu")


def load(folder: Path, dtype: torch.dtype, on_host: bool) -> Any:
    return load_base_model(
        str(folder), quantization="nf4", compute_dtype=dtype, device=CPU, weights_on_host=on_host
    )


def tensors(model: Any) -> dict[str, Tensor]:
    """Every weight, and every tensor of the packed ones' scales."""
    found = dict(model.named_parameters())
    for name, p in model.named_parameters():
        if isinstance(p, bnb.nn.Params4bit):
            found |= {f"{name}.{k}": v for k, v in p.quant_state.as_dict(packed=True).items()}
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_weights_are_bit_for_bit_those_of_a_plain_4_bit_base(
    tiny_llama_dir: Path, dtype: torch.dtype
) -> None:
    plain, waiting = (load(tiny_llama_dir, dtype, on_host) for on_host in (False, True))
    wanted, found = tensors(plain), tensors(waiting)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert {n: p.dtype for n, p in found.items()} == {n: p.dtype for n, p in wanted.items()}
    assert waiting.config.to_dict() == plain.config.to_dict()
    assert waiting.is_loaded_in_4bit
    assert not any(p.requires_grad for p in waiting.parameters())


def test_just_the_packed_weights_stay_when_the_model_moves(tiny_llama_dir: Path) -> None:
    model = load(tiny_llama_dir, torch.float32, on_host=True)
    held = {name for name, module in model.named_modules() if held_in_place(module)}
    assert held == {name for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)}
    lora = attach_adapter(model, LoraSettings(r=4))
    lora.to(torch.float64)
    assert {p.dtype for n, p in lora.named_parameters() if "lora_" in n or "norm" in n} == {torch.float64}


# Memory that no file backs: pages of a mapped file are the system's to drop.
PEAK = """
import sys, threading, time
from pathlib import Path
import torch
from taigi_lightning.model.base_model import load_base_model

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

def peak(**options):
    found, done = [anonymous()], threading.Event()
    def watch():
        while not done.is_set():
            found.append(anonymous())
            time.sleep(0.002)
    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load_base_model(sys.argv[1], quantization="nf4", compute_dtype=torch.bfloat16,
                            device=torch.device("cpu"), weights_on_host=True, **options)
    done.set()
    watcher.join()
    del model
    return max(found) - found[0]

print(peak(packed_cache=sys.argv[2]), peak(packed_cache=sys.argv[2]))
"""


@pytest.mark.posix("/proc")
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what a process holds")
def test_loading_holds_the_packed_weights_and_little_more(tmp_path: Path) -> None:
    """Packed anew and kept on disk, or read from there: the packed weights, one shard, and what is worked on."""
    config = LlamaConfig(
        vocab_size=512, hidden_size=1024, intermediate_size=4096, num_hidden_layers=8, num_attention_heads=8
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base", max_shard_size="40MB")
    sixteen_bits = sum(p.nbytes for p in model.parameters())
    # Large blocks go back to the system when they are freed, so that what is seen is what is held.
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "base"), str(tmp_path / "cache")],
        capture_output=True, text=True, check=True, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
    )  # fmt: skip
    packed, shard, working = 0.27 * sixteen_bits, 40e6, 60e6  # bitsandbytes packs in float32 on a CPU
    anew, again = map(int, done.stdout.split()[-2:])
    assert anew < packed + shard + working < 0.7 * sixteen_bits
    assert again < packed + shard
