"""A base and what trains on top of it, put together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from taigi_lightning.adapters import LoraSettings, attach_adapter, load_adapter
from taigi_lightning.base_model import Quantization, load_base_model
from taigi_lightning.errors import InputError
from taigi_lightning.identity import check_lineage


def build_model(
    base: str,
    *,
    lora: LoraSettings | None,
    adapter: str | None,
    quantization: Quantization,
    from_scratch: bool,
    compute_dtype: torch.dtype,
    device: torch.device,
    training: bool,
) -> Any:
    """Load a base, with a saved adapter or a fresh one if either is given.

    Args:
        base, quantization, compute_dtype, device, from_scratch: as for `load_base_model`.
        lora: settings of a fresh adapter, unless `adapter` names a saved one.
        training: whether something is to train; dropout is on just then.

    Raises:
        InputError: the base or the adapter cannot be read, they do not belong together, or nothing would train.
    """
    model: Any = load_base_model(
        base,
        quantization=quantization,
        compute_dtype=compute_dtype,
        device=device,
        from_scratch=from_scratch,
    )
    if adapter is not None:
        check_lineage(Path(adapter), base, quantization)
        model = load_adapter(model, adapter, trainable=training)
    elif lora is not None:
        model = attach_adapter(model, lora)
    if training and not any(p.requires_grad for p in model.parameters()):
        raise InputError("Nothing would train: give --model.lora a rank, for example --model.lora.r 64.")
    return model.train(training)  # transformers loads in eval mode, where dropout is off
