"""q and k of transformers' own layers are rotated in one operation where that is what their function does."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as interleaved
from transformers.models.qwen3.modeling_qwen3 import apply_rotary_pos_emb as plain
from transformers.models.qwen3.modeling_qwen3 import rotate_half

from taigi_lightning.fast_path.apply import apply_fast_path
from taigi_lightning.fast_path.rotations import NAME, _instead, _is_ours, _Rotation, fuse_rotation
from taigi_lightning.kernels import elementwise
from tests.taigi_lightning.fast_path.small_decoders import SIZES, gradients, with_lora, worst
from tests.taigi_lightning.fast_path.small_general import ATTENTION

B, T, D = 2, 5, 16


def drawn(dtype: torch.dtype = torch.float32, heads_first: bool = False, width: int = D) -> list[Tensor]:
    """q, k, cos and sin: a model's q and k lie by tokens in memory, and may be a part of each head."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for heads in 4, 2:
        shape = (B, heads, T, width) if heads_first else (B, T, heads, width)
        x = torch.randn(shape, generator=generator).to(dtype)[..., :D]
        found.append(x if heads_first else x.transpose(1, 2))
    angles = torch.randn(B, T, D // 2, generator=generator)
    tables = (torch.cat([table, table], -1).to(dtype) for table in (angles.cos(), angles.sin()))
    return [*found, *tables]


def turned(rotate: Any, given: list[Tensor], grads_heads_first: bool = True) -> list[Tensor]:
    """Results and gradients of q and k, these from gradients in another order of memory than the results."""
    q, k = (x.detach().requires_grad_() for x in given[:2])
    results = rotate(q, k, *given[2:])
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(r.shape, generator=generator).to(r.dtype) for r in results]
    if not grads_heads_first:
        grads = [g.transpose(1, 2).contiguous().transpose(1, 2) for g in grads]
    return [*(r.detach() for r in results), *torch.autograd.grad(results, [q, k], grads)]


def ours(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _Rotation.apply(q, k, cos, sin, elementwise)
    return result


@pytest.mark.parametrize("heads_first", [True, False])
@pytest.mark.parametrize("grads_heads_first", [True, False])
@pytest.mark.parametrize("width", [D, D + 8])
def test_it_turns_as_transformers_does(heads_first: bool, grads_heads_first: bool, width: int) -> None:
    given = drawn(heads_first=heads_first, width=width)
    wanted = turned(plain, given, grads_heads_first)
    for found, other in zip(turned(ours, given, grads_heads_first), wanted, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-6)
    if width == D:
        assert ours(*given)[0].stride() == plain(*given)[0].stride()  # what follows finds heads as before


def test_expanded_gradients_and_changes_in_place_are_taken() -> None:
    q, k, cos, sin = drawn()
    found = []
    for rotate in ours, plain:
        leaf = q.detach().requires_grad_()
        first, second = rotate(leaf, k, cos, sin)
        found += torch.autograd.grad(first.mul_(2.0).sum() + second.sum(), leaf)
    torch.testing.assert_close(*found)


def test_in_16_bits_it_rounds_once() -> None:
    exact = turned(plain, [x.float() for x in drawn(torch.bfloat16)])
    for found, own, wanted in zip(
        turned(ours, drawn(torch.bfloat16)), turned(plain, drawn(torch.bfloat16)), exact, strict=True
    ):
        assert found.dtype == torch.bfloat16
        assert (found - wanted).norm() < (own - wanted).norm()


def without_negation(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return plain(q, k, cos, -sin)  # type: ignore[no-any-return]


def q_alone(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return plain(q, k, cos, sin)[0], k


def of_one(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos + rotate_half(x) * sin  # type: ignore[no-any-return]


@pytest.mark.parametrize("other", [interleaved, without_negation, q_alone, of_one])
def test_other_rotations_are_told_apart(other: Any) -> None:
    assert not _is_ours(other)
    assert _is_ours(plain)


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, cos, sin: (q, k, cos.bfloat16(), sin),
        lambda q, k, cos, sin: (q, k, cos[:1], sin[:1]),
        lambda q, k, cos, sin: (q, k, cos.clone().requires_grad_(), sin),
        lambda q, k, cos, sin: (q.transpose(2, 3).contiguous().transpose(2, 3), k, cos, sin),
        lambda q, k, cos, sin: (q, k, cos.flip(2).cumsum(2), sin),  # halves unlike each other
    ],
    ids=["other precision", "one row of tables", "trained tables", "heads not in one piece", "unlike halves"],
)
def test_what_the_operation_is_not_made_for_goes_through_transformers_own(change: Any) -> None:
    calls: list[Any] = []

    def noted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return plain(*args, **options)

    given, rotate = list(change(*drawn())), _instead(noted, elementwise)
    torch.testing.assert_close(turned(rotate, given), turned(plain, given))
    assert len(calls) == 1
    usual = _instead(noted, elementwise)
    usual(*drawn())
    assert len(calls) == 1
    usual(*drawn(), unsqueeze_dim=1)
    with torch.no_grad():
        usual(*drawn())
    assert len(calls) == 3


def test_a_row_of_one_token_says_nothing_of_the_tables() -> None:
    rotate, (q, k, cos, sin) = _instead(plain, elementwise), drawn()
    rotate(q, k, torch.ones_like(cos), torch.zeros_like(sin))
    unlike = [q, k, cos.flip(2).cumsum(2), sin]
    torch.testing.assert_close(turned(rotate, unlike), turned(plain, unlike))


@pytest.mark.parametrize(
    ("kind", "changes", "count"),
    [
        ("stablelm", {}, 2),  # a quarter of each head
        ("qwen3_moe", {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}, 2),
        ("glm4", {"head_dim": 16}, 0),
    ],
)  # fmt: skip
def test_gradients_of_whole_models_stay_the_same(kind: str, changes: Any, count: int) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **changes})
    base = AutoModelForCausalLM.from_config(config, dtype=torch.float32).requires_grad_(False)
    model = with_lora(base, targets=ATTENTION)
    wanted = gradients(model)
    for budget in (0.0, 0.5, 1.0):
        apply_fast_path(model, activation_budget=budget)
        assert worst(gradients(model), wanted) < 1e-5
    replaced = [module for module in model.modules() if "Attention" in type(module).__name__]
    own = {type(m).forward.__globals__[NAME] for m in replaced}
    assert all(
        name.__module__.startswith("transformers.") for name in own
    )  # other models of the class keep it
    found = [m.forward.__func__.__globals__[NAME] for m in replaced if "forward" in vars(m)]
    assert len([name for name in found if name not in own]) == count


def test_what_has_a_forward_pass_of_its_own_already_is_left_alone() -> None:
    config = AutoConfig.for_model("stablelm", **SIZES)
    attention = AutoModelForCausalLM.from_config(config).model.layers[0].self_attn
    assert fuse_rotation(attention, elementwise)
    assert not fuse_rotation(attention, elementwise)
