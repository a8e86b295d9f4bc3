"""Make a PEFT model over a frozen base train fast, without changing its names, files or results.

Decoders of the `families` run layer by layer, written out; any other architecture keeps transformers'
own forward pass with activation checkpointing, its 4-bit projections with LoRA as one product for each input. Either
way parameters, and `generate`, stay untouched.
"""

import inspect
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path import families, lora_linear
from taigi_lightning.fast_path.attention import Documents
from taigi_lightning.fast_path.checkpointed_layers import CheckpointedLayers, checkpoint_layers
from taigi_lightning.fast_path.decoder import Budget, FastDecoder
from taigi_lightning.fast_path.eight_bit_weights import stays_in_16_bits
from taigi_lightning.fast_path.own_layers import bring_back, no_copy, speed_up_layers
from taigi_lightning.fast_path.own_pass import own_hidden
from taigi_lightning.fast_path.watched_modules import heard
from taigi_lightning.kernels import elementwise
from taigi_lightning.kernels.matmul import Matmul, format_of
from taigi_lightning.kernels.triton_support import triton_fault
from taigi_lightning.planning.decoder_path import activation_name, off_fast_path
from taigi_lightning.planning.four_bit_options import check_option, own_code
from taigi_lightning.planning.placement import WeightsOnHost


def apply_fast_path(
    model: nn.Module,
    *,
    compile: bool = False,
    activation_budget: Budget = "auto",
    offload: bool | float = True,
    embedding_on_host: bool | None = None,
    unpacked_layers: int | None = None,
    weights_on_host: WeightsOnHost = "auto",
) -> nn.Module:
    """Prepare a PEFT causal language model for training, in place.

    Args:
        model: what `get_peft_model` returned, over a transformers causal language model.
        compile: on CUDA, compute the row-wise operations in fused kernels; off, or without Triton, in plain torch.
        activation_budget: the share of all activations kept on the device: 0 recomputes or moves out every
            layer's, 1 keeps everything, "auto" keeps what the device's free memory holds at the first step.
        offload: on CUDA, move what layers without a share save to pinned host memory: at most half of what
            is available there, or so many GiB.
        embedding_on_host: keep the input embedding in host memory, from the first training step on; None: on
            CUDA with a budget of 0, or of "auto" where it would not fit otherwise.
        unpacked_layers: how many layers hold their base weights dequantised to 16 bits, for speed; None: none, but
            with a budget of "auto" on CUDA as many as fit when every activation is kept.
        weights_on_host: how many layers' 4-bit weights wait in host memory and arrive while the layer before
            computes, or all or none; "auto": on CUDA, what costs least time at the first training step.

    Returns:
        The same model; its parameter names and saved files are PEFT's own.
    """
    base = causal_lm(model)
    base.config.use_cache = False
    base.__dict__["__deepcopy__"] = no_copy
    earlier: FastDecoder | None = base.__dict__.pop("fast_decoder", None)
    if earlier is not None:
        earlier.release()
    reason = unsupported(model)
    if reason is not None:
        base.slow_path_reason = reason
        bring_back(base, weights_on_host, reason)
        checkpoint_layers(base, activation_budget)
        fused = compile and _runs_triton(next(base.parameters()))
        speed_up_layers(base, _operations(fused), fused)
        return model
    fused = compile and _runs_triton(base.get_decoder().norm.weight)
    base.fast_decoder = FastDecoder(
        base,
        families.FAMILIES[type(base).__name__],
        _operations(fused),
        activation_budget,
        fused=fused,
        offload=offload,
        embedding_on_host=embedding_on_host,
        unpacked_layers=unpacked_layers,
        weights_on_host=weights_on_host,
    )
    return model


def compute_in(model: Any, matmul: Matmul) -> list[str]:
    """Make the products with frozen 4-bit weights in 8 bits from now on, or in 16, as after `apply_fast_path`.

    Returns:
        of 8 bits, one sentence for each kind of projection whose products stay in 16 bits.

    Raises:
        InputError: 8 bits are wanted and no product can be in them.
    """
    base = causal_lm(model)
    decoder: FastDecoder | None = getattr(base, "fast_decoder", None)
    if decoder is None:
        reason = getattr(base, "slow_path_reason", None) or "it does not train"
        check_option("matmul", matmul, fault=own_code(reason))
        return []
    decoder.compute_in(matmul)
    form = format_of(matmul)
    if form is None:
        return []
    layer = decoder.layers[0]
    names = ("q, k and v", "the attention's output", "gate and up", "the MLP's output")
    left = {
        name: reason
        for name, group in zip(names, layer.groups(), strict=True)
        if (reason := stays_in_16_bits(group.members, form)) is not None
    }
    if len(left) == len(names):
        raise InputError(
            f"model.matmul is {matmul}, but no product can be in {form}: of {names[0]}, {left[names[0]]}. Set "
            "--model.matmul bf16."
        )
    return [f"the products of {name} stay in 16 bits: {reason}" for name, reason in left.items()]


def causal_lm(model: Any) -> Any:
    """The transformers causal language model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def device_of(model: Any) -> torch.device:
    """Where a model computes: its embedding and its output head may wait elsewhere."""
    base = causal_lm(model)
    decoder: FastDecoder | None = getattr(base, "fast_decoder", None)
    if decoder is not None:
        return decoder.device
    return base.get_output_embeddings().weight.device  # type: ignore[no-any-return]


def fast_decoder(model: Any) -> "FastDecoder | None":
    """The backbone as `apply_fast_path` wrote it out, if it did and its layers and adapters are still the same."""
    decoder: FastDecoder | None = getattr(causal_lm(model), "fast_decoder", None)
    return decoder if decoder is not None and decoder.ready() and decoder.changed() is None else None


def checkpointed_layers(model: Any) -> CheckpointedLayers | None:
    """What decides which of transformers' own layers keep their activations, if that is still to be decided."""
    return getattr(causal_lm(model), "checkpointed_layers", None)


