"""`merge`: an adapter added to its base, and the merged model's card."""

from __future__ import annotations

from pathlib import Path

from taigi_lightning.atomic_write import check_place
from taigi_lightning.errors import InputError
from taigi_lightning.model.lora_deltas import read_adapter_config
from taigi_lightning.model.merge import Onto, merge_adapter
from taigi_lightning.model.publish import CONFIG
from taigi_lightning.planning.run_files import LINEAGE, shard_names
from taigi_lightning.reports.model_card import write_model_cards
from taigi_lightning.terminal import print_line, print_text


def merge_command(
    base: str | None = None,
    adapter: Path = Path("models/cpt_model/adapter"),
    output_dir: Path = Path("models/cpt_model"),
    onto: Onto = "original",
    device: str = "cpu",
    overwrite: bool = False,
) -> None:
    """Merge a LoRA adapter into its 16-bit base: a model that plain transformers loads.

    Args:
        base: folder or hub name of the base model; without it, the one that the adapter names.
        adapter: folder of the adapter, as training or PEFT saved it.
        output_dir: folder for the merged model.
        onto: add to the original weights, whose update a later 4-bit stage keeps, or to the 4-bit weights
            that training saw, dequantised: exact in 16 bits, nearly lost in a later 4-bit stage.
        device: where to compute, cpu or cuda.
        overwrite: replace a model that is in output_dir.
    """
    check_place(output_dir, shard_names(base or ""))
    if (output_dir / CONFIG).is_file() and not overwrite:
        raise InputError(
            f"{output_dir} holds a model. Give --overwrite true to replace it, or --output_dir another folder."
        )
    name = base or read_adapter_config(adapter).get("base_model_name_or_path")
    if not name:
        raise InputError(f"{adapter} does not name its base; give --base.")
    print_text(merge_adapter(name, adapter, output_dir, onto=onto, device=device))
    if (output_dir / LINEAGE).is_file():  # an adapter of another program's has none
        for card in write_model_cards(output_dir):
            print_line(f"Card: {card}")
