"""A Lightning callback that `stream_fit` puts into the real commands: a limit, a turn, times and peaks."""

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from taigi_lightning.evaluation.answers import predict_batch
from taigi_lightning.fast_path.apply import causal_lm, fast_decoder
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.tasks.question_batches import plan_batches
from tests.benchmarks.host_use import resident_bytes
from tests.benchmarks.turns import wait_for_turn

GIB = 2**30


class StreamMeter(Callback):
    """Hold a command to so much of the card, let it wait for its turn, note how long its steps took.

    Args:
        folder: where turns are called and `NAME.json` is left.
        name: of the run.
        limit: GiB that PyTorch may take, from before the base is loaded; 0: all.
    """

    def __init__(self, folder: str, name: str, limit: float = 0.0) -> None:
        self.folder, self.name = Path(folder), name
        self.began, self.ends, self.questions = time.perf_counter(), [0.0], 0
        self.loaded: dict[str, float] = {}
        if torch.cuda.is_available() and limit:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(limit * GIB / total)

    def _wait(self) -> None:
        self.loaded = {"loaded_s": round(time.perf_counter() - self.began, 1), **resident_bytes()}
        if torch.cuda.is_available():
            self.loaded["card_peak"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
        wait_for_turn(self.folder, self.name, 0)
        self.ends = [time.perf_counter()]

    def _leave(self, module: Any, **found: Any) -> None:
        found["seconds"] = [round(b - a, 3) for a, b in zip(self.ends, self.ends[1:], strict=False)]
        found |= {"after_loading": self.loaded, **resident_bytes()}
        if (decoder := fast_decoder(module.model)) is not None:  # on a CPU prediction does without
            found |= {
                "layers_on_host": len(decoder.stream.hosts),
                "weights_gib": round(decoder.stream.host_bytes() / GIB, 2),
                "head_on_host": output_head(module.model).on_host,
                "unpacked": decoder.unpacked,
            }
        if torch.cuda.is_available():
            found |= {
                "allocated": round(torch.cuda.max_memory_allocated() / GIB, 2),
                "reserved": round(torch.cuda.max_memory_reserved() / GIB, 2),
            }
        (self.folder / f"{self.name}.json").write_text(json.dumps(found), encoding="utf-8")
        (self.folder / f"{self.name}.1.ready").touch()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._wait()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step >= len(self.ends):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        plans = causal_lm(module.model).fast_decoder.plans
        kept = {str(shape): sum(len(s.device) >= 5 for s in plan) for shape, plan in plans.items()}
        moved = {str(shape): sorted(plan[0].host) for shape, plan in plans.items()}
        tokens = data.batch_size * data.max_length * trainer.accumulate_grad_batches
        loss = float(trainer.callback_metrics["train/loss"])
        self._leave(module, step_tokens=tokens, kept=kept, moved=moved, loss=loss)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module: Any = pl_module
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        batches = plan_batches(data.encoded, data.batch_tokens, share=data.share_passages)
        for batch in (batches[0], batches[-1]):  # kernels are compiled
            predict_batch(module.model, module.tokenizer, batch, module.answer_strategy)
        self._wait()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.questions += len(outputs)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ends.append(time.perf_counter())
        self._leave(pl_module, questions=self.questions)
