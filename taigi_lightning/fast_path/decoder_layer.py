"""One decoder layer written out, its parts chosen by a `Family`: the weights it reads, and its forward pass.

With M = B * T tokens, H the hidden size, F the MLP's width, and any norm in brackets left out where a family has none,

    qkv = project([norm](x));  q, k = rope([norm](q, k));  attention = attend(q, k, v)
    middle = x + [norm](project(attention))
    gate_up = project([norm](middle));  y = middle + [norm](project(activation(gate) * up))

What the backward pass needs, and what of it is saved, is said in `layer_backward`. Nothing but the next norm reads y,
so y is handed on as its two terms, before the last norm in brackets, and whoever takes them adds while reading.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from taigi_lightning.fast_path import attention
from taigi_lightning.fast_path.families import Family
from taigi_lightning.fast_path.lora_linear import LoraLinear
from taigi_lightning.fast_path.micro_batch import Step
from taigi_lightning.fast_path.nf4_linear import ProjectionGroup
from taigi_lightning.fast_path.weight_stream import WeightStream
from taigi_lightning.kernels.elementwise import Dropout, HeadNorms, Norm
from taigi_lightning.planning.activation_plan import ATTENTION, GATE_UP, INPUT, MIDDLE, OUTPUT, QKV
from taigi_lightning.planning.decoder_path import ACTIVATIONS, activation_name
from taigi_lightning.planning.memory import Shape


class DecoderLayer:
    """The arithmetic of one layer over the modules that hold its weights.

    Args:
        layer: transformers' own.
        index: which one it is.
        shape: heads and sizes.
        family: how its parts go together.
        config: the text model's.
        previous: the layer before it, whose result may have a norm that is still to come.
        fused: compute row-wise operations in Triton.
    """

    def __init__(
        self,
        layer: Any,
        index: int,
        shape: Shape,
        family: Family,
        config: Any,
        previous: "DecoderLayer | None",
        fused: bool,
    ) -> None:
        attn, mlp = layer.self_attn, layer.mlp
        self.index, self.family, self.previous = index, family, previous
        self.heads, self.kv_heads, self.head_size = shape.heads, shape.kv_heads, attn.head_dim
        self.qkv = ProjectionGroup([getattr(attn, name) for name in family.qkv], fused)
        self.o = ProjectionGroup([attn.o_proj], fused)
        self.gate_up = ProjectionGroup([getattr(mlp, name) for name in family.gate_up], fused)
        self.down = ProjectionGroup([mlp.down_proj], fused)
        self._before = [None if name is None else getattr(layer, name) for name in family.before]
        self._after = [None if name is None else getattr(layer, name) for name in family.after]
        self._head_norms = None if family.head_norm == "none" else (attn.q_norm, attn.k_norm)
        self.scores = attention.Scores(float(attn.scaling), family.window_of(attn, config))
        self.table = family.table_of(attn, config)
        self.dtype: torch.dtype = next(n for n in (*self._before, *self._after) if n is not None).weight.dtype
        self.activation = ACTIVATIONS[str(activation_name(config.to_dict()))]
        self.stream: WeightStream | None = None  # brings the base weights, if they wait on the host

    # ---- what it is made of -------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        """LoRA's matrices in the order the backward pass returns their gradients."""
        return [p for g in self.groups() for p in g.parameters()]

    def groups(self) -> tuple[ProjectionGroup, ...]:
        """Its projections by the input they share."""
        return self.qkv, self.o, self.gate_up, self.down

    def members(self) -> list[LoraLinear]:
        """Its projections one by one."""
        return [m for g in self.groups() for m in g.members]

    @property
    def unpacked(self) -> bool:
        """Whether it holds its base weights dequantised."""
        return self.qkv.resident is not None

    def enter(self, backward: bool = False, again: bool = False) -> None:
        """Have the base weights on the device for what is queued next: see `WeightStream.enter`."""
        if self.stream is not None:
            self.stream.enter(self.index, backward, again)

    def keep_unpacked(self, dtype: torch.dtype, packed_on_host: bool, backward: bool = True) -> None:
        """Hold the base weights dequantised."""
        for group in self.groups():
            group.keep_unpacked(dtype, packed_on_host, backward)

    def drop_unpacked(self) -> None:
        """Dequantise them for each product again."""
        for group in self.groups():
            group.drop_unpacked()

    def norm(self, half: int) -> Norm | None:
        """Of the input of the attention (0) or the MLP (1)."""
        return read_norm(self._before[half], self.family)

    def post_norm(self, half: int) -> Norm | None:
        """Of the output of the attention (0) or the MLP (1)."""
        return read_norm(self._after[half], self.family)

    def incoming_norm(self, half: int) -> Norm | None:
        """Of what is still to be added to the residual stream where the attention (0) or the MLP (1) reads it."""
        if half == 1:
            return self.post_norm(0)
        return None if self.previous is None else self.previous.post_norm(1)

    @property
    def head_norms(self) -> HeadNorms | None:
        """Of q and k."""
        if self._head_norms is None:
            return None
        q, k = (read_norm(module, self.family) for module in self._head_norms)
        assert q is not None and k is not None
        return HeadNorms(q, k, self.family.head_norm == "whole")

    def dropout(self, step: Step, site: int) -> Dropout:
        """Of one group's input."""
        group = self.groups()[site]
        return step.dropout(group.dropout if group.rank else 0.0, self.index, site)

    # ---- the forward pass, in the pieces that the backward pass may want again ------------------------

    def _normed(
        self, half: int, x: Tensor, delta: Tensor | None, step: Step
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x, or x + delta; a buffer with its norm; the norm with dropout. Half 0 is the attention's, 1 the MLP's."""
        group, dropout = self.groups()[2 * half], self.dropout(step, 2 * half)
        inputs = group.buffer(x, self.dtype)
        normed = inputs[:, : group.in_features]
        if delta is None:
            return x, inputs, step.ops.rms_norm(x, self.norm(half), normed, dropout)
        total, dropped = step.ops.add_rms_norm(
            x, delta, self.norm(half), normed, dropout, self.incoming_norm(half)
        )
        return total, inputs, dropped

    def project_qkv(self, x: Tensor, delta: Tensor | None, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """(x, qkv, hidden) from x, or from x + delta in its place. q and k are rotated, unless they have norms."""
        x, inputs, dropped = self._normed(0, x, delta, step)
        qkv, hidden = self.qkv.forward(inputs, dropped)
        if self._head_norms is None:
            q_and_k = self._q_and_k(qkv)
            step.ops.rotate(q_and_k, *step.tables[self.table], q_and_k)
        return x, qkv, hidden

    def _q_and_k(self, qkv: Tensor) -> Tensor:
        return qkv.view(qkv.shape[0], -1, self.head_size)[:, : self.heads + self.kv_heads]

    def for_attention(self, qkv: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (B, T, heads, D), normalised and rotated, from what `project_qkv` made."""
        every = qkv.view(*step.shape, self.heads + 2 * self.kv_heads, self.head_size)
        q, k, v = torch.split(every, [self.heads, self.kv_heads, self.kv_heads], dim=2)
        norms = self.head_norms
        if norms is not None:
            before = self._q_and_k(qkv)
            turned = torch.empty_like(before, memory_format=torch.contiguous_format)
            step.ops.norm_rotate(before, self.heads, norms, *step.tables[self.table], turned)
            q, k = torch.split(turned.view(*step.shape, -1, self.head_size), [self.heads, self.kv_heads], 2)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, ...]:
        """The attention's output (M, heads * D), and what its backward pass wants beside it."""
        out, extra = attention.attend(q, k, v, step.documents, self.scores)
        return (out.view(step.tokens, -1), *extra)

    def project_o(self, attended: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """What joins the residual stream, before its norm if it has one, and LoRA's hidden activations."""
        return self.o.multiply(self.o_inputs(attended, step.ops, self.dropout(step, 1)))

    def o_inputs(self, attended: Tensor, ops: ModuleType, dropout: Dropout) -> Tensor:
        """What the attention's last projection reads: attended, and beside it LoRA's hidden activations."""
        if self.o.width == self.o.in_features:
            return attended
        inputs = self.o.buffer(attended)
        copy = inputs[:, : self.o.in_features]
        if self.o.rank:
            ops.copy_project(attended, copy, *self.o.sides(inputs), dropout)
        else:
            copy.copy_(attended)
        return inputs

    def project_gate_up(self, x: Tensor, delta: Tensor | None, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """(middle, gate_up, hidden) from middle = x, or x + delta."""
        x, inputs, dropped = self._normed(1, x, delta, step)
        return (x, *self.gate_up.forward(inputs, dropped))

    def down_inputs(self, gate_up: Tensor, ops: ModuleType, dropout: Dropout) -> Tensor:
        """What the last projection reads: the product, and beside it LoRA's hidden activations."""
        inputs = self.down.buffer(gate_up)
        product = inputs[:, : self.down.in_features]
        if self.down.rank:
            ops.glu_project(gate_up, product, *self.down.sides(inputs), dropout, self.activation)
        else:
            ops.glu(gate_up, product, dropout, self.activation)
        return inputs

    def forward(self, x: Tensor, delta: Tensor | None, step: Step) -> tuple[Tensor, Tensor]:
        """y as two terms (M, H) that are yet to be added, from x (M, H), given whole or as the layer before left it.

        Saves what step's plan says. delta's memory may be reused, unless the layer before saved it.
        """
        x, qkv, hidden = self.project_qkv(x, delta, step)
        step.save(self.index, INPUT, x)
        step.save(self.index, QKV, qkv, hidden)
        attended, *extra = self.attend(*self.for_attention(qkv, step), step)
        step.save(self.index, ATTENTION, attended, *extra)
        del qkv
        delta, hidden = self.project_o(attended, step)
        del attended
        middle, gate_up, gate_up_hidden = self.project_gate_up(x, delta, step)
        # A norm on its way needs its input again, and the sum is cheap to make from that.
        step.save(self.index, MIDDLE, middle if self.post_norm(0) is None else delta, hidden)
        step.save(self.index, GATE_UP, gate_up, gate_up_hidden)
        del delta
        inputs = self.down_inputs(gate_up, step.ops, self.dropout(step, 3))
        del gate_up
        step.settle(self.index)
        delta, hidden = self.down.multiply(inputs)
        if step.savings:
            step.saved[self.index]["down"] = (hidden,)
        if self.post_norm(1) is not None:
            step.save(self.index, OUTPUT, delta)
        return middle, delta


def read_norm(module: Any, family: Family) -> Norm | None:
    """A norm's weight as it lies now, on whichever device."""
    if module is None:
        return None
    eps = module.eps if hasattr(module, "eps") else module.variance_epsilon
    return Norm(module.weight.detach(), eps, family.one_plus)
