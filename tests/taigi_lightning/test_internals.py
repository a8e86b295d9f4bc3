"""What the project uses of other libraries' internals still does what `taigi_lightning/internals.py` says of it."""

import argparse
import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bitsandbytes
import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel

from taigi_lightning import internals
from taigi_lightning.fast_path.watched_modules import HOOKS
from taigi_lightning.internals import (
    batches_taken,
    move_batches,
    parser_options,
    parser_positionals,
    restore_loaders,
    run_seed,
)


class Counting(torch.utils.data.IterableDataset[torch.Tensor]):
    """Eight rows, whose place Lightning may save and restore."""

    def __init__(self) -> None:
        self.place, self.given = 0, []  # type: ignore[var-annotated]

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Any:
        first, self.place = self.place, 0
        for number in range(first, 8):
            self.place = (number + 1) % 8
            self.given.append(number)
            yield torch.full((1, 32), float(number))

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


class Asking(BoringModel):
    """Asks how long the run is when it makes its optimizer, as a schedule needs to know."""

    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


def run(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), limit_val_batches=0, **(quiet | options)
    )  # fmt: skip


def test_the_seed_is_that_of_seed_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert run_seed() is None
    pl.seed_everything(9527, verbose=False)
    assert run_seed() == 9527


class Numbers(pl.Callback):
    """Every batch's number; a checkpoint after the third."""

    def __init__(self) -> None:
        self.found: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.found.append(batches_taken(trainer))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 3:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "3.ckpt")


def test_batches_are_numbered_over_epochs_and_resumes(tmp_path: Path) -> None:
    first, second = Numbers(), Numbers()
    trainer = run(tmp_path, first, max_steps=3, enable_checkpointing=False)
    trainer.fit(BoringModel(), Counting())
    later = run(tmp_path, second, max_epochs=2, enable_checkpointing=False)
    later.fit(BoringModel(), Counting(), ckpt_path=tmp_path / "3.ckpt", weights_only=True)
    assert first.found + second.found == list(range(16))


class Restored(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        restore_loaders(trainer)


@pytest.mark.parametrize("model", [BoringModel, Asking])
def test_loaders_go_on_in_the_middle_of_an_epoch(tmp_path: Path, model: type[BoringModel]) -> None:
    trainer = run(tmp_path, Numbers(), max_epochs=1, enable_checkpointing=False)
    trainer.fit(model(), Counting())
    rows = Counting()
    later = run(tmp_path, Restored(), max_epochs=1, enable_checkpointing=False)
    later.fit(model(), rows, ckpt_path=tmp_path / "3.ckpt", weights_only=True)
    assert rows.given == [3, 4, 5, 6, 7]


def test_a_trainer_believes_where_in_the_epoch_it_is(tmp_path: Path) -> None:
    trainer = run(tmp_path, max_epochs=1, enable_checkpointing=False)
    move_batches(trainer, 5)
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    assert (progress.ready, progress.started, progress.processed, progress.completed) == (5, 5, 5, 5)
    assert trainer.fit_loop.epoch_loop.batch_idx == 4


def test_argparse_lists_its_options() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--trainer.max_steps")
    parser.add_argument("folder")
    assert parser_options(parser) == ["trainer.max_steps"]
    assert parser_positionals(parser) == ["folder"]


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (ModelCheckpoint, ["_monitor_candidates", "_should_save_on_train_epoch_end"]),
        (LightningCLI, ["_parse_ckpt_path", "_instantiate_trainer", "_get"]),
    ],
)
def test_hooks_that_are_overridden_are_called(owner: type, names: list[str]) -> None:
    source = inspect.getsource(owner)
    for name in names:
        assert source.count(f"self.{name}(") >= 1, name


def test_averaging_callbacks_keep_their_average_where_it_is_looked_for() -> None:
    assert WeightAveraging()._average_model is None
    assert StochasticWeightAveraging(1e-3).n_averaged is None
    model = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(1, 1))
    assert int(model.n_averaged) == 0


def test_bitsandbytes_still_asks_before_it_repacks_weights_on_a_cpu() -> None:
    layer = bitsandbytes.nn.Linear4bit(8, 8)
    assert hasattr(layer, "support_avx512bf16_for_cpu")
    assert "support_avx512bf16_for_cpu" in inspect.getsource(bitsandbytes.nn.Linear4bit)


