"""The model of a module for a stage, with or without a trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging, WeightAveraging

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.model_setup import build_model, take_fast_path, tokens_at_once
from taigi_lightning.kernels.host_memory import waiting_parameters
from taigi_lightning.model.base_model import Quantization
from taigi_lightning.training.distributed import check_same_base
from taigi_lightning.training.prompt_style import check_prompt_style


def check_from_scratch(quantization: Quantization, *, adapted: bool) -> None:
    """Refuse what random weights cannot have.

    Raises:
        InputError: 4 bits, or an adapter.
    """
    if quantization == "nf4":
        raise InputError("Random weights cannot train in 4 bits: set quantization to none with from_scratch.")
    if adapted:
        raise InputError("An adapter on random weights means nothing: leave lora and adapter out.")


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks that average weights: they copy the module before its model is there, or could not at all.

    Raises:
        InputError: StochasticWeightAveraging, or WeightAveraging such as EMAWeightAveraging.
    """
    for callback in callbacks:
        if isinstance(callback, StochasticWeightAveraging | WeightAveraging):
            raise InputError(
                f"{type(callback).__name__} would average nothing: it copies the module as a whole, and the 4-bit base "
                "is not copied. Leave it out; a schedule that falls to zero, such as cosine, serves the same end."
            )


def make_model(module: Any, device: torch.device, dtype: torch.dtype, training: bool) -> Any:
    """Put a `CausalLMModule`'s model together for a stage, and say what its check found.

    Args:
        module: whose constructor's arguments say what the model is.
        device: where it goes.
        dtype: what it computes in.
        training: whether it is to train; a saved adapter is frozen otherwise.

    Raises:
        InputError: the model cannot be made, does not compute correctly, or would be asked otherwise than in training.
    """
    module.base = module.start.base
    ranks = 1 if module._trainer is None else module._trainer.world_size
    if ranks > 1:
        check_same_base(module.identity)
    data: Any = getattr(module._trainer, "datamodule", None)
    if not training and hasattr(data, "prompt"):
        check_prompt_style(module.base, module.adapter, data.chat_template, data.prompt)
    model = build_model(
        module.start.weights,
        updates=module.start.updates,
        lora=module.lora,
        adapter=module.adapter,
        quantization=module.quantization,
        from_scratch=module.from_scratch,
        compute_dtype=dtype,
        device=device,
        training=training,
        weights_on_host=module.weights_on_host,
        packed_cache=module.packed_cache,
        ranks=ranks,
        tokens=tokens_at_once(data),
    )
    # DDP neither sends these to other ranks nor asks that they lie on the card.
    module._ddp_params_and_buffers_to_ignore = [f"model.{name}" for name in waiting_parameters(model)]
    generates = module.answer_strategy == "generate" and not training
    findings = take_fast_path(
        model,
        device=device,
        training=training,
        compile=module.compile_layers,
        activation_budget=module.activation_budget,
        weights_on_host=module.weights_on_host,
        compute_dtype=dtype,
        answers=not training or bool(getattr(data, "held_out", None)),
        generating=module.tokenizer if generates else None,
        row_tokens=None if generates else getattr(data, "batch_tokens", 32768),
    )
    say = module.print if module._trainer is not None else print
    if findings.packing and getattr(data, "packing", False):
        data.stop_packing()
        say(findings.packing)
    for found in (findings.sharing, findings.padding):
        if found:
            say(found)
    return model