def _runs_triton(like: Tensor) -> bool:
    return like.is_cuda and triton_fault() is None


def _operations(fused: bool) -> ModuleType:
    if not fused:
        return elementwise
    from taigi_lightning.kernels import elementwise_triton

    return elementwise_triton


def expect_state(model: nn.Module, size: int) -> None:
    """Let a budget of "auto" leave headroom for so many bytes of optimizer state that is still to be made."""
    for runs in (fast_decoder(model), checkpointed_layers(model)):
        if runs is not None:
            runs.optimizer_state = size


def forward_hidden(
    model: nn.Module, input_ids: Tensor, position_ids: Tensor, documents: Documents | None = None
) -> Tensor:
    """Last hidden states (B, T, H) of packed blocks; each document attends only to itself.

    Args:
        model: the PEFT model, or a bare transformers causal language model.
        input_ids: (B, T) int64.
        position_ids: (B, T) int64, restarting at 0 at each document: boundaries come from it.
        documents: those boundaries, if they are known already: finding them waits for the device.
    """
    decoder = fast_decoder(model)
    if decoder is not None:
        return decoder.hidden(input_ids, position_ids, documents)
    _stand_aside(causal_lm(model))
    # Without an attention mask transformers finds the restarts itself and masks across documents.
    layers = checkpointed_layers(model)
    if layers is not None:
        return layers.hidden(input_ids, position_ids)
    return own_hidden(causal_lm(model), input_ids=input_ids, position_ids=position_ids)


def _stand_aside(base: Any) -> None:
    """Let transformers' own layers compute, within the budget of those that were written out.

    Warns, once for each, of changes by which these are no longer the model's; adapters may be switched.
    """
    decoder: FastDecoder | None = getattr(base, "fast_decoder", None)
    if decoder is None:
        return
    if base.training and torch.is_grad_enabled() and not decoder.stood_aside:
        decoder.stood_aside = True
        checkpoint_layers(base, decoder.budget)
    change = decoder.changed() if decoder.ready() else None
    if change not in (None, decoder.told):
        decoder.told = change
        warnings.warn(
            f"The fast path stands aside, because {change} since the model was made: transformers' own layers compute, "
            "which takes more time and memory.",
            stacklevel=3,
        )


def unsupported(model: nn.Module) -> str | None:  # noqa: PLR0911
    """Why the layers of a model cannot be written out, or None if they can."""
    base = causal_lm(model)
    family = families.FAMILIES.get(type(base).__name__)
    if family is None:
        return f"{type(base).__name__} is not one of {', '.join(families.FAMILIES)}"
    reason = off_fast_path(base.config.to_dict())
    if reason is not None:
        return reason
    if family.rotary_by_type and not _rotates_by_type(base.get_decoder()):
        return "its rotary embedding is not by layer type in this version of transformers"
    known = ("lora_", ".token_rows.")
    trained = [
        n for n, p in base.named_parameters() if p.requires_grad and not any(part in n for part in known)
    ]
    if trained:
        return f"{trained[0]} trains, beside LoRA"
    if outside := _adapted_outside(base, family):
        return f"{outside} has LoRA, which the written-out layers do not look for there"
    backbone = base.get_decoder()
    parts = {**dict(backbone.layers.named_modules(prefix="layers")), "norm": backbone.norm}
    if found := heard(parts):
        return f"{found} has a hook or a forward pass of its own, which written-out layers would not call"
    if found := _other_parts(backbone, family):
        return f"{found}, which is another than its config says"
    projections = {"self_attn": (*family.qkv, "o_proj"), "mlp": (*family.gate_up, "down_proj")}
    for layer in backbone.layers:
        for block, names in projections.items():
            for name in names:
                reason = lora_linear.refusal(getattr(getattr(layer, block), name))
                if reason is not None:
                    return f"{block}.{name}: {reason}"
    return None


def _adapted_outside(base: Any, family: families.Family) -> str | None:
    """A module with LoRA that is none of the layers' projections, such as an embedding."""
    names = {*family.qkv, "o_proj", *family.gate_up, "down_proj"}
    adapted = (
        name
        for name, module in base.named_modules()
        if len(getattr(module, "lora_A", ())) or len(getattr(module, "lora_embedding_A", ()))
    )
    return next(
        (name for name in adapted if ".layers." not in name or name.rpartition(".")[2] not in names), None
    )


def _other_parts(backbone: Any, family: families.Family) -> str | None:
    """A norm or an activation of the layers that somebody put in the place of transformers'."""
    activation = type(ACT2FN[str(activation_name(backbone.config.to_dict()))])
    for index, layer in enumerate(backbone.layers):
        for name in (*family.before, *family.after):
            if name is not None and type(getattr(layer, name)) is not type(backbone.norm):
                return f"layers.{index}.{name} is {type(getattr(layer, name)).__name__}"
        for child in layer.mlp.children():
            if not hasattr(child, "weight") and type(child) is not activation:
                return f"the activation of layers.{index} is {type(child).__name__}"
    return None


def _rotates_by_type(backbone: Any) -> bool:
    rotary = getattr(backbone, "rotary_emb", None)
    return rotary is not None and "layer_type" in inspect.signature(rotary.forward).parameters
