"""The model of a module for a stage, with or without a trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelSummary
from lightning.pytorch.trainer.states import TrainerFn

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.model_setup import (
    build_model,
    check_matmul,
    compute_dtype,
    take_fast_path,
    tokens_at_once,
)
from taigi_lightning.evaluation.self_check import Findings
from taigi_lightning.fast_path.apply import fast_decoder
from taigi_lightning.fast_path.device_memory import hold_to_own_memory
from taigi_lightning.fast_path.prefill import unpack_what_fits
from taigi_lightning.kernels.host_memory import waiting_parameters
from taigi_lightning.kernels.matmul import Matmul, forward_in_8_bits
from taigi_lightning.model.adapters import LoraSettings, adapter_settings, check_adapter
from taigi_lightning.model.base_model import Quantization
from taigi_lightning.model.hand_off import HandOff, continued
from taigi_lightning.model.lineage import check_identity
from taigi_lightning.model.longest_row import MAX_LENGTH, check_row_length
from taigi_lightning.model.weight_check import check_weights
from taigi_lightning.planning.base_files import check_base
from taigi_lightning.planning.four_bit_options import check_from_scratch
from taigi_lightning.terminal import joined
from taigi_lightning.training.checkpoints import check_resumable, check_trained, check_whole
from taigi_lightning.training.distributed import check_same_base, check_strategy
from taigi_lightning.training.machine_notes import machine_notes
from taigi_lightning.training.module_callbacks import check_callbacks
from taigi_lightning.training.prompt_style import check_prompt_style
from taigi_lightning.training.run_summary import weights
from taigi_lightning.training.trained_state import own_buffers

NO_COPIES = (
    "A CausalLMModule whose model is loaded can be neither pickled nor copied: its layers share 4-bit weights and "
    "compiled operations. Copy it before configure_model, or save a checkpoint and give it to "
    "CausalLMModule.load_from_checkpoint."
)


def print_lines(module: pl.LightningModule, text: object = "") -> None:
    """Print as a Lightning module does, on the first rank and above a bar, with what could steer a terminal escaped."""
    pl.LightningModule.print(module, joined(*str(text).splitlines()))


def run_model(module: Any, *inputs: Any, **options: Any) -> Any:
    """What the causal language model's own forward does: `module(input_ids).logits`.

    Raises:
        InputError: there is no model yet.
    """
    if module.model is None:
        raise InputError("The model is not there yet: call module.configure_model() first.")
    return module.model(*inputs, **options)


def what_trains(
    base: str,
    adapter: str | None,
    lora: LoraSettings | None,
    quantization: Quantization,
    hand_off: HandOff,
    from_scratch: bool,
) -> tuple[str, str | None, LoraSettings | None]:
    """The base, the saved adapter and the adapter's settings that a module's arguments mean.

    Raises:
        InputError: one of them is not there, or they exclude each other.
    """
    check_base(base)
    if adapter is not None:
        check_adapter(adapter)
    elif hand_off == "continue":
        base, adapter = continued(base, quantization) or (base, None)
    if from_scratch:
        check_from_scratch(quantization, adapted=lora is not None or adapter is not None)
    if adapter is None:
        return base, None, lora
    saved = adapter_settings(adapter)
    return base, adapter, saved if lora is None else replace(saved, lora_dropout=lora.lora_dropout)


def check_start(module: Any, data: Any) -> None:
    """Refuse a folder that is no whole base, or reads shorter rows than there will be, before the data are read.

    Args:
        module: any; of a `CausalLMModule`'s base on the Hub that is asked once it is fetched.
        data: any.

    Raises:
        InputError: as `check_weights`, or `check_row_length`.
    """
    base = getattr(module, "base", None)
    if base is None or not Path(base).is_dir():
        return
    if not module.from_scratch:
        check_weights(base)
    if (longest := getattr(data, "max_length", None)) is not None:
        check_row_length(base, longest, MAX_LENGTH)


def attached_trainer(module: pl.LightningModule) -> pl.Trainer | None:
    """The trainer that a module is used by; None without one, and under Lightning's Fabric."""
    try:
        return module.trainer if module.fabric is None else None
    except RuntimeError:
        return None


def window_of(module: pl.LightningModule) -> tuple[int, int]:
    """Micro-batches over whose losses the caller of `training_step` takes the mean, and ranks that share them.

    Without a trainer, in a loop of the user's own, with or without Fabric, nobody takes a mean over micro-batches.
    """
    trainer = attached_trainer(module)
    if trainer is not None:
        return trainer.accumulate_grad_batches, trainer.world_size
    return 1, 1 if module.fabric is None else module.fabric.world_size


