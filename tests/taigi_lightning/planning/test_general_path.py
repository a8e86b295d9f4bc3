"""The general path's memory, counted from shapes, against what autograd really saves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MistralConfig, Olmo2Config, Qwen3Config

from taigi_lightning.fast_path import own_layers
from taigi_lightning.fast_path.own_layers import speed_up_layers
from taigi_lightning.kernels import elementwise
from taigi_lightning.model.adapters import LoraSettings, attach_adapter
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.planning import general_path
from taigi_lightning.planning.memory import CONTEXT, GIB, Shape
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.training_needs import needs

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "eos_token_id": 2,
    "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
ROWS, COLUMNS, RANK = 2, 64, 16


def saved_by(config: Any, folder: Path) -> int:
    """Bytes that two packed documents a row leave for the backward pass of the whole backbone."""
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    options: dict[str, Any] = {"compute_dtype": torch.bfloat16, "device": torch.device("cpu")}
    base = load_base_model(str(folder), quantization="nf4", **options)
    model = attach_adapter(base, LoraSettings(RANK, 2 * RANK, 0.05)).train()
    speed_up_layers(base, elementwise, False)
    held = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    sizes: dict[int, tuple[int, torch.Tensor]] = {}  # the tensor with it, so that no address comes twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            sizes[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    tokens = torch.randint(3, 97, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(COLUMNS // 2).repeat(ROWS, 2)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        base.get_decoder()(input_ids=tokens, position_ids=positions, use_cache=False)
    return sum(size for size, _ in sizes.values())


@pytest.mark.parametrize(
    ("kind", "changes", "share"),
    [
        (Qwen3Config, {}, 0.01),
        (MistralConfig, {"sliding_window": 32}, 0.01),
        (Gemma3TextConfig, {"sliding_window": 32}, 0.02),
        (Olmo2Config, {}, 0.03),  # its norms of all heads together have two root mean squares, not one a head
    ],
)
def test_what_one_layer_saves_is_what_is_counted(
    kind: Any, changes: dict[str, Any], share: float, tmp_path: Path
) -> None:
    two, three = (kind(**SIZES, **changes, num_hidden_layers=layers) for layers in (2, 3))
    a_layer = saved_by(three, tmp_path / "three") - saved_by(two, tmp_path / "two")
    shape = Shape.from_config(two.to_dict())
    assert general_path.saved_bytes(shape, ROWS, COLUMNS, RANK) == pytest.approx(a_layer, rel=share)


def test_with_a_mask_it_saves_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_layers, "fuse_attention", lambda *_: False)
    two, three = (Qwen3Config(**SIZES, num_hidden_layers=layers) for layers in (2, 3))
    a_layer = saved_by(three, tmp_path / "three") - saved_by(two, tmp_path / "two")
    shape = Shape.from_config(two.to_dict())
    assert general_path.saved_bytes(shape, ROWS, COLUMNS, RANK, masked=True) == pytest.approx(
        a_layer, rel=0.01
    )
    assert not general_path.takes_mask(shape, "bf16-mixed")
    assert general_path.takes_mask(shape, "16-mixed")
    dropping = Shape.from_config({**two.to_dict(), "attention_dropout": 0.1})
    assert general_path.takes_mask(dropping, "bf16-mixed")


QWEN3 = Shape(16, 4096, 12288, 32, 8, 128, 151936, head_norm=256)
GEMMA3 = Shape(16, 3840, 15360, 16, 8, 256, 262208, tied=True, norms=4, head_norm=512)


def more_before(shape: Shape, tokens: int, layers: int) -> int:
    """Bytes more before norms and MLPs were one operation: norms' inputs in float32 and what gate and up make, for each
    layer that kept everything, and once the gradients of what gate and up make."""
    kept = shape.norms * shape.hidden + 2 * shape.intermediate
    kept += (shape.heads + shape.kv_heads) * shape.head_size  # of q's and k's norms
    return tokens * (layers * kept + 2 * shape.intermediate) * 2


def more_by_mask(shape: Shape, rows: int, columns: int) -> int:
    """Bytes more that one layer kept before it attended by what its mask says: k and v for every query head, and a
    mask. Of rows that are one document each, layers with a window alone."""
    repeated = 2 * (shape.heads - shape.kv_heads) * shape.head_size
    return rows * columns * (repeated + columns) * 2


@pytest.mark.parametrize(
    ("shape", "budget", "measured", "before", "masked"),
    [
        (QWEN3, 1.0, 19.4, False, 0),
        (QWEN3, 0.5, 12.9, False, 0),
        (QWEN3, 0.0, 7.1, False, 0),
        (QWEN3, 1.0, 29.4, True, 0),
        (QWEN3, 0.0, 8.2, True, 0),
        (GEMMA3, 1.0, 39.2, True, 14),
        (GEMMA3, 0.0, 8.7, True, 1),
    ],
)
def test_what_was_measured_lies_within_the_margin(
    shape: Shape, budget: float, measured: float, before: bool, masked: int
) -> None:
    """GiB that PyTorch reserved on an H200: NF4, LoRA r 64, 4 x 2048 tokens, one document a row, 8-bit AdamW."""
    settings = Settings(rank=64, activation_budget=budget, optimizer="bitsandbytes.optim.AdamW8bit")
    planned = needs(settings, shape, general="measured there").total - CONTEXT
    if before:
        planned += more_before(shape, settings.tokens, max(1, int(shape.layers * budget)))
    planned += masked * more_by_mask(shape, settings.batch_size, settings.max_length)
    assert planned / GIB == pytest.approx(measured, rel=general_path.MARGIN)


@pytest.mark.parametrize(
    ("gib", "least", "most"), [(7, 0, 0), (12, 1, 8), (16, 6, 12), (20, 10, 15), (80, 16, 16)]
)
def test_auto_keeps_as_many_layers_as_the_card_holds(gib: int, least: int, most: int) -> None:
    settings = Settings(rank=64, optimizer="bitsandbytes.optim.AdamW8bit")
    found = needs(settings, QWEN3, gib * GIB, general="it is another architecture")
    kept, usable = found.decisions.layers_kept, gib * GIB * (1 - general_path.MARGIN)
    assert least <= kept <= most
    assert kept == 0 or found.total <= usable
    a_layer = general_path.saved_bytes(QWEN3, settings.batch_size, settings.max_length, 64)
    assert kept == 16 or found.total > usable - a_layer
    assert kept == 0 or found.total > needs(settings, QWEN3, general="it is another architecture").total
    share = needs(replace(settings, activation_budget=0.5), QWEN3, general="it is another architecture")
    assert share.decisions.layers_kept == 8
