"""The decoder layer's row-wise operations in plain torch: what `elementwise_triton` computes in one pass each.

Dropout draws no random numbers: whether an element survives is a hash of (seed, row, column), so a recomputed
layer drops the same elements and no mask is stored. `out` arguments may be column slices of wider buffers.
"""

import torch
from torch import Tensor


class Dropout:
    """One dropout site: probability, and the seed that makes its mask. Probability 0 means no dropout."""

    def __init__(self, probability: float, seed: int) -> None:
        self.probability = probability
        self.seed = seed & 0x7FFFFFFF
        self.threshold = round(probability * 2**24)  # an element whose 24-bit hash is below it is dropped
        self.scale = 1.0 / (1.0 - self.threshold / 2**24) if self.threshold < 2**24 else 0.0

    def __bool__(self) -> bool:
        return self.threshold > 0


def _signed(constant: int) -> int:
    return constant - 2**32 if constant >= 2**31 else constant


def _shift(x: Tensor, bits: int) -> Tensor:
    mask: int = (1 << (32 - bits)) - 1
    return (x >> bits) & mask  # logical, as on unsigned integers


def keep_mask(rows: int, columns: int, dropout: Dropout, device: torch.device) -> Tensor:
    """(rows, columns) bool: the elements that survive. int32 products wrap, in torch and Triton alike."""
    row = torch.arange(rows, dtype=torch.int32, device=device) * _signed(0x85EBCA6B) + dropout.seed
    row = (row ^ _shift(row, 16)) * 0x7FEB352D
    row = (row ^ _shift(row, 15)) * _signed(0x846CA68B)
    row = row ^ _shift(row, 16)
    column = torch.arange(columns, dtype=torch.int32, device=device) * _signed(0x9E3779B1)
    x = row[:, None] ^ column[None, :]
    x = (x ^ _shift(x, 16)) * 0x7FEB352D
    x = (x ^ _shift(x, 15)) * _signed(0x846CA68B)
    kept: Tensor = _shift(x, 8) >= dropout.threshold
    return kept


def drop(x: Tensor, dropout: Dropout) -> Tensor:
    """Inverted dropout of x (M, K)."""
    keep = keep_mask(x.shape[0], x.shape[1], dropout, x.device)
    return (x.float() * keep * dropout.scale).to(x.dtype)


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = x.float()
    inverse = torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + eps)
    return rows * inverse, inverse


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, dropout: Dropout) -> Tensor:
    """Write RMSNorm(x) * weight into out (M, K); return it with dropout applied (out itself when there is none)."""
    out.copy_(weight * _normalise(x, eps)[0].to(x.dtype))
    return drop(out, dropout) if dropout else out


def add_rms_norm(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, out: Tensor, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    """As `rms_norm` of x + delta; returns (x + delta, the dropped-out norm). The sum may take delta's memory."""
    total = x + delta
    return total, rms_norm(total, weight, eps, out, dropout)


def _join(grad: Tensor, lora_grad: Tensor | None, dropout: Dropout) -> Tensor:
    """Gradient at a group's input: the frozen branch plus, through the dropout mask, the LoRA branch."""
    if lora_grad is None:
        return grad.float()
    if not dropout:
        return grad.float() + lora_grad.float()
    keep = keep_mask(grad.shape[0], grad.shape[1], dropout, grad.device)
    return grad.float() + lora_grad.float() * keep * dropout.scale


def rms_norm_backward(
    grad: Tensor,
    lora_grad: Tensor | None,
    x: Tensor,
    weight: Tensor,
    eps: float,
    residual_grad: Tensor | None,
    dropout: Dropout,
) -> tuple[Tensor, Tensor]:
    """Gradient at x, plus residual_grad; and the dropped-out norm again, which the gradient of A needs.

    All (M, K). lora_grad's memory and residual_grad's may be reused for the results.
    """
    hat, inverse = _normalise(x, eps)
    normed = weight * hat.to(x.dtype)
    scaled = _join(grad, lora_grad, dropout) * weight.float()
    dx = inverse * (scaled - hat * (scaled * hat).mean(-1, keepdim=True))
    if residual_grad is not None:
        dx = dx + residual_grad.float()
    return dx.to(x.dtype), drop(normed, dropout) if dropout else normed


def copy_drop(x: Tensor, out: Tensor, dropout: Dropout) -> Tensor:
    """Copy x (M, K) into out; return x with dropout applied (x itself when there is none)."""
    out.copy_(x)
    return drop(x, dropout) if dropout else x


def drop_backward(
    grad: Tensor, lora_grad: Tensor | None, x: Tensor, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    """Gradient at the input of a group that sees x itself, and x with dropout applied. All (M, K)."""
    joined = _join(grad, lora_grad, dropout).to(x.dtype)
    return joined, drop(x, dropout) if dropout else x


def swiglu(gate_up: Tensor, out: Tensor, dropout: Dropout) -> Tensor:
    """Write silu(gate) * up into out (M, F), from gate_up (M, 2F); return it with dropout applied."""
    gate, up = gate_up.chunk(2, dim=-1)
    out.copy_(torch.nn.functional.silu(gate) * up)
    return drop(out, dropout) if dropout else out


def swiglu_backward(
    grad: Tensor, lora_grad: Tensor | None, gate_up: Tensor, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    """Gradient at gate_up (M, 2F), and the dropped-out product (M, F); gate_up's memory may be reused."""
    gate, up = gate_up.chunk(2, dim=-1)
    joined = _join(grad, lora_grad, dropout)
    sigmoid = torch.sigmoid(gate.float())
    silu = torch.nn.functional.silu(gate)
    product = silu * up
    dgate = joined * up.float() * sigmoid * (1.0 + gate.float() * (1.0 - sigmoid))
    dup = joined * silu.float()
    return torch.cat([dgate, dup], dim=-1).to(gate_up.dtype), drop(product, dropout) if dropout else product


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    c, s = cos[:, None, :half].float(), sin[:, None, :half].float()
    first, second = x[..., :half].float(), x[..., half:].float()
    return torch.cat([first * c - second * s, second * c + first * s], dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotary position embedding of x (M, heads, D) into out, which may be x. cos, sin: (M, D)."""
    out.copy_(_rotated(x, cos, sin))


def rotate_back(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Gradients before the rotation, side by side in out (M, heads + 2 kv_heads, D), from those after it.

    q (M, heads, D) and k (M, kv_heads, D) are turned back, v (M, kv_heads, D) is not. Each may have strides of its
    own over rows and heads. cos, sin: (M, D).
    """
    to_q, to_k, to_v = torch.split(out, [q.shape[1], k.shape[1], v.shape[1]], dim=1)
    to_q.copy_(_rotated(q, cos, -sin))
    to_k.copy_(_rotated(k, cos, -sin))
    to_v.copy_(v)


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
