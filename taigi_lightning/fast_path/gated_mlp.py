"""The gated MLP of transformers' own layers as one operation: gate and up as one product, and little kept.

Transformers keeps gate, its activation, up and their product for the backward pass; here it is gate and up, as on the
fast path. Which module is such an MLP is taken from no list: its projections are replaced by known values for one call,
and what it makes of them is compared. What computes anything else is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from types import ModuleType
from typing import Any, get_args

import torch
from torch import Tensor

from taigi_lightning.fast_path.fallback import draw_dropout, is_joinable
from taigi_lightning.fast_path.nf4_linear import ProjectionGroup
from taigi_lightning.fast_path.watched_modules import WatchedModules, expect_versions, heard, versions
from taigi_lightning.kernels import elementwise
from taigi_lightning.kernels.elementwise import Activation, Dropout
from taigi_lightning.kernels.products import float32_product


class GatedMlp:
    """down(activation(gate(x)) * up(x)): K inputs and outputs, F between. first: gate and up, or what holds both."""

    def __init__(
        self, first: list[Any], down: Any, activation: Activation, ops: ModuleType, fused: bool
    ) -> None:
        self.gate_up, self.down = ProjectionGroup(first, fused), ProjectionGroup([down], fused)
        self.activation, self.ops = activation, ops

    def forward(
        self, rows: Tensor, dropouts: tuple[Dropout, Dropout]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y (M, K) from rows (M, K); gate_up (M, 2F), and LoRA's hidden activations of both products."""
        inputs = self.gate_up.buffer(rows)
        self.ops.copy_project(
            rows, inputs[:, : self.gate_up.in_features], *self.gate_up.sides(inputs), dropouts[0]
        )
        gate_up, hidden = self.gate_up.multiply(inputs)
        del inputs
        inputs = self.down.buffer(gate_up)
        product = inputs[:, : self.down.in_features]
        self.ops.glu_project(gate_up, product, *self.down.sides(inputs), dropouts[1], self.activation)
        y, down_hidden = self.down.multiply(inputs)
        return y, gate_up, hidden, down_hidden

    def backward(
        self, grad: Tensor, saved: tuple[Tensor, ...], dropouts: tuple[Dropout, Dropout]
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradients of rows and of `parameters()`, from that of y; overwrites gate_up."""
        rows, gate_up, hidden, down_hidden = saved
        direct, side, hidden_grad = self.down.backward(grad, bool(dropouts[1]))
        grad_gate_up, dropped = self.ops.glu_backward(direct, side, gate_up, dropouts[1], self.activation)
        down = self.down.gradients(grad, down_hidden, float32_product(hidden_grad.t(), dropped))
        del direct, side, dropped
        direct, side, hidden_grad = self.gate_up.backward(grad_gate_up, bool(dropouts[0]))
        grad_rows, grad_a = self.ops.drop_backward_project(direct, side, hidden_grad, rows, dropouts[0])
        return grad_rows, self.gate_up.gradients(grad_gate_up, hidden, grad_a) + down

    def unchanged(self) -> bool:
        """Whether the adapters of its projections are as they were read."""
        return all(member.unchanged() for group in (self.gate_up, self.down) for member in group.members)

    def parameters(self) -> list[Any]:
        """A and B of each projection, in the order of `backward`'s gradients."""
        return [*self.gate_up.parameters(), *self.down.parameters()]


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, mlp: GatedMlp, dropouts: tuple[Dropout, Dropout], *parameters: Tensor
    ) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            y, *saved = mlp.forward(rows, dropouts)
        ctx.save_for_backward(rows, *saved)
        ctx.mlp, ctx.dropouts, ctx.versions = mlp, dropouts, versions(parameters)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        expect_versions(ctx.mlp.parameters(), ctx.versions)
        grad_rows, found = ctx.mlp.backward(grad.contiguous(), ctx.saved_tensors, ctx.dropouts)
        wanted = [g.to(p.dtype) for g, p in zip(found, ctx.mlp.parameters(), strict=True)]
        return grad_rows, None, None, *wanted


