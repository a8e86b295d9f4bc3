"""Lightning callbacks that `ddp_scaling` puts into the real commands; each rank leaves `rank-N.json` in a folder."""

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile, schedule

from taigi_lightning.evaluation.answers import predict_batch
from taigi_lightning.tasks.question_batches import plan_batches


class StepMeter(Callback):
    """Note peak memory, which backward passes synchronise, and what ran on the card in the last steps of `fit`.

    Args:
        folder: where to write.
        traced: so many optimizer steps, the last ones.
    """

    def __init__(self, folder: str, traced: int = 3) -> None:
        self.folder, self.traced = Path(folder), traced
        self.synchronised: list[bool] = []
        self.ends: list[float] = []
        self.trace: dict[str, Any] = {}
        self.profiler: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        on_card = pl_module.device.type == "cuda"
        self.profiler = profile(
            activities=[ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU],
            schedule=schedule(
                wait=trainer.max_steps - self.traced - 1, warmup=1, active=self.traced, repeat=1
            ),
            on_trace_ready=self._read,
        )
        self.profiler.start()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Any) -> None:
        self.synchronised.append(bool(getattr(trainer.strategy.model, "require_backward_grad_sync", False)))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == len(self.ends):
            return
        if trainer.global_step >= trainer.max_steps - self.traced - 1:
            wait_for(pl_module.device)  # what a step launched belongs to its trace
        self.ends.append(time.perf_counter())
        self.profiler.step()

    def _read(self, profiler: Any) -> None:
        file = (
            self.folder
            / f"trace-{torch.distributed.get_rank() if torch.distributed.is_initialized() else 0}.json"
        )
        profiler.export_chrome_trace(str(file))
        self.trace = read_trace(json.loads(file.read_text(encoding="utf-8")), self.traced)
        file.unlink()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.profiler.stop()
        wall = (self.ends[-1] - self.ends[-1 - self.traced]) / self.traced
        gradients = sum(p.numel() * p.element_size() for p in pl_module.parameters() if p.requires_grad)
        found = {
            **memory(pl_module.device), "gradient_bytes": gradients,
            "accumulate": trainer.accumulate_grad_batches, "synchronised": self.synchronised,
            "trace": {
                "wall_ms": round(1e3 * wall, 2),
                "idle_ms": round(1e3 * wall - self.trace["busy_ms"], 2),
                **self.trace,
            },
        }  # fmt: skip
        leave(self.folder, trainer.global_rank, found)


class PredictionMeter(Callback):
    """Time `predict` from its first batch to its files; stands after `PredictionWriter`, which writes them."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.questions = 0
        self.began = self.last = 0.0

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module: Any = pl_module
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.batches = plan_batches(data.encoded, data.batch_tokens, share=data.share_passages)
        for batch in (self.batches[0], self.batches[-1]):  # kernels are compiled
            predict_batch(module.model, module.tokenizer, batch, module.answer_strategy)
        wait_for(pl_module.device)
        trainer.strategy.barrier()
        self.began = time.perf_counter()

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.questions += len(outputs)
        self.last = time.perf_counter()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self.began
        trees = [tree for batch in self.batches for tree in batch.trees]
        found = {
            **memory(pl_module.device), "questions": self.questions, "seconds": seconds,
            "own_seconds": self.last - self.began, "batches": len(self.batches),
            "tokens": sum(len(tree.tokens) for tree in trees),
        }  # fmt: skip
        leave(self.folder, trainer.global_rank, found)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(device: torch.device) -> dict[str, Any]:
    """The card's name, and bytes at the peaks."""
    if device.type != "cuda":
        return {"card": "a CPU", "allocated": 0, "reserved": 0}
    return {
        "card": torch.cuda.get_device_name(device),
        "allocated": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.max_memory_reserved(device),
    }


def leave(folder: Path, rank: int, found: dict[str, Any]) -> None:
    (folder / f"rank-{rank}.json").write_text(json.dumps(found), encoding="utf-8")


def read_trace(trace: dict[str, Any], steps: int) -> dict[str, Any]:
    """Milliseconds a step from a trace in Chrome's format: of collectives, of these alone, of all else; the gaps.

    >>> def kernel(name, start, end):
    ...     return {"cat": "kernel", "name": name, "ts": start, "dur": end - start}
    >>> events = [kernel("gemm", 0, 4000), kernel("ncclDevKernel_AllReduce(x)", 3000, 6000), kernel("adam", 8000, 9000)]
    >>> read_trace({"traceEvents": events}, 1)  # doctest: +NORMALIZE_WHITESPACE
    {'busy_ms': 7.0, 'others_ms': 5.0, 'collectives_ms': 3.0, 'collectives_alone_ms': 2.0, 'kernels': 2.0,
     'collectives': {'ncclDevKernel_AllReduce': [1.0, 3.0, 3.0]},
     'gaps': [(2.0, 'ncclDevKernel_AllReduce', 'adam')]}
    """
    on_card = [e for e in trace["traceEvents"] if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    collectives = [e for e in on_card if "nccl" in e["name"]]
    others = [e for e in on_card if "nccl" not in e["name"]]
    busy, alone = covered(on_card), covered(others)
    took: dict[str, list[float]] = {}
    for event in collectives:
        took.setdefault(short(event), []).append(event["dur"] / 1e3)
    return {
        "busy_ms": round(busy / 1e3 / steps, 3), "others_ms": round(alone / 1e3 / steps, 3),
        "collectives_ms": round(covered(collectives) / 1e3 / steps, 3),
        "collectives_alone_ms": round((busy - alone) / 1e3 / steps, 3), "kernels": round(len(others) / steps, 1),
        # How many a step, how long all of these take together, and the longest.
        "collectives": {
            name: [round(len(each) / steps, 2), round(sum(each) / steps, 3), round(max(each), 3)]
            for name, each in took.items()
        },
        "gaps": longest_gaps(on_card, 4 * steps),
    }  # fmt: skip


def short(event: dict[str, Any]) -> str:
    """A kernel's name without its arguments."""
    return (
        str(event["name"]).removeprefix("void ").replace("(anonymous namespace)::", "").partition("(")[0][:60]
    )


def covered(events: list[dict[str, Any]]) -> float:
    """Length of the union of events' times.

    >>> covered([{"ts": 0, "dur": 2}, {"ts": 5, "dur": 1}, {"ts": 1, "dur": 2}])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: float(event["ts"])):
        end = event["ts"] + event["dur"]
        total += max(0.0, end - max(event["ts"], reached))
        reached = max(reached, end)
    return total


def longest_gaps(events: list[dict[str, Any]], count: int) -> list[tuple[float, str, str]]:
    """The longest times, in ms, in which nothing ran, and what ran before and after."""
    gaps: list[tuple[float, str, str]] = []
    last: dict[str, Any] | None = None
    for event in sorted(events, key=lambda event: float(event["ts"])):
        end = last["ts"] + last["dur"] if last else event["ts"]
        if last and event["ts"] > end:
            gaps.append((round((event["ts"] - end) / 1e3, 3), short(last), short(event)))
        last = event if not last or event["ts"] + event["dur"] > end else last
    return sorted(gaps, reverse=True)[:count]
