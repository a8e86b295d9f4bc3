"""What a parsed config can be refused for before anything is loaded."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.optim import Optimizer

from taigi_lightning.cli.config_errors import SuggestingParser
from taigi_lightning.cli.config_locations import where
from taigi_lightning.data.tokenized_corpus import check_template, corpus_files
from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import check_adapter
from taigi_lightning.model.base_model import check_base
from taigi_lightning.planning.settings import count_devices

# What a command calls of its data, and whose data have it.
LOADERS = {
    "fit": ("train_dataloader", "CPTDataModule, SFTDataModule or InstructionDataModule"),
    "validate": ("val_dataloader", "CPTDataModule, SFTDataModule or InstructionDataModule"),
    "test": ("test_dataloader", "PredictDataModule"),
    "predict": ("predict_dataloader", "PredictDataModule"),
}


def check_files(command: str, config: Any) -> None:
    """Refuse a run whose base, adapter or corpus are not there, as their classes would once they are loaded.

    Args:
        command: fit, validate, test or predict.
        config: what the parser made of the command line.

    Raises:
        InputError: the first thing that is missing.
    """
    check_base(config.model.base)
    if config.model.adapter is not None:
        check_adapter(config.model.adapter)
    kind, settings = config.data.class_path.rpartition(".")[2], config.data.init_args
    if kind == "CPTDataModule":
        several = not isinstance(settings.data_dir, str)
        splits = ["train"] if command == "fit" or several else []
        # Of several corpora not every one need have something to validate on.
        splits += [settings.validation_split] if settings.validation_split and not several else []
        for source in settings.data_dir if several else [settings.data_dir]:
            for split in splits:
                check_template(corpus_files(Path(source), split), settings.document)


def check_stage(command: str, class_path: str) -> None:
    """Refuse data of another stage.

    Raises:
        InputError: the data have no loader for this command.
    """
    loader, wanted = LOADERS[command]
    module, _, name = class_path.rpartition(".")
    kind = getattr(import_module(module), name)
    if getattr(kind, loader) is getattr(LightningDataModule, loader):
        raise InputError(
            f"`{command}` cannot use the data of this config: {name} has no {loader}. "
            f"Give the config of another stage, or --data {wanted}."
        )


def check_trainer(trainer: Any) -> None:
    """Refuse more processes on a CPU than it has cores: each would hold the model, and all would wait.

    Raises:
        InputError: trainer.devices is above the number of cores, or accumulate_grad_batches below 1.
    """
    if trainer.accumulate_grad_batches < 1:
        raise InputError("trainer.accumulate_grad_batches is below 1. Set it to 1 or more.")
    wanted, cores = count_devices(trainer.devices) or 1, os.cpu_count() or 1
    if trainer.accelerator == "cpu" and wanted > max(cores, 2):
        raise InputError(
            f"trainer.devices is {wanted}: on a CPU each device is a process with the whole model, and there are "
            f"{cores} cores. Set trainer.devices to {cores} or fewer."
        )


def check_optimizer(model: Any) -> None:
    """Refuse to call what is no optimizer: a config may name a function that does anything.

    Raises:
        InputError: model.optimizer names something that is not derived from torch.optim.Optimizer.
    """
    path = getattr(model.optimizer, "class_path", None)
    if path is None:
        return
    module, _, name = path.rpartition(".")
    found = getattr(import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise InputError(
            f"model.optimizer is {path}{where('model.optimizer', SuggestingParser.arguments)}, which is no "
            "torch.optim.Optimizer; wanted a class derived from it, such as torch.optim.AdamW."
        )


def continue_wandb(loggers: list[Any], run_id: str) -> None:
    """Let the Weights & Biases loggers of a resumed run go on with its run there, unless the config names another."""
    for logger in loggers:
        if str(logger.get("class_path", "")).endswith(".WandbLogger") and not logger.init_args.get("id"):
            logger.init_args["id"] = run_id
