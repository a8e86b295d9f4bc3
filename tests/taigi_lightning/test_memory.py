"""The bytes that `plan` counts, against those of models that are really loaded."""

import json
import math
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from transformers import AutoConfig

from taigi_lightning import activation_plan, memory
from taigi_lightning.adapters import PROJECTIONS, LoraSettings, attach_adapter
from taigi_lightning.base_model import load_base_model
from taigi_lightning.memory import Shape


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


@pytest.mark.parametrize(("tokens", "element_size"), [(8192, 2), (300, 4)])
def test_activations_are_those_the_fast_path_plans_with(
    tiny_llama_dir: Path, shape: Shape, tokens: int, element_size: int
) -> None:
    config = AutoConfig.from_pretrained(tiny_llama_dir)
    sizes = activation_plan.layer_bytes(config, tokens, element_size)
    assert memory.layer_bytes(shape, tokens, element_size) == sizes
    assert memory.working_bytes(shape, tokens, element_size) == activation_plan.working_bytes(
        config, tokens, element_size
    )


@pytest.mark.parametrize("budget", [0.0, 0.02, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("host_room", [0.0, 90_000.0, 200_000.0, math.inf])
def test_layers_keep_what_the_fast_path_lets_them(shape: Shape, budget: float, host_room: float) -> None:
    sizes = memory.layer_bytes(shape, 100, 2)
    layers = 7
    room = budget * sum(sizes.values()) * layers
    savings = activation_plan.plan_savings(layers, sizes, room, host_room)
    wanted = [(saving.device, saving.host) for saving in savings]
    assert memory.choose_savings(layers, sizes, room, host_room) == wanted
