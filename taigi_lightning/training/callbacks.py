"""What happens around training: the model is exported, an interruption is survived, the config is kept."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

from taigi_lightning.atomic_write import written_aside
from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.apply import fast_decoder
from taigi_lightning.model.adapters import save_adapter
from taigi_lightning.model.export import export_full_model
from taigi_lightning.model.lineage import describe_sources, write_lineage
from taigi_lightning.model.lora_deltas import read_updates
from taigi_lightning.model.merge import Onto, check_onto, merge_adapter
from taigi_lightning.model.merge_places import adapted_shapes, check_mergeable, find_places
from taigi_lightning.model.new_tokens import written_tokenizer
from taigi_lightning.model.safetensors_files import base_folder, weight_files
from taigi_lightning.planning.disk import check_space, run_bytes
from taigi_lightning.planning.memory import optimizer_bytes
from taigi_lightning.planning.strong_part import checkpoint_bytes
from taigi_lightning.reports.model_card import write_model_cards
from taigi_lightning.reports.training_report import write_fit_report
from taigi_lightning.signals import StoppedBySignal, handle_signals, restore_signals, say
from taigi_lightning.terminal import print_line, print_text
from taigi_lightning.training.best_checkpoint import Best, check_best, take_best
from taigi_lightning.training.checkpoints import checkpoint_folder
from taigi_lightning.training.distributed import over_ranks
from taigi_lightning.training.resume import plain
from taigi_lightning.training.trained_state import check_exportable
from taigi_lightning.training.wandb_artifacts import log_artifact, use_earlier_stage, wandb_loggers

RUN_CONFIG = "config.yaml"


class ExportModel(Callback):
    """When `fit` ends, write what it made: the adapter, the merged 16-bit model beside it, and their cards.

    Args:
        merge: write the merged model too; the next stage starts from it.
        onto: which weights the update is added to: the original 16-bit ones, or the 4-bit ones the
            adapter was trained against, dequantised.
        max_shard_size: size of the safetensors files of a model trained from scratch.
        log_artifact: send the adapter, the run's config and the corpus's manifest to Weights & Biases too.
        which: export the weights of the last step, or those of the best checkpoint by `checkpoint.monitor`.
    """

    def __init__(
        self,
        merge: bool = True,
        onto: Onto = "original",
        max_shard_size: str = "4GB",
        log_artifact: bool = False,
        which: Literal["last", "best"] = "last",
    ) -> None:
        self.merge = merge
        self.onto: Onto = onto
        self.max_shard_size = max_shard_size
        self.log_artifact = log_artifact
        self.which: Literal["last", "best"] = which

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out before the base is loaded whether what will be trained could be merged into it.

        Raises:
            InputError: the adapter to go on from is more than plain LoRA, or has no place in the base's files; or no
                checkpoint is kept that could be the best one.
        """
        module: Any = pl_module
        if stage == "fit" and self.which == "best" and not getattr(trainer, "fast_dev_run", False):
            check_best(trainer)
        if stage != "fit" or not self.merge or module.lora is None:
            return
        if module.adapter is not None:
            find_places(
                module.base,
                {name: update.matrix for name, update in read_updates(Path(module.adapter)).items()},
            )
        else:
            check_mergeable(module.base, module.lora.target_modules)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out before the first step what else would stop the export after the last one.

        Raises:
            InputError: the data cannot be named, the model would be written over its own base, the adapter could not
                be merged into it or is not all that trains, the disk has too little space, or an artifact is wanted
            without Weights & Biases.
        """
        module: Any = pl_module
        if self.log_artifact and not wandb_loggers(trainer.loggers):
            raise InputError(
                "export.log_artifact sends to Weights & Biases, and no WandbLogger is under trainer.logger. "
                "Add one, as configs/cpt.yaml does, or leave log_artifact out."
            )
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            for logger in wandb_loggers(trainer.loggers):
                use_earlier_stage(logger, module.base, module.adapter)
            advice = "Free some, give --trainer.default_root_dir another disk, or --export.merge false."
            check_space(trainer.default_root_dir, self._needs(trainer, module), advice)
        if module.lora is None:
            return
        check_exportable(module.model)
        if self.merge and Path(module.base).resolve() == Path(trainer.default_root_dir).resolve():
            raise InputError(
                f"The run would write its merged model over its own base, {module.base}. "
                "Give --trainer.default_root_dir another folder."
            )
        if self.merge:
            check_onto(self.onto, module.identity)
            find_places(module.base, adapted_shapes(module.model.get_base_model()))
        if sources := _data_sources(trainer):
            describe_sources(sources)

    def _needs(self, trainer: pl.Trainer, module: Any) -> dict[str, int]:
        """Bytes by purpose that the run will write."""
        sizes = [p.numel() for p in module.parameters() if p.requires_grad]
        kept = sum(getattr(callback, "save_top_k", 0) for callback in trainer.checkpoint_callbacks)
        merged = 2 * sum(sizes)  # from scratch: every weight, in 16 bits
        if module.lora is not None:
            shards = weight_files(base_folder(module.base)) if self.merge else []
            merged = sum(shard.stat().st_size for shard in shards)
        optimizer = type(trainer.optimizers[0]).__name__
        decoder = fast_decoder(module.model)
        return run_bytes(
            adapter=4 * sum(sizes),
            optimizer=optimizer_bytes(optimizer, sizes),
            checkpoints=kept,
            merged=merged,
            directions=0 if decoder is None else checkpoint_bytes(decoder.matmul, decoder.shape),
        )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export on the first rank; the others wait, so that nobody reads what is half written.

        Also when a finished run is resumed: its export may be what was interrupted.

        Raises:
            InputError: not one step was made.
        """
        if trainer.global_step == 0:
            raise InputError(
                "The run ended before its first optimizer step: nothing was trained, and nothing is exported."
            )
        best = take_best(trainer, pl_module) if self.which == "best" else None
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._export(trainer, pl_module, best)
        trainer.strategy.barrier("export")

    def _export(self, trainer: pl.Trainer, module: Any, best: Best | None) -> None:
        output = Path(trainer.default_root_dir)
        if module.lora is None:
            export_full_model(module.model, module.base, output, self.max_shard_size)
            print_line(f"Model: {output}")
            return
        tokens = written_tokenizer(module.base, module.adapter, module.vocabulary.words)
        save_adapter(module.model, output / "adapter", module.base, tokens)
        config = output / RUN_CONFIG
        origin = {
            "base": module.identity,
            "run_config": config.read_text(encoding="utf-8") if config.is_file() else None,
            "data": _data_sources(trainer),
            "continues": module.adapter,
            "checkpoint": {"which": "last", "step": trainer.global_step}
            if best is None
            else {"which": "best", **best._asdict(), "path": Path(best.path).name},
        }
        write_lineage(output / "adapter", **origin)
        print_line(f"Adapter: {output / 'adapter'}")
        if self.merge:
            print_text(merge_adapter(module.base, output / "adapter", output, onto=self.onto))
        logged = any(isinstance(logger, CSVLogger) for logger in trainer.loggers)
        write_model_cards(output, logged=logged)
        if self.log_artifact:
            manifests = [Path(source) / "manifest.json" for source in _data_sources(trainer)]
            if logged:
                manifests.append(write_fit_report(output))
            for logger in wandb_loggers(trainer.loggers):
                name = log_artifact(logger, output / "adapter", config, *manifests)
                print_line(f"Artifact for Weights & Biases: {name}")


