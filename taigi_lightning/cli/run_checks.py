"""What a parsed config can be refused for before anything is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from lightning.pytorch.plugins import Precision
from torch.optim import Optimizer

from taigi_lightning.atomic_write import check_place
from taigi_lightning.cli.config_errors import SuggestingParser
from taigi_lightning.cli.config_locations import config_files, where, written_keys
from taigi_lightning.data.hub import is_address
from taigi_lightning.data.tokenized_corpus import check_template, corpus_files
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.model_setup import COMPUTE_DTYPES, check_matmul
from taigi_lightning.model.adapters import check_adapter
from taigi_lightning.model.precision import best_dtype
from taigi_lightning.planning.base_files import check_base, check_tokenizer_folder
from taigi_lightning.planning.new_words import read_words
from taigi_lightning.planning.option_checks import check_devices, check_ranks
from taigi_lightning.planning.precisions import SHORT_NAMES
from taigi_lightning.planning.run_files import run_names
from taigi_lightning.planning.settings import count_devices
from taigi_lightning.terminal import console

# What a command calls of its data, and whose data have it.
LOADERS = {
    "fit": ("train_dataloader", "CPTDataModule, SFTDataModule or InstructionDataModule"),
    "validate": ("val_dataloader", "CPTDataModule, SFTDataModule or InstructionDataModule"),
    "test": ("test_dataloader", "PredictDataModule"),
    "predict": ("predict_dataloader", "PredictDataModule"),
}


# What Lightning's barebones mode asks of its other settings.
BARE: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 0,
    "num_sanity_val_steps": 0,
}


def auto_precision(accelerator: str = "auto") -> str:
    """What the accelerator computes well: bf16-mixed, 16-mixed on older cards, float32 on a CPU."""
    gpu = accelerator != "cpu" and torch.cuda.is_available()
    dtype = best_dtype(torch.device("cuda" if gpu else "cpu"))
    return next(precision for precision, computed in COMPUTE_DTYPES.items() if computed == dtype)


def as_list(found: Any) -> list[Any]:
    """What a setting that takes one thing or several was given: null and true name none."""
    if found is None or found is True:
        return []
    return list(found) if isinstance(found, list) else [found]


def check_files(command: str, config: Any) -> None:
    """Refuse a run whose base, adapter or corpus are not there, as their classes would once they are loaded.

    Args:
        command: fit, validate, test or predict.
        config: what the parser made of the command line.

    Raises:
        InputError: the first thing that is missing, or new tokens are no words.
    """
    check_base(config.model.base)
    check_tokenizer_folder(config.model.base)
    if config.model.adapter is not None:
        check_adapter(config.model.adapter)
    if (chosen := config.model.get("new_tokens")) is not None:
        read_words(chosen["tokens"])
    kind, settings = config.data.class_path.rpartition(".")[2], config.data.init_args
    if kind == "CPTDataModule":
        several = not isinstance(settings.data_dir, str)
        splits = ["train"] if command == "fit" or several else []
        # Of several corpora not every one need have something to validate on.
        splits += [settings.validation_split] if settings.validation_split and not several else []
        for source in settings.data_dir if several else [settings.data_dir]:
            for split in [] if is_address(source) else splits:  # one of the Hub is fetched by its data module
                check_template(corpus_files(Path(source), split), settings.document)


def check_run(command: str, config: Any) -> None:
    """Refuse a run for what its data, trainer, outputs or optimizer are.

    Raises:
        InputError: one of these checks refuses.
    """
    check_stage(command, config.data.class_path)
    check_trainer(config.trainer)
    check_outputs(command, config)
    check_optimizer(config.model)
    check_products(config)


def check_products(config: Any) -> None:
    """Refuse products in 8 bits that nothing here could make, before texts are read; what Lightning alone knows waits.

    Raises:
        InputError: as `check_matmul`.
    """
    matmul = config.model.get("matmul", "bf16")
    if matmul == "bf16":  # as nearly always; what a card can is known only once PyTorch is loaded
        return
    accelerator = str(config.trainer.accelerator or "auto")
    precision = str(config.trainer.precision or auto_precision(accelerator))
    precision = SHORT_NAMES.get(precision, precision)
    if precision not in COMPUTE_DTYPES:
        return
    gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    place = torch.device("cuda" if gpu else "cpu")
    base, adapter, quantization = (
        str(config.model.base),
        config.model.get("adapter"),
        config.model.quantization,
    )
    check_matmul(matmul, base, quantization, place, COMPUTE_DTYPES[precision], adapter)


def check_outputs(command: str, config: Any) -> None:
    """Refuse places that Windows could not write to when the run's work is done.

    Raises:
        InputError: a file that the run would leave has too long a path there, or the drive is not there.
    """
    if command == "fit":
        names = run_names(config.checkpoint.filename or "{step}", str(config.model.base))
        check_place(Path(config.trainer.default_root_dir or "."), names)
    for callback in as_list(config.trainer.callbacks):
        if str(callback.get("class_path", "")).endswith("PredictionWriter"):
            output = Path(callback.init_args.output)
            check_place(output.with_name(f"{output.stem}.probabilities.report.html"))


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


def stage_of(class_path: str) -> str:
    """The stage's name for a run's job type, from the class of its data: cpt, sft, predict or that of one's own.

    >>> stage_of("taigi_lightning.data.cpt.CPTDataModule")
    'cpt'
    """
    return class_path.rpartition(".")[2].removesuffix("DataModule").lower()


def check_trainer(trainer: Any) -> None:
    """Refuse more processes on a CPU than it has cores, where each would hold the model, and several on Windows.

    What is left to Lightning there becomes one device.

    Raises:
        InputError: trainer.devices is above the number of cores, or above one on Windows, or none;
            trainer.default_root_dir is no place for a folder; or the strategy starts its processes anew.
    """
    check_launcher(trainer.strategy)
    root = Path(trainer.default_root_dir or ".")
    if file := next((place for place in (root, *root.parents) if place.is_file()), None):
        raise InputError(
            f"trainer.default_root_dir is {root}, and {file} is a file. Give a folder for what the run leaves."
        )
    check_devices(trainer.devices)
    wanted, cores = count_devices(trainer.devices) or 1, os.cpu_count() or 1
    if sys.platform == "win32":
        check_ranks(wanted * (count_devices(trainer.num_nodes) or 1))
        if count_devices(trainer.devices) is None:  # "auto" or all
            trainer.devices = 1
    if trainer.accelerator == "cpu" and wanted > max(cores, 2):
        raise InputError(
            f"trainer.devices is {wanted}: on a CPU each device is a process with the whole model, and there are "
            f"{cores} cores. Set trainer.devices to {cores} or fewer."
        )


def check_launcher(strategy: Any) -> None:
    """Refuse a strategy that starts its processes anew: the run, which was parsed already, would have to be copied.

    Args:
        strategy: trainer.strategy as it was parsed: a name, or a class with its arguments.

    Raises:
        InputError: it is ddp_spawn, or DDPStrategy whose start_method is spawn or forkserver.
    """
    method = getattr(getattr(strategy, "init_args", None), "start_method", None)
    if method in ("spawn", "forkserver") or (isinstance(strategy, str) and strategy.startswith("ddp_spawn")):
        name = strategy if isinstance(strategy, str) else f"DDPStrategy with start_method {method}"
        raise InputError(
            f"trainer.strategy is {name}, which would have to copy a run that was set up already into new processes. "
            "Use --trainer.strategy ddp, where each process begins with this command."
        )


def asked_to_log(arguments: Sequence[str]) -> bool:
    """Whether a command line names a logger itself or in a config laid over the first: that is the stage's, for `fit`.

    Args:
        arguments: without the program's name.
    """
    flags = any(argument.startswith("--trainer.logger") for argument in arguments)
    return flags or any(
        key == "trainer.logger" for file in config_files(arguments)[1:] for key, _, _ in written_keys(file)
    )


def check_precision_plugins(plugins: Sequence[Any]) -> None:
    """Refuse a precision in the form of a plugin, which would convert more than the base.

    Raises:
        InputError: one of the plugins is a precision.
    """
    for plugin in plugins:
        if isinstance(plugin, Precision):
            raise InputError(
                f"trainer.plugins holds {type(plugin).__name__}, which would convert the adapter and the output layer "
                "too. Leave it out: model.quantization nf4 keeps the base in 4 bits, and trainer.precision says what "
                "is computed in."
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


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Show what was held out and what it measured, as a table."""
    from rich.table import Table  # as heavy as all that parses a command line

    table = Table("held out", "")
    for name, value in metrics.items():
        table.add_row(name, f"{float(value):.6g}")
    console().print(table)


def refusal(error: BaseException) -> str | None:
    """Lightning's refusal of a run, or the want of a package that the config asks for, in a sentence; else None."""
    if isinstance(error, MisconfigurationException):
        return f"Lightning refuses this: {' '.join(str(error).split())}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError):
            return f"The config asks for a package that is not installed: {str(cause).splitlines()[0].rstrip('.')}."
        cause = cause.__cause__ or cause.__context__
    return None
