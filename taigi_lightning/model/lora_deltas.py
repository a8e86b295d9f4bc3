"""A PEFT LoRA adapter on disk, read as what it adds to each weight of its base."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taigi_lightning.errors import InputError
from taigi_lightning.model.safetensors_files import TensorEntry, read_header, read_tensor
from taigi_lightning.planning.run_files import ADAPTER_CONFIG, adapter_config

if TYPE_CHECKING:
    import torch

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
DELTA = (
    ".token_adapter.trainable_tokens_delta"  # PEFT's name for trained rows of tokens, after their module's
)
# What these fields hold does not change the function that the saved A and B compute. Any other field has to
# be empty, so that a kind of adapter which this reader does not know is refused and not merged wrongly.
HARMLESS = {
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("lora_alpha", "lora_dropout", "fan_in_fan_out", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("megatron_core", "qalora_group_size", "ensure_weight_tying"),
    "trainable_token_indices",  # of rows that `token_rows` reads
}
# Every other named initialisation (pissa, olora, loftq, corda, ...) also changes the base's own weights.
SAFE_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class LoraUpdate:
    """What an adapter adds to one weight: `scale * B @ A`, with A and B left on disk until asked for."""

    weight: str  # name of the base's tensor
    file: Path
    a: TensorEntry  # [r, in]
    b: TensorEntry  # [out, r]
    scale: float
    transposed: bool = False  # the weight is stored [in, out]; what stores it says so, not the adapter

    @property
    def matrix(self) -> tuple[int, int]:
        """[out, in] of the update, however the weight is stored."""
        return self.b.shape[0], self.a.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the update as the weight is stored."""
        rows, columns = self.matrix
        return (columns, rows) if self.transposed else (rows, columns)

    def factors(self, device: str) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return float32 `left` [rows, r] and `right` [r, columns]; their product is the update."""
        with self.file.open("rb") as file:
            a, b = (read_tensor(file, entry).to(device).float() for entry in (self.a, self.b))
        return (a.T * self.scale, b.T) if self.transposed else (b * self.scale, a)


def read_adapter_config(adapter: Path) -> dict[str, Any]:
    """Return `adapter_config.json` as a dict.

    Raises:
        InputError: the file is missing or unreadable, or the adapter is more than plain LoRA.
    """
    config, path = adapter_config(adapter), adapter / ADAPTER_CONFIG
    extras = [name for name in sorted(config.keys() - HARMLESS) if config[name] and config[name] != "none"]
    if config.get("peft_type") != "LORA":
        extras.append("peft_type")
    if config.get("init_lora_weights") not in SAFE_INITIALISATIONS:
        extras.append("init_lora_weights")
    if extras:
        found = ", ".join(f"{name}: {config.get(name)}" for name in extras)
        raise InputError(
            f"{path} has {found}; only plain LoRA can be merged. Train without it, or set --export.merge false."
        )
    return config


def read_updates(adapter: Path) -> dict[str, LoraUpdate]:
    """Return the update of each weight that the adapter changes, by the name of the base's tensor.

    Raises:
        InputError: the adapter is no plain LoRA adapter in safetensors, or it holds other tensors too.
    """
    config = read_adapter_config(adapter)
    file = adapter / WEIGHTS
    if not file.is_file():
        raise InputError(f"{adapter} holds no {WEIGHTS}; save the adapter with save_pretrained.")
    header = read_header(file)
    check_ranks(adapter, config, header)
    updates = {}
    for name, a in header.items():
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        if name != f"{PREFIX}{module}.lora_A.weight":
            continue
        b = header.get(f"{PREFIX}{module}.lora_B.weight")
        if b is None or a.shape[0] != b.shape[1]:
            raise InputError(f"{file} holds {name} of shape {list(a.shape)} without a lora_B to match.")
        scale = lora_scale(config, module, rank=a.shape[0])
        updates[f"{module}.weight"] = LoraUpdate(f"{module}.weight", file, a, b, scale)
    known = {entry.name for update in updates.values() for entry in (update.a, update.b)}
    unknown = sorted(name for name in header.keys() - known if not name.endswith(DELTA))
    if unknown or not updates:
        raise InputError(
            f"{file} holds {unknown[0] if unknown else 'no tensors'}; wanted pairs named "
            f"{PREFIX}<module>.lora_A.weight and .lora_B.weight alone."
        )
    return updates


def check_ranks(adapter: Path, config: Mapping[str, Any], header: Mapping[str, TensorEntry]) -> None:
    """Refuse settings of another adapter than the matrices beside them: its scale would be a guess.

    Raises:
        InputError: the rank is another, or rank and alpha are no numbers.
    """
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (isinstance(rank, int) and rank > 0 and isinstance(alpha, int | float)):
        raise InputError(
            f"{adapter / ADAPTER_CONFIG} says r {rank!r} and lora_alpha {alpha!r}; wanted numbers, as PEFT writes them."
        )
    for name, entry in header.items():
        module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
        wanted = _by_pattern(config.get("rank_pattern") or {}, module, rank)
        if name == f"{PREFIX}{module}.lora_A.weight" and entry.shape[0] != wanted:
            raise InputError(
                f"{adapter / ADAPTER_CONFIG} says rank {wanted}, and {WEIGHTS} beside it holds {name} of rank "
                f"{entry.shape[0]}: one of them is of another adapter. Copy both from one place."
            )


def _by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """What PEFT takes for a module of settings by names or patterns."""
    return next(
        (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), otherwise
    )


def lora_scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Return PEFT's factor of B @ A: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA.

    >>> lora_scale({"lora_alpha": 128, "alpha_pattern": {"q_proj": 32}}, "model.layers.0.q_proj", rank=64)
    0.5
    """
    alpha = _by_pattern(config.get("alpha_pattern") or {}, module, config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)