def _data_sources(trainer: pl.Trainer) -> list[str]:
    """Paths of what the run is trained on; empty where a data module of the user's own does not say."""
    data = getattr(trainer, "datamodule", None)
    source = getattr(data, "source", None)
    return list(getattr(data, "sources", None) or ([source] if source else []))


class SaveOnSignal(Callback):
    """The first Ctrl-C or SIGTERM ends the optimizer step, saves and stops; a second stops at once.

    On Windows so does Ctrl-Break, and a window that is closed. Before the first step and after the last one, the first
    stops at once. Either way the process ends with 130, 143 or 149 (`StoppedBySignal`), never 0. Stopping inside an
    accumulation window would lose its gradients, and with them the equality of a resumed run with an unbroken one.
    Several processes stop together, one optimizer step later.
    """

    def __init__(self) -> None:
        self.received = 0
        self._process = os.getpid()
        self._step = 0
        # Which signal a process had received a step ago, and what tells that the answer is on the host.
        self._asked: tuple[torch.Tensor, torch.cuda.Event | None] | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals, of which Lightning only notes a SIGTERM, for the time of training.

        Raises:
            StoppedBySignal: a SIGTERM came meanwhile; Lightning would train a step and end as if all were done.
        """
        if trainer.received_sigterm:
            raise StoppedBySignal(signal.SIGTERM)
        self._step, self._asked, self._process = trainer.global_step, None, os.getpid()
        self._previous = handle_signals(self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that prepares batches: they are needed for the rest of the step
        if self.received:
            say(number, "stopping at once; checkpoints that were saved before stay.")
            raise StoppedBySignal(number)
        self.received = number
        say(number, "finishing this step, then saving a checkpoint. Once more stops at once.")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop at the end of the optimizer step during which a signal came to any rank."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        number = self._heard(pl_module.device) if trainer.world_size > 1 else self.received
        if not number:
            return
        path = checkpoint_folder(trainer.default_root_dir) / f"interrupted-step={trainer.global_step}.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            print_line(f"Saved {path}. Resume with --ckpt_path last.", flush=True)
        raise StoppedBySignal(number)

    def _heard(self, device: torch.device) -> int:
        """Which signal had come to any process a step ago: waiting for this step's answer would idle the GPU."""
        answer = over_ranks(torch.full((), self.received, device=device), "max").to("cpu", non_blocking=True)
        copied = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        before, self._asked = self._asked, (answer, copied)
        if before is None:
            return 0
        answer, copied = before
        if copied is not None:
            copied.synchronize()
        return int(answer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back before the export, which they may stop at once."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        restore_signals(self._previous)


class SaveRunConfig(SaveConfigCallback):
    """Write the resolved config beside the run's other files and to its loggers; a second run replaces it."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Called by Lightning on rank zero before the stage runs."""
        if stage != "fit":
            return
        folder = Path(trainer.default_root_dir)
        with written_aside(folder / RUN_CONFIG) as aside:
            # Not the parser's `save`, which writes in the system's encoding.
            aside.write_text(self.parser.dump(self.config, skip_none=False), encoding="utf-8", newline="\n")
        for logger in trainer.loggers:
            # As plain values: the command line's own kinds of number would be logged as text, or as Python objects.
            logger.log_hyperparams(
                plain(self.config.as_dict()) | {"precision_in_use": str(trainer.precision)}
            )