def join_mlp(module: Any, ops: ModuleType, fused: bool) -> bool:
    """Let a gated MLP of 4-bit projections with LoRA train through `_Mlp`, in place; False if it is anything else.

    Args:
        ops: `elementwise`, or `elementwise_triton`.
    """
    projections = [child for child in module.children() if is_joinable(child)]
    known = {parameter for projection in projections for parameter in projection.parameters()}
    if len(projections) not in (2, 3) or not known.issuperset(module.parameters()):
        return False
    inside = {name: part for name, part in module.named_modules() if part is not module}
    found = next(_ways(module, projections), None)
    if found is None or heard(inside):
        return False
    mlp, plain = GatedMlp(*found, ops, fused), module.forward
    watched = WatchedModules("MLP", module, inside=True)

    def forward(x: Tensor, *args: Any, **options: Any) -> Tensor:
        own = args or options or not torch.is_grad_enabled() or not x.numel()
        if own or not mlp.unchanged() or watched.change(module.training) is not None:
            return plain(x, *args, **options)  # type: ignore[no-any-return]
        dropouts = tuple(draw_dropout(group, module.training) for group in (mlp.gate_up, mlp.down))
        rows = x.reshape(-1, mlp.gate_up.in_features).contiguous()
        y: Tensor = _Mlp.apply(rows, mlp, dropouts, *mlp.parameters())  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], -1)  # out here, where the model may change it in place

    module.forward = forward
    return True


def _ways(module: Any, projections: list[Any]) -> Iterator[tuple[list[Any], Any, Activation]]:
    """Which projections are gate, up (or both in one) and down, and which activation it is, if that is what it is."""
    for *first, down in permutations(projections):
        wide = sum(projection.out_features for projection in first)
        fits = {projection.in_features for projection in first} == {down.out_features}
        if fits and wide == 2 * down.in_features and len({p.out_features for p in first}) == 1:
            for activation in get_args(Activation):
                if _is_ours(module, first, down, activation):
                    yield first, down, activation


def _is_ours(module: Any, first: list[Any], down: Any, activation: Activation) -> bool:
    """Whether a module asks its projections for nothing else, and makes nothing else of what they give."""
    generator = torch.Generator().manual_seed(0)
    # Small and large, so that what is cut off at some size shows.
    scales = torch.logspace(-2, 2, 6, device="cpu")[:, None]
    x, gate_up, y = (
        torch.randn(1, 6, columns, generator=generator, device="cpu") * scales
        for columns in (down.out_features, 2 * down.in_features, down.out_features)
    )
    parts = gate_up.chunk(len(first), dim=-1)
    seen: list[tuple[Any, Tensor]] = []

    def stand_in(projection: Any, result: Tensor) -> Any:
        def forward(given: Tensor) -> Tensor:
            seen.append((projection, given.clone()))
            return result.clone()

        return forward

    before = [(p, vars(p).get("forward")) for p in (*first, down)]
    modes = [(part, part.training) for part in module.modules()]
    try:
        for projection, result in zip((*first, down), (*parts, y), strict=True):
            projection.forward = stand_in(projection, result)
        with torch.no_grad():
            found = module.train()(x.clone())
    except Exception:  # it wants other arguments, or reads weights
        return False
    finally:
        for part, training in modes:
            part.training = training
        for projection, own in before:
            del projection.forward
            if own is not None:
                projection.forward = own
    product = torch.empty(6, down.in_features, device="cpu")
    elementwise.glu(gate_up[0], product, Dropout(0.0, 0), activation)
    asked = dict(seen)
    gate, up = gate_up[0].chunk(2, dim=-1)
    off = 2e-6 * (gate * up).abs()  # tanh loses digits next to 1
    return (
        len(seen) == len(asked) == len(first) + 1
        and seen[-1][0] is down
        and all(torch.equal(asked[projection], x) for projection in first)
        and asked[down].shape == (1, *product.shape)
        and bool(((asked[down][0] - product).abs() <= off).all())
        and isinstance(found, Tensor)
        and torch.equal(found, y)
    )
