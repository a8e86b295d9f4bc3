"""Dropout that draws no random numbers: whether an element survives is a hash of (seed, row, column).

So a recomputed layer drops the same elements and no mask is stored.
"""

import torch
from torch import Tensor

# Of LoRA's hidden activations (M, R), and A (R, K): their product is the gradient of the input (M, K) before its mask.
LoraGradient = tuple[Tensor, Tensor]


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


def joined_gradient(grad: Tensor, lora: LoraGradient | None, dropout: Dropout) -> Tensor:
    """Gradient at a group's input, float32: the frozen branch plus, through the dropout mask, the LoRA branch."""
    if lora is None:
        return grad.float()
    lora_grad = lora[0] @ lora[1]
    if not dropout:
        return grad.float() + lora_grad.float()
    keep = keep_mask(grad.shape[0], grad.shape[1], dropout, grad.device)
    return grad.float() + lora_grad.float() * keep * dropout.scale
