"""The backward pass of one written-out decoder layer.

It needs x, qkv, the attention, gate_up and middle; or, where norms follow the projections, what those norms read: the
attention's projected output in the place of middle, and the MLP's. The rest is cheap to make again. Any of them but x
may be kept on the device, moved to the host or recomputed from the ones before it. Without such norms the last
projection is never recomputed: nothing here reads y.
"""

from typing import Any

import torch
from torch import Tensor

from taigi_lightning.fast_path import attention
from taigi_lightning.fast_path.decoder_layer import DecoderLayer
from taigi_lightning.fast_path.micro_batch import Step
from taigi_lightning.kernels.products import float32_product
from taigi_lightning.planning.activation_plan import ATTENTION, GATE_UP, INPUT, MIDDLE, OUTPUT, QKV


def backward(
    layer: DecoderLayer, grad: Tensor, step: Step, need_input: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradient of x (M, H), None unless need_input, and of `layer.parameters()`, from that of y (M, H), overwritten."""
    (x,) = step.load(layer.index, INPUT) or (None,)
    step.prefetch(layer.index)
    attending = _Attending(layer, x, step)
    stream = _Stream(layer, x, attending, step)
    grad, grad_o, mlp_gradients = _mlp_backward(layer, grad, stream, step)
    del stream
    return _attention_backward(layer, grad, grad_o, x, attending, step, need_input, mlp_gradients)


class _Stream:
    """The residual stream in the middle and gate_up, loaded, or recomputed if they were not saved.

    base (M, H) is the middle itself, or, where the attention's output has a norm of its own, x, and delta that output.
    """

    def __init__(self, layer: DecoderLayer, x: Tensor, attending: "_Attending", step: Step) -> None:
        post = layer.post_norm(0) is not None
        saved = step.load(layer.index, MIDDLE)
        product: Any = step.load(layer.index, GATE_UP)
        projected, attending.hidden = saved or layer.project_o(attending.attended, step)
        self.base: Tensor = x if post else projected
        self.delta: Tensor | None = projected if post else None
        if saved is None and not post:
            if product is None:
                self.base, *product = layer.project_gate_up(x, projected, step)
            else:
                self.base = projected.add_(x) if projected.dtype == x.dtype else x + projected
        if product is None:
            _, *product = layer.project_gate_up(self.base, self.delta, step)
        self.gate_up, self.hidden = product


def _mlp_backward(
    layer: DecoderLayer, grad: Tensor, stream: _Stream, step: Step
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gradient of middle, of the attention's projected output, and of the MLP's parameters. Empties stream early."""
    gate_up, hidden = stream.gate_up, stream.hidden
    del stream.gate_up
    (down_hidden,) = step.saved[layer.index].pop("down")
    grad_output = _through_post_norm(layer, grad, gate_up, step)
    dropout = layer.dropout(step, 3)
    direct, side, hidden_grad = layer.down.backward(grad_output, bool(dropout))
    grad_gate_up, dropped = step.ops.glu_backward(direct, side, gate_up, dropout, layer.activation)
    down = layer.down.gradients(grad_output, down_hidden, float32_product(hidden_grad.t(), dropped))
    del direct, side, dropped, gate_up, grad_output
    dropout, norm, post = layer.dropout(step, 2), layer.norm(1), layer.post_norm(0)
    direct, side, hidden_grad = layer.gate_up.backward(grad_gate_up, bool(dropout))
    if post is None:
        grad, dropped = step.ops.rms_norm_backward(direct, side, stream.base, norm, grad, dropout)
        grad_o = grad.to(layer.dtype)
    else:
        grad, grad_o, dropped = step.ops.add_rms_norm_backward(
            direct, side, stream.base, stream.delta, post, norm, grad, dropout
        )
    grad_a = float32_product(hidden_grad.t(), dropped)
    return grad, grad_o, layer.gate_up.gradients(grad_gate_up, hidden, grad_a) + down


def _through_post_norm(layer: DecoderLayer, grad: Tensor, gate_up: Tensor, step: Step) -> Tensor:
    """Gradient of the MLP's projected output from that of y: grad itself, unless the output has a norm."""
    post = layer.post_norm(1)
    if post is None:
        return grad.to(layer.dtype)
    saved = step.load(layer.index, OUTPUT)
    dropout = layer.dropout(step, 3)
    output = saved[0] if saved else layer.down.product(layer.down_inputs(gate_up, step.ops, dropout))
    return step.ops.norm_gradient(grad, output, post)  # type: ignore[no-any-return]


def _attention_backward(
    layer: DecoderLayer,
    grad: Tensor,
    grad_o: Tensor,
    x: Tensor,
    attending: "_Attending",
    step: Step,
    need_input: bool,
    mlp_gradients: list[Tensor],
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradient of x, and of all parameters, from those of middle and of what was added to x to make it."""
    dropout = layer.dropout(step, 1)
    direct, side, hidden_grad = layer.o.backward(grad_o, bool(dropout))
    grad_attended, grad_a = step.ops.drop_backward_project(
        direct, side, hidden_grad, attending.attended, dropout
    )
    o = layer.o.gradients(grad_o, attending.hidden, grad_a)
    del direct, side, grad_o
    grad_qkv = _attend_backward(layer, grad_attended, attending, step)
    hidden = attending.qkv_hidden
    attending.release()
    dropout, norm = layer.dropout(step, 0), layer.norm(0)
    if need_input:
        direct, side, hidden_grad = layer.qkv.backward(grad_qkv, bool(dropout))
        grad, dropped = step.ops.rms_norm_backward(direct, side, x, norm, grad, dropout)
    else:
        hidden_grad = layer.qkv.hidden_gradient(grad_qkv)
        dropped = step.ops.rms_norm(x, norm, torch.empty_like(x, dtype=layer.dtype), dropout)
    qkv = layer.qkv.gradients(grad_qkv, hidden, float32_product(hidden_grad.t(), dropped))
    return grad if need_input else None, qkv + o + mlp_gradients


def _attend_backward(layer: DecoderLayer, grad: Tensor, attending: "_Attending", step: Step) -> Tensor:
    """Gradient of the projections before norms and rotation, (M, heads * D)."""
    shape = (*step.shape, layer.heads, layer.head_size)
    gradients = attention.attend_backward(
        grad.view(shape),
        *attending.turned,
        attending.attended.view(shape),
        attending.extra,
        step.documents,
        layer.scores,
    )
    joined = torch.empty_like(attending.qkv)
    # No copies: attention's kernels order a gradient's memory as that of q, k or v, tokens before heads.
    q, k, v = (t.flatten(0, 1) for t in gradients)
    every = (step.tokens, -1, layer.head_size)
    tables, norms = step.tables[layer.table], layer.head_norms
    if norms is None:
        step.ops.rotate_back(q, k, v, *tables, joined.view(every))
    else:
        before = attending.qkv.view(every)[:, : layer.heads + layer.kv_heads]
        step.ops.norm_rotate_back(q, k, v, before, norms, *tables, joined.view(every))
    return joined


class _Attending:
    """The attention half's saved tensors, recomputed when first asked for if they were not saved."""

    def __init__(self, layer: DecoderLayer, x: Tensor, step: Step) -> None:
        self.hidden: Any = None  # of the output projection
        self._layer, self._x, self._step = layer, x, step
        self._qkv: Any = step.load(layer.index, QKV)
        self._attended: Any = step.load(layer.index, ATTENTION)
        self._turned: Any = None

    @property
    def qkv(self) -> Tensor:
        if self._qkv is None:
            _, *self._qkv = self._layer.project_qkv(self._x, None, self._step)
        return self._qkv[0]  # type: ignore[no-any-return]

    @property
    def qkv_hidden(self) -> Tensor:
        return self._qkv[1]  # type: ignore[no-any-return]

    @property
    def turned(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as attention reads them."""
        if self._turned is None:
            self._turned = self._layer.for_attention(self.qkv, self._step)
        return self._turned  # type: ignore[no-any-return]

    @property
    def attended(self) -> Tensor:
        if self._attended is None:
            self._attended = self._layer.attend(*self.turned, self._step)
            if self._layer.head_norms is not None:
                self._turned = (
                    None  # one elementwise pass, against memory held through the MLP's backward pass
                )
        return self._attended[0]  # type: ignore[no-any-return]

    @property
    def extra(self) -> tuple[Tensor, ...]:
        return tuple(self._attended[1:])

    def release(self) -> None:
        self._qkv = self._attended = self._turned = None
