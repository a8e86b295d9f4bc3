"""The decoder layer's row-wise operations in plain torch: what `elementwise_triton` computes in one pass each.

`out` arguments may be column slices of wider buffers.
"""

from typing import Literal

import torch
from torch import Tensor

from taigi_lightning.kernels.dropout import Dropout, LoraGradient, drop, joined_gradient, keep_mask
from taigi_lightning.kernels.norm import (
    Norm,
    add_rms_norm,
    add_rms_norm_backward,
    norm_gradient,
    rms_norm,
    rms_norm_backward,
)
from taigi_lightning.kernels.products import float32_product
from taigi_lightning.kernels.rope import HeadNorms, norm_rotate, norm_rotate_back, rotate, rotate_back

__all__ = [
    "Activation", "Dropout", "HeadNorms", "LoraGradient", "Norm", "add_rms_norm", "add_rms_norm_backward", "copy_drop",
    "copy_project", "drop", "drop_backward", "drop_backward_project", "gather_rows", "glu", "glu_backward",
    "glu_project", "keep_mask", "norm_gradient", "norm_rotate",
    "norm_rotate_back", "rms_norm", "rms_norm_backward", "rotate", "rotate_back", "softmax_loss_",
]  # fmt: skip

Activation = Literal["silu", "gelu_tanh"]
TANH_SLOPE, TANH_CUBE = 0.7978845608028654, 0.044715  # GELU's tanh form: sqrt(2 / pi), and of x cubed


def copy_drop(x: Tensor, out: Tensor, dropout: Dropout) -> Tensor:
    """Copy x (M, K) into out; return x with dropout applied (x itself when there is none)."""
    out.copy_(x)
    return drop(x, dropout) if dropout else x


def drop_backward(
    grad: Tensor, lora: LoraGradient | None, x: Tensor, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    """Gradient at the input of a group that sees x itself, and x with dropout applied. All (M, K)."""
    joined = joined_gradient(grad, lora, dropout).to(x.dtype)
    return joined, drop(x, dropout) if dropout else x


def copy_project(x: Tensor, out: Tensor, hidden: Tensor, a: Tensor, dropout: Dropout) -> None:
    """Copy x (M, K) into out, and write d A^T into hidden (M, R): d is x with dropout applied, A is (R, K)."""
    torch.mm(copy_drop(x, out, dropout), a.t(), out=hidden)


def drop_backward_project(
    grad: Tensor, lora: LoraGradient | None, hidden_grad: Tensor, x: Tensor, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    """As `drop_backward`, but with the gradient of A (R, K), float32, from that of hidden (M, R), and not d."""
    dx, dropped = drop_backward(grad, lora, x, dropout)
    return dx, float32_product(hidden_grad.t(), dropped)


def _activated(gate: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """The activation of gate and its slope, float32. Both kinds are gate * sigmoid(z(gate))."""
    x = gate.float()
    if activation == "silu":
        z, dz = x, torch.ones_like(x)
    else:
        z = 2 * TANH_SLOPE * (x + TANH_CUBE * x.pow(3))
        dz = 2 * TANH_SLOPE * (1 + 3 * TANH_CUBE * x.pow(2))
    sigmoid = torch.sigmoid(z)
    return x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid) * dz)


def glu(gate_up: Tensor, out: Tensor, dropout: Dropout, activation: Activation) -> Tensor:
    """Write activation(gate) * up into out (M, F), from gate_up (M, 2F); return it with dropout applied."""
    gate, up = gate_up.chunk(2, dim=-1)
    out.copy_(_activated(gate, activation)[0].to(gate.dtype) * up)
    return drop(out, dropout) if dropout else out


def glu_backward(
    grad: Tensor, lora: LoraGradient | None, gate_up: Tensor, dropout: Dropout, activation: Activation
) -> tuple[Tensor, Tensor]:
    """Gradient at gate_up (M, 2F), and the dropped-out product (M, F); gate_up's memory may be reused."""
    gate, up = gate_up.chunk(2, dim=-1)
    joined = joined_gradient(grad, lora, dropout)
    activated, slope = _activated(gate, activation)
    rounded = activated.to(gate.dtype)
    product = rounded * up
    both = torch.cat([joined * up.float() * slope, joined * rounded.float()], dim=-1)
    return both.to(gate_up.dtype), drop(product, dropout) if dropout else product


def glu_project(
    gate_up: Tensor, out: Tensor, hidden: Tensor, a: Tensor, dropout: Dropout, activation: Activation
) -> None:
    """As `glu`, but with d A^T written into hidden (M, R), d being what `glu` returns and A (R, F)."""
    torch.mm(glu(gate_up, out, dropout, activation), a.t(), out=hidden)


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    """table[rows] (M, H) on rows' device, for a table (V, H) that may lie in (pinned) host memory."""
    return table[rows.to(table.device)].to(rows.device)


def softmax_loss_(logits: Tensor, targets: Tensor, ignore: int) -> Tensor:
    """Summed cross-entropy, float32 (); overwrites logits (S, V) with their gradient. targets: (S,) int64."""
    scores = logits.float()
    loss = torch.nn.functional.cross_entropy(scores, targets, ignore_index=ignore, reduction="sum")
    probability = scores.softmax(-1)
    rows = torch.arange(targets.shape[0], device=targets.device)
    probability[rows, targets.clamp(min=0)] -= 1.0
    logits.copy_(probability * (targets != ignore)[:, None])
    return loss
