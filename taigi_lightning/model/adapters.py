"""LoRA adapters: attached, loaded and saved by PEFT, in PEFT's own format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from taigi_lightning.atomic_write import written_aside
from taigi_lightning.errors import InputError
from taigi_lightning.planning.memory import PROJECTIONS


@dataclass
class LoraSettings:
    """A low-rank update beside each chosen Linear (Hu et al. 2021): W x + lora_alpha / r * B (A x).

    For a Linear with weights [out, in], A is [r, in] and B [out, r], both float32.

    Args:
        r: rank of the update.
        lora_alpha: the update is scaled by lora_alpha / r.
        lora_dropout: dropout on the input of the update, never on the frozen product.
        target_modules: names of the Linear layers that get one.
    """

    r: PositiveInt = 16
    lora_alpha: PositiveInt = 32
    lora_dropout: ClosedUnitInterval = 0.0
    target_modules: list[str] = field(default_factory=lambda: list(PROJECTIONS))


def attach_adapter(model: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    """Wrap `model` with a fresh adapter: A random, B zero, both float32; nothing else trains.

    Raises:
        InputError: no layer of the model has one of the target names, or lm_head is among them.
    """
    if "lm_head" in lora.target_modules:
        raise InputError(
            "lm_head in target_modules would not train: the loss is computed from its frozen weight."
        )
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if not names.intersection(lora.target_modules):
        raise InputError(
            f"None of target_modules {lora.target_modules} is a layer of {type(model).__name__}. "
            "Set --model.lora.target_modules to names of its Linear layers."
        )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config, autocast_adapter_dtype=True)


def load_adapter(model: PreTrainedModel, adapter: str, *, trainable: bool) -> PeftModel:
    """Wrap `model` with a saved adapter; its rank, scale and layers are those it was trained with.

    Raises:
        InputError: the folder is not an adapter.
    """
    check_adapter(adapter)
    return PeftModel.from_pretrained(model, adapter, is_trainable=trainable, autocast_adapter_dtype=True)


def adapter_settings(adapter: str) -> LoraSettings:
    """Read back the settings an adapter was trained with.

    Raises:
        InputError: the folder is not an adapter.
    """
    check_adapter(adapter)
    config = PeftConfig.from_pretrained(adapter)
    return LoraSettings(config.r, config.lora_alpha, config.lora_dropout, sorted(config.target_modules))


def save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors aside, then swap them in.

    Args:
        model: the trained PEFT model.
        folder: where the adapter goes; an earlier one there is replaced as a whole.
        base: written as the adapter's `base_model_name_or_path`.
    """
    model.peft_config["default"].base_model_name_or_path = base
    with written_aside(folder) as aside:
        model.save_pretrained(str(aside), save_embedding_layers=False)


def check_adapter(adapter: str) -> None:
    """Refuse a folder that is not a PEFT adapter.

    Raises:
        InputError: adapter_config.json or adapter_model.safetensors is missing.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(adapter) / name).is_file():
            raise InputError(
                f"{adapter} holds no {name}, so it is not a PEFT adapter. Give the `adapter` folder that a "
                "finished `fit` leaves, for example models/final_model/adapter."
            )
