"""QLoRA for small languages as plain PyTorch Lightning."""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from taigi_lightning.moved_modules import OldNames

if TYPE_CHECKING:
    from taigi_lightning.data.cpt import CPTDataModule
    from taigi_lightning.data.instruction import InstructionDataModule
    from taigi_lightning.data.predict import PredictDataModule
    from taigi_lightning.data.sft import SFTDataModule
    from taigi_lightning.model.adapters import LoraSettings
    from taigi_lightning.model.merge import merge_adapter
    from taigi_lightning.training.module import CausalLMModule

__all__ = [
    "CPTDataModule",
    "CausalLMModule",
    "InstructionDataModule",
    "LoraSettings",
    "PredictDataModule",
    "SFTDataModule",
    "merge_adapter",
]

_HOMES = {
    "CPTDataModule": "data.cpt",
    "CausalLMModule": "training.module",
    "InstructionDataModule": "data.instruction",
    "LoraSettings": "model.adapters",
    "PredictDataModule": "data.predict",
    "SFTDataModule": "data.sft",
    "merge_adapter": "model.merge",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `python -m taigi_lightning --help` needs none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


sys.meta_path.append(OldNames())  # asked only for what nothing else finds
