"""Where layers compute in float16, as on a T4, the residual stream of Gemma's kind stays in float32.

Its hidden states exceed float16's largest number, 65,504. Here they do so too, in real layers over real 4-bit weights.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaForCausalLM

from taigi_lightning.evaluation.self_check import self_check
from taigi_lightning.fast_path import families
from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm
from taigi_lightning.fast_path.decoder_layer import DecoderLayer
from taigi_lightning.fast_path.prefill import last_hidden
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.planning.activation_plan import EVERYTHING, INPUT_ONLY, RESIDUAL
from taigi_lightning.tasks.prefix_tree import pack_trees, token_tree
from tests.taigi_lightning.fast_path.small_decoders import SIZES, TOKENS, loss_of, with_lora, worst
from tests.taigi_lightning.fast_path.small_families import family_base

LARGEST = 65504.0
HALF, FULL = torch.float16, torch.float32


def gemma_3() -> Any:
    """The norms before the stream make it large."""
    base = family_base("Gemma 3")
    for name, parameter in base.named_parameters():
        if "post_attention_layernorm" in name or "post_feedforward_layernorm" in name:
            nn.init.normal_(parameter, mean=2e4, std=5e3)
    return base


def gemma_1() -> Any:
    """It has no such norms: its embeddings are as large as float16 holds, times their scale, and projections add."""
    torch.manual_seed(0)
    base = GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=24, tie_word_embeddings=False)).requires_grad_(
        False
    )
    base.model.embed_tokens.weight.sign_().mul_(8100.0)
    for name, parameter in base.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            parameter.mul_(1e4 if "o_proj" in name else 1e3)
    return base


@pytest.fixture(scope="module", params=[gemma_3, gemma_1])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in float16, so that both precisions pack the same numbers."""
    folder = tmp_path_factory.mktemp("large")
    request.param().to(HALF).save_pretrained(folder)
    return folder


def built(folder: Path, dtype: torch.dtype, dropout: float = 0.0) -> Any:
    base = load_base_model(str(folder), quantization="nf4", compute_dtype=dtype, device=torch.device("cpu"))
    return apply_fast_path(with_lora(base, dropout))


def scaled_gradients(model: Any) -> dict[str, Tensor]:
    """With the loss scaled, as `trainer.precision 16-mixed` does it."""
    model.zero_grad()
    (1024 * loss_of(model)).backward()
    return {n: p.grad / 1024 for n, p in model.named_parameters() if p.grad is not None}


def apart(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The residual stream after each layer's attention."""
    seen: list[Tensor] = []
    forward = DecoderLayer.forward

    def noted(self: DecoderLayer, *inputs: Any) -> tuple[Tensor, Tensor]:
        middle, delta = forward(self, *inputs)
        seen.append(middle.detach().clone())
        return middle, delta

    monkeypatch.setattr(DecoderLayer, "forward", noted)
    return seen


@pytest.mark.parametrize("saving", [EVERYTHING, INPUT_ONLY, RESIDUAL])
def test_gradients_are_float32s_where_the_stream_is_too_large_for_float16(
    folder: Path, saving: Any, streams: list[Tensor]
) -> None:
    found = {}
    for dtype in (FULL, HALF):
        model = built(folder, dtype)
        decoder = causal_lm(model).fast_decoder
        decoder.plans[tuple(TOKENS.shape)] = [saving] * len(decoder.layers)
        found[dtype] = scaled_gradients(model)
        assert streams[-1].dtype == FULL
        assert float(streams[-1].abs().max()) > LARGEST
        assert {layer.dtype for layer in decoder.layers} == {dtype}
    assert worst(found[HALF], found[FULL]) < 0.05  # 0.02, as without large numbers


def test_without_it_numbers_are_not_finite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = type(causal_lm(built(folder, FULL))).__name__
    narrow = {**families.FAMILIES[name].__dict__, "wide": False}
    monkeypatch.setitem(families.FAMILIES, name, families.Family(**narrow))
    assert not bool(torch.isfinite(loss_of(built(folder, HALF))))


def test_every_other_pass_adds_in_float32_too(folder: Path) -> None:
    """transformers' own, which `generate` takes; that of questions; and what the self-check asks of them."""
    positions = torch.arange(12).expand(2, -1)
    trees = pack_trees([token_tree([[5, 6, 7], [5, 6, 9, 4]]), token_tree([[8, 3]])])
    own, read = {}, {}
    for dtype in (FULL, HALF):
        model = built(folder, dtype).eval()
        with torch.no_grad(), torch.autocast("cpu", HALF, enabled=dtype == HALF):
            own[dtype] = model(input_ids=TOKENS, position_ids=positions).logits
            read[dtype] = last_hidden(causal_lm(model).fast_decoder, trees, torch.tensor([2, 4]))
            assert str(self_check(model, answers=True)) == ""
    assert read[HALF].dtype == HALF
    assert apart(own[HALF], own[FULL]) < 0.02
    assert apart(read[HALF], read[FULL]) < 0.02


def test_a_model_made_narrow_again_has_no_hooks_left(folder: Path) -> None:
    model = built(folder, HALF)
    base = causal_lm(model)
    base.fast_decoder.release()
    assert base.get_decoder().embed_tokens(TOKENS).dtype == HALF
    assert not any(module._forward_pre_hooks for module in base.get_decoder().layers[0].modules())


def test_fifty_steps_with_loss_scaling_learn_as_float32_does(folder: Path) -> None:
    """The scale begins where PyTorch's does and settles; a step is skipped at most where it is halved."""
    losses: dict[torch.dtype, list[float]] = {}
    for dtype in (FULL, HALF):
        model = built(folder, dtype, dropout=0.1)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-3)
        scaler = torch.amp.GradScaler("cpu", enabled=dtype == HALF)
        losses[dtype], skipped = [], 0
        for step in range(50):
            torch.manual_seed(step)
            loss = loss_of(model) / TOKENS.numel()
            losses[dtype].append(float(loss.detach()))
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(trained, 1.0)
            before = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            skipped += scaler.get_scale() < before
            optimizer.zero_grad()
        assert losses[dtype][-1] < 0.98 * losses[dtype][0]
    assert skipped <= 6
    assert scaler.get_scale() >= 1024
    assert losses[HALF][0] == pytest.approx(losses[FULL][0], rel=1e-3)
    assert losses[HALF][-1] == pytest.approx(losses[FULL][-1], rel=0.1)
