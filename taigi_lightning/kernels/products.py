"""Matrix products whose result is wanted in float32."""

import torch
from torch import Tensor


def float32_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of matrices or batches of them in float32, accumulated and returned so where the device can."""
    if a.is_cuda and a.dtype != torch.float32:
        multiply = torch.mm if a.dim() == 2 else torch.bmm
        return multiply(a, b, out_dtype=torch.float32)
    return (a @ b).float()