def check_loaded(module: Any, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that does not belong to a module, or that a run cannot go on from: loading would not notice.

    Args:
        module: a `CausalLMModule`, whose model is made if it is not there: `load_from_checkpoint` has no trainer.
        checkpoint: what Lightning has read.

    Raises:
        InputError: its bytes changed, its base or its trained parameters are not the module's, or it holds weights
            alone and is to be trained on.
    """
    if module.model is None:
        module.configure_model()
    trainer = attached_trainer(module)
    check_whole(getattr(trainer, "ckpt_path", None))
    if trainer is not None and trainer.state.fn == TrainerFn.FITTING:
        check_resumable(checkpoint, trainer.ckpt_path)
    check_identity(found=module.identity, wanted=checkpoint.get("base_identity", {}))
    check_trained(checkpoint["state_dict"], {**dict(module.named_parameters()), **own_buffers(module)})


def place_of(trainer: pl.Trainer) -> tuple[torch.device, torch.dtype]:
    """Where a trainer's model goes and what it computes in.

    Raises:
        InputError: the trainer's strategy, one of its callbacks or its precision would not do right by the model.
    """
    check_strategy(trainer.strategy)
    check_callbacks(trainer.callbacks)  # type: ignore[attr-defined]
    return trainer.strategy.root_device, compute_dtype(str(trainer.precision))


def hold_weights(module: Any) -> None:
    """As a stage begins that answers, on its device: let a `CausalLMModule`'s model hold as many weights as leave
    headroom for this stage's rows, whichever an earlier one held. One that was made to train stays as it is."""
    decoder = fast_decoder(module.model)
    answers = not module.made_to_train and module.answer_strategy == "choice"
    if answers and decoder is not None and not decoder.stream.hosts:
        unpack_what_fits(module.model, row_tokens(attached_trainer(module)))


def row_tokens(trainer: Any) -> int:
    """Of the longest row of questions that a trainer's data will give."""
    return int(getattr(getattr(trainer, "datamodule", None), "batch_tokens", 32768))


def _unused_products(matmul: Matmul, generates: bool) -> list[str]:
    """A sentence for a stage that does not train, if no product of it is in 8 bits though they are asked for."""
    if matmul == "bf16" or (forward_in_8_bits(matmul) and not generates):
        return []
    if generates:
        return [
            f"Answers are generated through transformers' own layers, whose products stay in 16 bits: model.matmul "
            f"{matmul} changes nothing here. It does with --model.answer_strategy choice."
        ]
    return [f"model.matmul {matmul} is for gradients, and none are computed here: products stay in 16 bits."]


def expect_own_model(module: Any) -> None:
    """Refuse to make a `CausalLMModule`'s model anew where a user put another in its place, with an InputError."""
    if module.model is not None and "made_here" not in vars(module.model):
        raise InputError(
            "module.model was set by hand, and training would make it anew from the module's arguments. Say there what "
            "is to train (base, lora, adapter), or override configure_model and make the model in it."
        )


def check_products(module: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse the products that a module wants where nothing could be multiplied so; see `check_matmul`."""
    check_matmul(module.matmul, module.start.weights, module.quantization, device, dtype, module.adapter)


def able_trainer(module: Any) -> pl.Trainer:
    """A module's trainer, asked before any data are prepared whether the model could be made for it.

    Raises:
        InputError: its strategy or precision would not do right by the model, or its device does not multiply what the
            module wants.
    """
    trainer: pl.Trainer = module.trainer
    check_strategy(trainer.strategy)
    device, dtype = trainer.strategy.root_device, compute_dtype(str(trainer.precision))
    if module.matmul != "bf16":
        check_products(module, device, dtype)
    return trainer


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
    trainer = attached_trainer(module)
    if (ranks := 1 if trainer is None else trainer.world_size) > 1:
        check_same_base(module.identity)
    hold_to_own_memory(device)
    data: Any = getattr(trainer, "datamodule", None)
    if not training and hasattr(data, "prompt"):
        check_prompt_style(module.base, module.adapter, data.chat_template, data.prompt)
    if (longest := getattr(data, "max_length", None)) is not None:
        check_row_length(module.start.weights, longest, MAX_LENGTH)
    check_products(module, device, dtype)
    model = build_model(
        module.start.weights,
        new_tokens=module.vocabulary.rows(module.base) if module.vocabulary.words else None,
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
        row_tokens=None if generates else row_tokens(trainer),
        matmul=module.matmul,
    )
    # DDP neither sends these to other ranks nor asks that they lie on the card. What is to wait does so by now.
    module._ddp_params_and_buffers_to_ignore = [f"model.{name}" for name in waiting_parameters(model)]
    vars(model)["made_here"] = True
    _say(module, model, findings, [] if training else _notes(module, device, generates))
    return model


def _notes(module: Any, device: torch.device, generates: bool) -> list[str]:
    """What a stage that answers says of its machine; what trains says it in its summary."""
    return machine_notes(device, module.compile_layers) + _unused_products(module.matmul, generates)


def _say(module: Any, model: Any, findings: Findings, notes: Sequence[str]) -> None:
    """What the self-check found, of which some is done at once, and what else there is to say."""
    trainer = attached_trainer(module)
    data, say = getattr(trainer, "datamodule", None), print if trainer is None else module.print
    callbacks: Sequence[Callback] = getattr(trainer, "callbacks", ())
    if module.quantization == "nf4" and any(isinstance(callback, ModelSummary) for callback in callbacks):
        count = sum(weights(parameter) for parameter in model.parameters())
        say(
            f"Lightning's table counts bytes where weights have 4 bits, two a byte: {count:,} weights in all."
        )
    if findings.packing and data is not None and getattr(data, "packing", False):
        data.stop_packing()
        say(findings.packing)
    for found in (findings.sharing, findings.padding, *notes):
        if found:
            say(found)