@pytest.mark.parametrize(
    ("operation", "given", "returned"),
    [
        ("_flash_attention_forward", 10, ["output", "softmax_logsumexp", "rng_state", "unused", "debug_attn_mask"]),
        ("_flash_attention_backward", 14, ["", "", ""]),
        (
            "_scaled_dot_product_cudnn_attention",
            5,
            [
                "output", "logsumexp", "cum_seq_q", "cum_seq_k", "max_q", "max_k",
                "philox_seed", "philox_offset", "debug_attn_mask",
            ],
        ),
        ("_scaled_dot_product_cudnn_attention_backward", 15, ["", "", ""]),
    ],
)  # fmt: skip
def test_attention_operations_take_and_give_what_the_fast_path_reads(
    operation: str, given: int, returned: list[str]
) -> None:
    schema = getattr(torch.ops.aten, operation).default._schema
    assert [result.name for result in schema.returns] == returned
    needed = [argument for argument in schema.arguments if not argument.has_default_value()]
    assert len(needed) == given, [argument.name for argument in needed]


PACKAGE = Path(internals.__file__).parent
DOCUMENTED = {"_replace", "_asdict", "_exit"}  # of Python's own library


def private_names(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """Names with an underscore that a module takes of others: as attributes, also inherited ones, and in imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match("_[a-z]", node.attr):
            inherited = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not (inherited and node.attr in own):
                yield node.attr
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "__future__":
            yield from (part for part in node.module.split(".") if part.startswith("_"))
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))


def defined_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_all_private_ground_is_listed() -> None:
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in PACKAGE.rglob("*.py")}
    own = {name for tree in trees.values() for name in defined_names(tree)}
    listed = internals.__doc__ or ""
    for file, tree in trees.items():
        if file.name == "internals.py":
            continue  # each of its functions is tested above
        for name in set(private_names(tree, own)) - DOCUMENTED:
            assert f"{name}`" in listed or f"{name}." in listed, f"{name} of {file}"
    for place in re.findall(r"\w+/\w+\.py|windows\.py", listed):
        assert (
            place.startswith("tests/")
            or place == "taigi_lightning/test_internals.py"
            or (PACKAGE / place).is_file()
        )


@pytest.mark.parametrize(
    "path",
    [
        "lightning.pytorch.cli:LightningCLI._get",
        "jsonargparse._paths:Path.read_text",
        "transformers:PreTrainedModel._from_config",
        "transformers:PreTrainedModel._keys_to_ignore_on_load_missing",
        "transformers:PreTrainedModel._keys_to_ignore_on_load_unexpected",
        "transformers:AutoModelForCausalLM._model_mapping",
        "transformers.quantizers.quantizer_bnb_4bit:Bnb4BitHfQuantizer._process_model_before_weight_loading",
        "peft.tuners.tuners_utils:_check_lora_target_modules_mamba",
        "torch:nn.Module._apply",
        "torch:nn.Module._modules",
        "torch:nn.Module._parameters",
        "torch:nn.Module._buffers",
        "torch:nn.Module._non_persistent_buffers_set",
        *(f"torch:nn.Module.{table}" for table in HOOKS),
        *(f"torch.nn.modules.module:_global{table}" for table in HOOKS),
        "torch:_scaled_mm",
        "torch:_foreach_norm",
        "torch:_foreach_max",
        "torch.nn.modules.module:_IncompatibleKeys",
        "datasets:Dataset._fingerprint",
        "sacrebleu.metrics:CHRF._compute_score_from_stats",
    ],
)
def test_names_are_still_there(path: str) -> None:
    module, _, names = path.partition(":")
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        if not hasattr(found, name):
            assert name in found.__annotations__ or f"self.{name} = " in inspect.getsource(found), path
            return
        found = getattr(found, name)


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        ("jsonargparse._paths:Path", "_std_io"),
        ("lightning.pytorch.cli:LightningCLI", "self._model_class = "),
        ("lightning.pytorch.callbacks:ModelCheckpoint", "self._save_on_train_epoch_end = "),
        ("transformers:BitsAndBytesConfig", "self._load_in_4bit = "),
        ("transformers:PretrainedConfig", "_name_or_path"),
        ("torch.nn.parallel:DistributedDataParallel", '"_ddp_params_and_buffers_to_ignore"'),
    ],
)
def test_attributes_are_still_set_or_read(owner: str, words: str) -> None:
    module, _, name = owner.partition(":")
    assert words in inspect.getsource(getattr(importlib.import_module(module), name))
