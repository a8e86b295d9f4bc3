"""Plans of bases of which there is no more than a config."""

from pathlib import Path
from typing import Any

from taigi_lightning.planning.command import plan_config
from taigi_lightning.planning.plan import Plan

BIG: dict[str, Any] = {
    "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32,
}  # fmt: skip


def saved_base(folder: Path, config: Any) -> str:
    """A folder with just a base's config.json, as transformers writes it."""
    config.save_pretrained(folder)
    return str(folder)


def planned(base: str, **more: Any) -> Plan:
    """The plan of LoRA r 16 on a base, for a card of 80 GiB."""
    model = {"base": base, "lora": {"r": 16}, "activation_budget": more.pop("budget", "auto")}
    config = {"model": model, "data": {"class_path": "CPTDataModule"}, "gpu_memory": "80GiB"}
    return plan_config({**config, **more})
