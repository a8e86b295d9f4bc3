"""One Llama decoder layer, forward and backward written out: what is saved, recomputed or moved is chosen here.

With M = B * T tokens, H the hidden size, F the MLP's width, the layer is

    qkv = rope(project(norm(x)));  attention = attend(qkv);  middle = x + project(attention)
    gate_up = project(norm(middle));  y = middle + project(silu(gate) * up)

The backward pass needs x, qkv, attention, middle and gate_up; the rest is cheap to make again. Any of the five
but x may be kept on the device, moved to the host or recomputed from the ones before it. The last projection
is never recomputed: nothing in the backward pass reads y. Nor does anything but the next norm, so y is handed on
as its two terms, and that norm adds them while it reads them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from taigi_lightning.fast_path import attention
from taigi_lightning.fast_path.micro_batch import Step
from taigi_lightning.fast_path.nf4_linear import LoraLinear, ProjectionGroup
from taigi_lightning.kernels.elementwise import Dropout
from taigi_lightning.planning.activation_plan import ATTENTION, GATE_UP, INPUT, MIDDLE, QKV


class DecoderLayer:
    """The arithmetic of one layer over the modules that hold its weights."""

    def __init__(self, layer: Any, index: int, heads: int, kv_heads: int, fused: bool) -> None:
        attn, mlp = layer.self_attn, layer.mlp
        self.index, self.heads, self.kv_heads, self.head_size = index, heads, kv_heads, attn.head_dim
        self.qkv = ProjectionGroup([attn.q_proj, attn.k_proj, attn.v_proj], fused)
        self.o = ProjectionGroup([attn.o_proj], fused)
        self.gate_up = ProjectionGroup([mlp.gate_proj, mlp.up_proj], fused)
        self.down = ProjectionGroup([mlp.down_proj], fused)
        self.norms = (layer.input_layernorm, layer.post_attention_layernorm)

    def parameters(self) -> list[nn.Parameter]:
        """LoRA's matrices in the order `backward` returns their gradients."""
        return [p for g in self.groups() for p in g.parameters()]

    def groups(self) -> tuple[ProjectionGroup, ...]:
        """Its projections by the input they share."""
        return self.qkv, self.o, self.gate_up, self.down

    def members(self) -> list[LoraLinear]:
        """Its seven projections."""
        return [m for g in self.groups() for m in g.members]

    @property
    def unpacked(self) -> bool:
        """Whether it holds its base weights unpacked."""
        return self.qkv.resident is not None

    def keep_unpacked(self, dtype: torch.dtype, packed_on_host: bool) -> None:
        """Hold the base weights unpacked."""
        for group in self.groups():
            group.keep_unpacked(dtype, packed_on_host)

    def drop_unpacked(self) -> None:
        """Unpack them for each product again."""
        for group in self.groups():
            group.drop_unpacked()

    def _norm(self, half: int) -> tuple[Tensor, float]:
        return self.norms[half].weight.detach(), self.norms[half].variance_epsilon

    def _dropout(self, step: Step, site: int) -> Dropout:
        group = self.groups()[site]
        return step.dropout(group.dropout if group.rank else 0.0, self.index, site)

    def _split(self, qkv: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """Views (B, T, heads, D) of q, k and v in (M, heads * D)."""
        every = qkv.view(*step.shape, self.heads + 2 * self.kv_heads, self.head_size)
        q, k, v = torch.split(every, [self.heads, self.kv_heads, self.kv_heads], dim=2)
        return q, k, v

    # ---- forward, in the pieces that the backward pass may want again ------------------------------

    def _normed(
        self, half: int, x: Tensor, delta: Tensor | None, step: Step
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x, or x + delta; a buffer with its norm; the norm with dropout. Half 0 is the attention's, 1 the MLP's."""
        group, dropout = self.groups()[2 * half], self._dropout(step, 2 * half)
        inputs = group.buffer(x)
        normed = inputs[:, : group.in_features]
        if delta is None:
            return x, inputs, step.ops.rms_norm(x, *self._norm(half), normed, dropout)
        total, dropped = step.ops.add_rms_norm(x, delta, *self._norm(half), normed, dropout)
        return total, inputs, dropped

    def _project_qkv(self, x: Tensor, delta: Tensor | None, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """(x, qkv, hidden) from x, or from x + delta in its place."""
        x, inputs, dropped = self._normed(0, x, delta, step)
        qkv, hidden = self.qkv.forward(inputs, dropped)
        turned = self.heads + self.kv_heads
        q_and_k = qkv.view(x.shape[0], -1, self.head_size)[:, :turned]
        step.ops.rotate(q_and_k, step.cos, step.sin, q_and_k)
        return x, qkv, hidden

    def _attend(self, qkv: Tensor, step: Step) -> tuple[Tensor, ...]:
        out, extra = attention.attend(*self._split(qkv, step), step.documents)
        return (out.view(qkv.shape[0], -1), *extra)

    def _project_o(self, attended: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        inputs = self.o.buffer(attended)
        dropped = step.ops.copy_drop(attended, inputs[:, : self.o.in_features], self._dropout(step, 1))
        return self.o.forward(inputs, dropped)

    def _project_gate_up(self, x: Tensor, delta: Tensor | None, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        """(middle, gate_up, hidden) from middle = x, or x + delta."""
        x, inputs, dropped = self._normed(1, x, delta, step)
        return (x, *self.gate_up.forward(inputs, dropped))

    def forward(self, x: Tensor, delta: Tensor | None, step: Step) -> tuple[Tensor, Tensor]:
        """y as two terms (M, H) that are yet to be added, from x (M, H), given whole or as the layer before left it.

        Saves what step's plan says. delta's memory may be reused.
        """
        x, qkv, hidden = self._project_qkv(x, delta, step)
        step.save(self.index, INPUT, x)
        step.save(self.index, QKV, qkv, hidden)
        attended, *extra = self._attend(qkv, step)
        step.save(self.index, ATTENTION, attended, *extra)
        del qkv
        delta, hidden = self._project_o(attended, step)
        del attended
        middle, gate_up, gate_up_hidden = self._project_gate_up(x, delta, step)
        step.save(self.index, MIDDLE, middle, hidden)
        step.save(self.index, GATE_UP, gate_up, gate_up_hidden)
        inputs = self.down.buffer(middle)
        dropped = step.ops.swiglu(gate_up, inputs[:, : self.down.in_features], self._dropout(step, 3))
        del gate_up
        if step.stash is not None and step.savings:
            step.stash.settle(len(step.savings[self.index].host))
        delta, hidden = self.down.forward(inputs, dropped)
        if step.savings:
            step.saved[self.index]["down"] = (hidden,)
        return middle, delta

    # ---- backward -----------------------------------------------------------------------------------

    def backward(self, grad: Tensor, step: Step, need_input: bool) -> tuple[Tensor | None, list[Tensor]]:
        """Gradient of x (None unless need_input) and of `parameters()`. Overwrites grad (M, H)."""
        (x,) = step.load(self.index, INPUT) or (None,)
        step.prefetch(self.index - 1)
        attending = _Attending(self, x, step)
        found = step.load(self.index, MIDDLE)
        product: Any = step.load(self.index, GATE_UP)
        if found is None:
            delta, hidden = self._project_o(attending.attended, step)
            if product is None:
                middle, *product = self._project_gate_up(x, delta, step)
            else:
                middle = delta.add_(x)
            attending.hidden = hidden
        else:
            middle, attending.hidden = found
            if product is None:
                _, *product = self._project_gate_up(middle, None, step)
        product, found = list(product), None
        grad, mlp_gradients = self._mlp_backward(grad, middle, product, step)
        del middle
        grad_x, gradients = self._attention_backward(grad, x, attending, step, need_input)
        return grad_x, gradients + mlp_gradients

    def _mlp_backward(
        self, grad: Tensor, middle: Tensor, product: list[Tensor], step: Step
    ) -> tuple[Tensor, list[Tensor]]:
        """Gradient of middle, and of the MLP's parameters. Empties product, [gate_up, hidden], to free it early."""
        hidden, gate_up = product.pop(), product.pop()
        (down_hidden,) = step.saved[self.index].pop("down")
        dropout = self._dropout(step, 3)
        direct, side, hidden_grad = self.down.backward(grad, bool(dropout))
        grad_gate_up, dropped = step.ops.swiglu_backward(direct, side, gate_up, dropout)
        down = self.down.gradients(grad, down_hidden, hidden_grad, dropped)
        del direct, side, dropped
        dropout = self._dropout(step, 2)
        direct, side, hidden_grad = self.gate_up.backward(grad_gate_up, bool(dropout))
        grad, dropped = step.ops.rms_norm_backward(direct, side, middle, *self._norm(1), grad, dropout)
        return grad, self.gate_up.gradients(grad_gate_up, hidden, hidden_grad, dropped) + down

    def _attention_backward(
        self, grad: Tensor, x: Tensor, attending: "_Attending", step: Step, need_input: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradient of x, and of the attention's parameters, from that of middle."""
        dropout = self._dropout(step, 1)
        direct, side, hidden_grad = self.o.backward(grad, bool(dropout))
        attended = attending.attended
        grad_attended, dropped = step.ops.drop_backward(direct, side, attended, dropout)
        o = self.o.gradients(grad, attending.hidden, hidden_grad, dropped)
        del direct, side, dropped
        grad_qkv = self._attend_backward(grad_attended, attending, step)
        hidden = attending.qkv_hidden
        attending.release()
        dropout = self._dropout(step, 0)
        if need_input:
            direct, side, hidden_grad = self.qkv.backward(grad_qkv, bool(dropout))
            grad, dropped = step.ops.rms_norm_backward(direct, side, x, *self._norm(0), grad, dropout)
        else:
            hidden_grad = self.qkv.hidden_gradient(grad_qkv)
            dropped = step.ops.rms_norm(x, *self._norm(0), torch.empty_like(x), dropout)
        qkv = self.qkv.gradients(grad_qkv, hidden, hidden_grad, dropped)
        return grad if need_input else None, qkv + o

    def _attend_backward(self, grad: Tensor, attending: "_Attending", step: Step) -> Tensor:
        """Gradient of the projections before the rotation, (M, heads * D)."""
        shape = (*step.shape, self.heads, self.head_size)
        gradients = attention.attend_backward(
            grad.view(shape),
            *self._split(attending.qkv, step),
            attending.attended.view(shape),
            attending.extra,
            step.documents,
        )
        joined = torch.empty_like(attending.qkv)
        # No copies: attention's kernels order a gradient's memory as that of q, k or v, tokens before heads.
        q, k, v = (t.flatten(0, 1) for t in gradients)
        out = joined.view(joined.shape[0], -1, self.head_size)
        step.ops.rotate_back(q, k, v, step.cos, step.sin, out)
        return joined


class _Attending:
    """The attention half's saved tensors, recomputed when first asked for if they were not saved."""

    def __init__(self, layer: DecoderLayer, x: Tensor, step: Step) -> None:
        self.hidden: Any = None  # of the output projection
        self._layer, self._x, self._step = layer, x, step
        self._qkv: Any = step.load(layer.index, QKV)
        self._attended: Any = step.load(layer.index, ATTENTION)

    @property
    def qkv(self) -> Tensor:
        if self._qkv is None:
            _, *self._qkv = self._layer._project_qkv(self._x, None, self._step)
        return self._qkv[0]  # type: ignore[no-any-return]

    @property
    def qkv_hidden(self) -> Tensor:
        return self._qkv[1]  # type: ignore[no-any-return]

    @property
    def attended(self) -> Tensor:
        if self._attended is None:
            self._attended = self._layer._attend(self.qkv, self._step)
        return self._attended[0]  # type: ignore[no-any-return]

    @property
    def extra(self) -> tuple[Tensor, ...]:
        return tuple(self._attended[1:])

    def release(self) -> None:
        self._qkv = self._attended = None
