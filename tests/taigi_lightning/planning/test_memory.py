"""The bytes that `plan` counts, against those of models that are really loaded."""

import json
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch

from taigi_lightning.model.adapters import LoraSettings, attach_adapter
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.planning import memory
from taigi_lightning.planning.memory import PROJECTIONS, Shape


def quantised_bytes(weight: bnb.nn.Params4bit) -> int:
    """Bytes of every tensor of one 4-bit weight and its quantisation state."""
    state = weight.quant_state
    tensors = [weight.data, state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return sum(t.nbytes for t in tensors)


@pytest.fixture(scope="module")
def base(tiny_llama_dir: Path) -> torch.nn.Module:
    """The tiny base in 4 bits."""
    cpu = torch.device("cpu")
    return load_base_model(str(tiny_llama_dir), quantization="nf4", compute_dtype=torch.bfloat16, device=cpu)


@pytest.fixture(scope="module")
def shape(tiny_llama_dir: Path) -> Shape:
    return Shape.from_config(json.loads((tiny_llama_dir / "config.json").read_text()))


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (128, 64), (5, 7), (1024, 300), (513, 641)])
def test_a_4_bit_weight_takes_the_bytes_that_bitsandbytes_stores(rows: int, columns: int) -> None:
    weight = bnb.nn.Params4bit(
        torch.randn(rows, columns), requires_grad=False, compress_statistics=True, quant_type="nf4"
    )
    assert memory.nf4_bytes(rows * columns) == quantised_bytes(weight.to("cpu"))


def test_the_weights_of_a_loaded_base_are_counted_to_the_byte(base: torch.nn.Module, shape: Shape) -> None:
    packed = [p for p in base.parameters() if isinstance(p, bnb.nn.Params4bit)]
    rest = [p for p in base.parameters() if not isinstance(p, bnb.nn.Params4bit)]
    found = (sum(quantised_bytes(p) for p in packed), sum(p.nbytes for p in rest))
    assert memory.weight_bytes(shape, "nf4") == found


def test_adapter_and_optimizer_state_are_counted_to_the_byte(tiny_llama_dir: Path, shape: Shape) -> None:
    cpu = torch.device("cpu")
    model = load_base_model(str(tiny_llama_dir), quantization="none", compute_dtype=torch.float32, device=cpu)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    lora = attach_adapter(model, LoraSettings(r=8, target_modules=["q_proj", "down_proj"]))
    trained = [p for p in lora.parameters() if p.requires_grad]
    sizes = memory.adapter_sizes(shape, 8, ["q_proj", "down_proj"])
    assert sorted(sizes) == sorted(p.numel() for p in trained)
    optimizer = torch.optim.AdamW(trained)
    for p in trained:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    state = sum(s.nbytes for one in optimizer.state.values() for name, s in one.items() if name != "step")
    assert memory.optimizer_bytes("torch.optim.AdamW", sizes) == state


def test_the_real_base_trains_as_many_parameters_as_peft_counts() -> None:
    shape = Shape(40, 5120, 13824, 40, 40, 128, 56064)
    assert sum(memory.adapter_sizes(shape, 64, PROJECTIONS)) == 250_347_520


def test_the_optimizers_coming_state_is_counted_until_it_is_there() -> None:
    weight = torch.nn.Parameter(torch.zeros(100, 50))
    optimizer = torch.optim.AdamW([weight])
    assert memory.coming_state_bytes(optimizer) == 8 * 5000
    assert memory.coming_state_bytes(bnb.optim.AdamW8bit([weight])) == 2 * (5000 + 4 * 20)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert memory.coming_state_bytes(optimizer) == 0
