"""What happens around training: the model is exported, an interruption is survived, speed is measured."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import SaveConfigCallback

from taigi_lightning.adapters import save_adapter
from taigi_lightning.checkpoints import checkpoint_folder
from taigi_lightning.errors import InputError
from taigi_lightning.exporting import export_full_model
from taigi_lightning.identity import describe_data, write_lineage
from taigi_lightning.merging import Onto, merge_adapter
from taigi_lightning.module import COMPUTE_DTYPES

RUN_CONFIG = "config.yaml"


class ExportModel(Callback):
    """When `fit` ends, write what it made: the adapter, and the merged 16-bit model beside it.

    Args:
        merge: write the merged model too; the next stage starts from it.
        onto: which weights the update is added to: the original 16-bit ones, or the 4-bit ones the
            adapter was trained against, dequantised.
        max_shard_size: size of the safetensors files of a model trained from scratch.
    """

    def __init__(self, merge: bool = True, onto: Onto = "original", max_shard_size: str = "4GB") -> None:
        self.merge = merge
        self.onto: Onto = onto
        self.max_shard_size = max_shard_size

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out before the first step what would stop the export after the last one.

        Raises:
            InputError: the data cannot be named, or the model would be written over its own base.
        """
        module: Any = pl_module
        if module.lora is None:
            return
        if self.merge and Path(module.base).resolve() == Path(trainer.default_root_dir).resolve():
            raise InputError(
                f"The run would write its merged model over its own base, {module.base}. "
                "Give --trainer.default_root_dir another folder."
            )
        if getattr(trainer, "datamodule", None):
            describe_data(Path(trainer.datamodule.source))  # type: ignore[attr-defined]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export on the first rank; the others wait, so that nobody reads what is half written.

        Also when a finished run is resumed: its export may be what was interrupted.
        """
        if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            self._export(trainer, pl_module)
        trainer.strategy.barrier("export")

    def _export(self, trainer: pl.Trainer, module: Any) -> None:
        output = Path(trainer.default_root_dir)
        if module.lora is None:
            export_full_model(module.model, module.base, output, self.max_shard_size)
            print(f"Model: {output}")
            return
        save_adapter(module.model, output / "adapter", module.base)
        config = output / RUN_CONFIG
        origin = {
            "base": module.identity,
            "run_config": config.read_text(encoding="utf-8") if config.is_file() else None,
            "data": getattr(trainer, "datamodule", None) and trainer.datamodule.source,  # type: ignore[attr-defined]
        }
        write_lineage(output / "adapter", **origin)
        print(f"Adapter: {output / 'adapter'}")
        if self.merge:
            report = merge_adapter(module.base, output / "adapter", output, onto=self.onto)
            write_lineage(output, **origin)
            print(report)


class Announcement(Callback):
    """Say first what is trained on what: the base and its true size, the trained share, the data."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print it once, on rank zero, before the first step."""
        module: Any = pl_module
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        frozen = [p for p in module.parameters() if not p.requires_grad]
        # A 4-bit weight is stored as bytes of two weights each.
        total = trained + sum(p.numel() * (2 if p.dtype is torch.uint8 else 1) for p in frozen)
        size = sum(p.numel() * p.element_size() for p in module.parameters()) / 2**30
        how = "from random weights" if module.from_scratch else f"weights {module.quantization}"
        rank = f", LoRA r {module.lora.r}" if module.lora else ""
        lines = [
            f"Base {module.base}: {total - trained if module.lora else total:,} parameters, {how}{rank}; "
            f"{trained:,} are trained; {size:.2f} GiB in all",
            trainer.datamodule.summary(),  # type: ignore[attr-defined]
            f"{trainer.max_steps} optimizer steps into {trainer.default_root_dir}",
        ]
        module.print("\n".join(lines))


class SaveOnSignal(Callback):
    """The first Ctrl-C or SIGTERM ends the optimizer step, saves and stops; a second stops at once.

    Stopping inside an accumulation window would lose its gradients, and with them the equality of a
    resumed run with an unbroken one.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over both signals for the time of training; a signal is only heard in the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        name = signal.Signals(number).name
        print(
            f"\n{name}: finishing this step, then saving a checkpoint. Once more stops at once.", flush=True
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop at the end of the optimizer step during which a signal came to any rank."""
        if trainer.fit_loop._should_accumulate():
            return
        # On a GPU alone, a tensor there would make every step wait for it.
        received = torch.tensor(self.received, device=pl_module.device if trainer.world_size > 1 else "cpu")
        if not int(trainer.strategy.reduce(received, reduce_op="max")):
            return
        path = checkpoint_folder(trainer.default_root_dir) / f"interrupted-step={trainer.global_step}.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            print(f"Saved {path}. Resume with --ckpt_path last.", flush=True)
        raise KeyboardInterrupt

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back before the export, which they may stop at once."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)


class Throughput(Callback):
    """Log tokens per second, FLOP utilisation, memory and the wait for data, every optimizer step.

    Tokens are those the model computed, padding included, over the wall-clock time between two optimizer
    steps; validation in between is left out. Utilisation counts what one pass needs and
    nothing computed twice: per token, 4 FLOPs for each frozen weight of a Linear (forward, and the gradient
    of its input) and 6 for each trained one; attention's own products are left out.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._waited = 0.0
        self._since: float | None = None
        self._flops_per_token = 0
        self._available_flops: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the model's FLOPs a token once, and ask what the card could do."""
        module: Any = pl_module
        for name, p in module.model.named_parameters():
            # A 4-bit weight is stored as bytes of two weights each; an input embedding is only looked up.
            size = p.numel() * (2 if p.dtype is torch.uint8 else 1)
            if "embed_tokens" not in name:
                self._flops_per_token += size * (6 if p.requires_grad else 4)
        if module.device.type == "cuda":
            dtype = COMPUTE_DTYPES[str(trainer.precision)]
            self._available_flops = get_available_flops(module.device, dtype)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and begin the window if it is the first of one."""
        if self._since is None:
            self._since = time.perf_counter()
            self._waited = self._total_wait(trainer)
        self._tokens += batch["input_ids"].numel()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log at the end of a window."""
        if trainer.fit_loop._should_accumulate() or self._since is None:
            return
        now, waited = time.perf_counter(), self._total_wait(trainer)
        seconds = now - self._since
        rate = self._tokens / seconds
        pl_module.log("train/tokens_per_second", rate * trainer.world_size, prog_bar=True)
        pl_module.log("train/data_wait", (waited - self._waited) / seconds)
        if pl_module.device.type == "cuda":
            reserved = torch.cuda.max_memory_reserved(pl_module.device) / 2**30
            pl_module.log("train/memory_gib", reserved, prog_bar=True)
        if self._available_flops:
            pl_module.log("train/mfu", rate * self._flops_per_token / self._available_flops)
        self._tokens, self._waited, self._since = 0, waited, now

    @staticmethod
    def _total_wait(trainer: pl.Trainer) -> float:
        return float(getattr(trainer.train_dataloader, "waited", 0.0))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not count a validation as time of training."""
        self._tokens, self._since = 0, None


class SaveRunConfig(SaveConfigCallback):
    """Write the resolved config beside the run's other files and to its loggers; a second run replaces it."""

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Called by Lightning on rank zero before the stage runs."""
        if stage != "fit":
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{RUN_CONFIG}.partial"
        self.parser.save(self.config, str(aside), skip_none=False, overwrite=True, multifile=False)
        aside.rename(folder / RUN_CONFIG)
        for logger in trainer.loggers:
            logger.log_hyperparams(self.config.as_dict())
