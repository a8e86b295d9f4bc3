"""A base and what trains on top of it, put together and made fast for its stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.self_check import Findings, explained, self_check
from taigi_lightning.fast_path.apply import apply_fast_path, compute_in
from taigi_lightning.fast_path.decoder import Budget
from taigi_lightning.fast_path.device_memory import allowed_bytes
from taigi_lightning.fast_path.eight_bit_weights import matmul_fault
from taigi_lightning.fast_path.families import FAMILIES
from taigi_lightning.fast_path.machine_speed import slow_products
from taigi_lightning.fast_path.prefill import unpack_what_fits
from taigi_lightning.kernels.available_memory import available_bytes
from taigi_lightning.kernels.matmul import Matmul
from taigi_lightning.model.adapters import LoraSettings, attach_adapter, load_adapter
from taigi_lightning.model.base_model import Quantization, load_base_model
from taigi_lightning.model.frozen_update import add_frozen_updates
from taigi_lightning.model.new_tokens import Rows
from taigi_lightning.model.precision import best_dtype
from taigi_lightning.model.shared_weights import agreed
from taigi_lightning.model.text_model import text_model_class
from taigi_lightning.model.token_rows import attach_rows
from taigi_lightning.planning.activation_plan import loss_bytes, working_bytes
from taigi_lightning.planning.decoder_path import off_fast_path
from taigi_lightning.planning.earlier_stages import beyond_lora
from taigi_lightning.planning.four_bit_options import check_option, own_code
from taigi_lightning.planning.memory import (
    GIB,
    PROJECTIONS,
    Shape,
    adapter_sizes,
    packed_layer_bytes,
    prefill_bytes,
    weight_bytes,
)
from taigi_lightning.planning.placement import WeightsOnHost, loads_to_host
from taigi_lightning.planning.precisions import full_name
from taigi_lightning.terminal import print_line

COMPUTE_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "32-true": torch.float32}


def compute_dtype(precision: str) -> torch.dtype:
    """What a stage computes in, by `trainer.precision`.

    Raises:
        InputError: the model is not computed in that precision.
    """
    return COMPUTE_DTYPES[full_name(precision)]


def working_place(
    device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    """Where a model goes and what it computes in, where nobody said: a GPU in 16 bits, else the CPU in float32."""
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return place, dtype or best_dtype(place)


def check_matmul(
    matmul: Matmul,
    base: str,
    quantization: Quantization,
    device: torch.device,
    dtype: torch.dtype,
    adapter: str | None = None,
) -> None:
    """Refuse 8 bits where nothing could be multiplied in them.

    Args:
        dtype: what everything else is computed in.
        adapter: a saved one that will be on it.

    Raises:
        InputError: the weights are not in 4 bits, or base, adapter, device or dtype does not allow it.
    """
    if matmul != "bf16":
        fault = matmul_fault(matmul, device, dtype) or own_code(_general_path(base) or beyond_lora(adapter))
        check_option("matmul", matmul, quantization=quantization, fault=fault)


def _general_path(base: str) -> str | None:
    """Why a base's layers will run as transformers wrote them, by its configuration; None if the fast path's will."""
    architecture, config = text_model_class(base)
    if architecture.__name__ not in FAMILIES:
        return f"{architecture.__name__} is not one of {', '.join(FAMILIES)}"
    return off_fast_path(config.to_dict())


def check_weights_on_host(weights_on_host: WeightsOnHost, base: str, quantization: Quantization) -> None:
    """Refuse to let weights wait that cannot, before they load.

    Raises:
        InputError: they are asked to and are not in 4 bits, or nothing would bring them.
    """
    check_option("weights_on_host", weights_on_host, quantization=quantization)
    if weights_on_host not in ("auto", "none", 0):
        check_option("weights_on_host", weights_on_host, fault=own_code(_general_path(base)))


def build_model(
    base: str,
    *,
    lora: LoraSettings | None,
    adapter: str | None,
    new_tokens: Rows | None = None,
    updates: Sequence[Path] = (),
    quantization: Quantization,
    from_scratch: bool,
    compute_dtype: torch.dtype,
    device: torch.device,
    training: bool,
    weights_on_host: WeightsOnHost = "none",
    packed_cache: str | None = None,
    ranks: int = 1,
    tokens: int = 0,
) -> Any:
    """Load a base, with a saved adapter or a fresh one if either is given.

    Args:
        base, quantization, compute_dtype, device, from_scratch: as for `load_base_model`.
        lora: settings of a fresh adapter, unless `adapter` names a saved one, of which only the dropout is these.
        new_tokens: rows of the embedding that are to train too, as `extended_tokenizer` gives them.
        updates: adapters of earlier stages, which stay frozen beside the weights.
        training: whether something is to train; dropout is on just then.
        weights_on_host: how many layers' packed weights are to wait on the host.
        packed_cache: a folder that keeps packed weights for the next start.
        ranks: of the run, which build the model at the same time; those of one machine share what waits on its host.
        tokens: of a micro-batch or of a row to predict, for which a card needs headroom.

    Raises:
        InputError: the base or an adapter cannot be read, they do not fit each other, nothing would train, or weights
            are to wait on the host that cannot.
    """
    check_weights_on_host(weights_on_host, base, quantization)
    on_host = quantization == "nf4" and starts_on_host(
        base, weights_on_host, lora.r if lora else 0, device=device, tokens=tokens, training=training
    )
    if ranks > 1 and quantization == "nf4":
        on_host = agreed(on_host)
    model: Any = load_base_model(
        base,
        weights_on_host=on_host,
        shared=ranks > 1,
        packed_cache=packed_cache,
        quantization=quantization,
        compute_dtype=compute_dtype,
        device=device,
        from_scratch=from_scratch,
    )
    add_frozen_updates(model, updates, compute_dtype)
    model = _with_what_trains(model, adapter, lora, new_tokens, training)
    if on_host:  # PEFT has put LoRA where the weights wait
        model.to(device)
    return model.train(training)  # transformers loads in eval mode, where dropout is off


def _with_what_trains(
    model: Any, adapter: str | None, lora: LoraSettings | None, new_tokens: Rows | None, training: bool
) -> Any:
    """A loaded base with its adapter and its rows of new tokens; arguments and errors as for `build_model`."""
    if adapter is not None:
        model = load_adapter(model, adapter, trainable=training, dropout=lora.lora_dropout if lora else None)
    elif lora is not None:
        with explained(type(model).__name__):
            model = attach_adapter(model, lora)
    if new_tokens:
        attach_rows(model.get_base_model(), new_tokens)
    if training and not any(p.requires_grad for p in model.parameters()):
        raise InputError("Nothing would train: give --model.lora a rank, for example --model.lora.r 64.")
    return model


def tokens_at_once(data: Any) -> int:
    """Tokens that pass through the model together: of a micro-batch, or of the longest row of a prediction."""
    largest = getattr(data, "batch_tokens", 0) or getattr(data, "batch_size", 1)
    return max(largest, getattr(data, "max_length", 2048) * getattr(data, "batch_size", 1))


def starts_on_host(
    base: str, weights_on_host: WeightsOnHost, rank: int, *, device: torch.device, tokens: int, training: bool
) -> bool:
    """Whether packed weights go to the host as they are made, because a card would not hold them all and the rest.

    Where that is in doubt they do: the first training step brings back what has headroom.

    Raises:
        InputError: they are to, or must, and the host has not as much memory.
    """
    if weights_on_host in ("none", 0):
        return False
    architecture, config = text_model_class(base)
    if weights_on_host == "auto" and (device.type != "cuda" or architecture.__name__ not in FAMILIES):
        return False
    shape = Shape.from_config(config.to_dict())
    packed, available = shape.layers * packed_layer_bytes(shape), available_bytes()
    if weights_on_host == "auto":
        trained = sum(adapter_sizes(shape, rank, PROJECTIONS))
        held = sum(weight_bytes(shape, "nf4")) + 4 * trained
        if training:  # gradients, and two moments in 32 bits
            beside = 12 * trained + max(working_bytes(shape, tokens), loss_bytes(shape, tokens))
        else:
            beside = prefill_bytes(shape.hidden, shape.intermediate, tokens)
        card = allowed_bytes(device)[1]
        in_doubt = packed <= available and held + beside > card
        if not (in_doubt or loads_to_host(weights_on_host, held, card)):
            return False
    if packed > available:
        raise InputError(
            f"The 4-bit weights of {base} would wait in host memory, {packed / GIB:.1f} GiB where "
            f"{available / GIB:.1f} are available. Close other programs, give --model.weights_on_host none where the "
            "card holds them, or take a smaller base."
        )
    return True


def take_fast_path(
    model: Any,
    *,
    device: torch.device,
    training: bool,
    compile: bool | None,
    activation_budget: Budget,
    weights_on_host: WeightsOnHost = "none",
    compute_dtype: torch.dtype,
    answers: bool,
    generating: PreTrainedTokenizerBase | None = None,
    row_tokens: int | None = None,
    matmul: Matmul = "bf16",
) -> Findings:
    """Prepare a built model for its stage, in place, and check it; outside training a CPU keeps transformers' own path.

    Args:
        compile, activation_budget, weights_on_host: as for `apply_fast_path`; `compile` None means on a GPU.
        compute_dtype: what the stage computes in.
        answers, generating: as for `self_check`.
        row_tokens: of the longest row to come, for which a GPU outside training unpacks the layers that fit; None
            unpacks none.
        matmul: what products with frozen weights are computed in, once the check, in the stage's own precision, is
            through; `check_matmul` says where 8 bits can be.

    Raises:
        InputError: the model cannot be run, or gives other results than its own.
    """
    compiled = device.type == "cuda" if compile is None else compile
    if training:
        apply_fast_path(
            model, compile=compiled, activation_budget=activation_budget, weights_on_host=weights_on_host
        )
    elif device.type == "cuda" or weights_on_host not in ("auto", "none", 0):
        # The same operations, with nothing to keep for a backward pass.
        apply_fast_path(
            model, compile=compiled, activation_budget=1.0, offload=False, weights_on_host=weights_on_host
        )
    # Lightning makes whatever is new on the card while a model is set up; what is asked of it is made as in a run.
    precision = torch.autocast(device.type, compute_dtype, enabled=compute_dtype != torch.float32)
    with torch.device("cpu"), precision:
        findings = self_check(model, answers=answers, generating=generating)
    slow = slow_products(matmul, device, compute_dtype)
    for said in [*compute_in(model, matmul), *([] if slow is None else [slow])]:
        print_line(said)
    if not training and device.type == "cuda" and row_tokens is not None:
        unpack_what_fits(model, tokens=row_tokens)
    return findings
