"""`fit` in 8 bits as a user runs it, with the guard, against the bare step; on one CUDA GPU.

    python -m tests.benchmarks.matmul_fit --work /dev/shm/matmul_fit --ways int8 bf16

A base of the 13B's shape with random weights, 26 GB, is written to --work, unless one is there. Each way is one run of
configs/cpt.yaml, whose steps, logger and validation alone are others. All runs load at once and then train in turn,
each after the one before has ended. A RESULT line has the median tokens/s of the optimizer steps after the guard's,
the guard's own seconds, and, from the same process, model and batches, the bare step's: forward and backward passes in
a loop. With random weights the guard may see gradients turn too far: here it only says what it saw, and the run goes on
in 8 bits.

Rehearsal on a CPU, where the meter switches 8 bits on, emulated: --tiny
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from taigi_lightning.fast_path.apply import compute_in, fast_decoder, forward_hidden
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.kernels.matmul import Matmul
from taigi_lightning.training import matmul_guard
from tests.benchmarks.random_base import TAIGI_13B
from tests.benchmarks.stream_fit import write_16_bit_base
from tests.benchmarks.turns import wait_for_turn
from tests.working_folder import TEXT, environment, lay_out

GIB = 2**30
CUDA = torch.cuda.is_available()
BARE = 5  # optimizer steps' worth of micro-batches, after one that warms up
TINY = {
    "layers": 2,
    "hidden": 64,
    "intermediate": 128,
    "heads": 4,
    "kv_heads": 2,
    "head_size": 16,
    "vocabulary": 1024,
}


def synchronised() -> float:
    if CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


class FitMeter(Callback):
    """Let a run wait for its turn, note how long its optimizer steps and its guard took, and time the bare step.

    Args:
        folder: where turns are called and `NAME.json` is left.
        way: the run's name, and what a CPU's products are emulated in.
    """

    def __init__(self, folder: str, way: Matmul) -> None:
        self.folder, self.way = Path(folder), way
        self.began, self.ends = time.perf_counter(), [0.0]
        self.guard: list[float] = []
        self.seen: list[float] = []
        self.window: list[dict[str, torch.Tensor]] = []
        self._watch_the_guard()

    def _watch_the_guard(self) -> None:
        compare = matmul_guard.MatmulGuard._compare
        matmul_guard.LEAST_COSINE = -1.0

        def timed(*arguments: Any) -> tuple[float, float] | None:
            began = synchronised()
            found = compare(*arguments)
            self.guard.append(synchronised() - began)
            self.seen.append(found[0] if found else float("nan"))
            return found

        matmul_guard.MatmulGuard._compare = timed  # type: ignore[method-assign]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not CUDA:
            compute_in(pl_module.model, self.way)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.loaded = time.perf_counter() - self.began
        wait_for_turn(self.folder, self.way, 0)
        self.ends = [synchronised()]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.window = [*self.window, batch][-trainer.accumulate_grad_batches :]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step >= len(self.ends):
            self.ends.append(synchronised())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = [b - a for a, b in zip(self.ends, self.ends[1:], strict=False)]
        tokens = sum(batch["input_ids"].numel() for batch in self.window)
        decoder = fast_decoder(pl_module.model)
        assert decoder is not None
        plan = next(iter(decoder.plans.values()))
        bare = self._bare(trainer, pl_module.model)
        usual = statistics.median(steps[matmul_guard.CHECKED + 1 :])
        found = {
            "way": decoder.matmul, "tok_s": tokens / usual, "bare_tok_s": tokens / bare, "of_bare": bare / usual,
            "steps": steps, "guard_s": self.guard, "guard_cosine": self.seen, "loaded_s": self.loaded,
            "unpacked": decoder.unpacked, "kept": sum(len(saving.device) >= 5 for saving in plan),
            "loss": float(trainer.callback_metrics["train/loss"]),
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB if CUDA else 0.0,
        }  # fmt: skip
        (self.folder / f"{self.way}.json").write_text(json.dumps(found), encoding="utf-8")

    def _bare(self, trainer: pl.Trainer, model: Any) -> float:
        """Median seconds of an optimizer step's micro-batches, without the optimizer and without Lightning."""
        took = []
        for _ in range(BARE + 1):
            began = synchronised()
            for batch in self.window:
                with torch.enable_grad(), trainer.precision_plugin.train_step_context():
                    hidden = forward_hidden(model, batch["input_ids"], batch["position_ids"])
                    loss = linear_cross_entropy_sum(hidden, output_head(model), batch["labels"])
                    (loss / batch["labels"].numel()).backward()
            took.append(synchronised() - began)
        return statistics.median(took[1:])


# ---- the runs ---------------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ways", nargs="+", choices=get_args(Matmul), default=["int8", "bf16"])
    parser.add_argument("--steps", type=int, default=9, help="optimizer steps")
    parser.add_argument("--patience", type=float, default=200, help="seconds that all runs get together")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal")
    return parser.parse_args()


def start(args: argparse.Namespace, way: str) -> "subprocess.Popen[bytes]":
    turns = args.work.resolve() / "turns"
    meter = {
        "class_path": "tests.benchmarks.matmul_fit.FitMeter",
        "init_args": {"folder": str(turns), "way": way},
    }
    words = ["fit", "--config", "configs/cpt.yaml", *(["--config", "configs/tiny.yaml"] if args.tiny else [])]
    words += ["--model.base", "models/base", "--trainer.default_root_dir", f"models/{way}"]
    words += [
        "--trainer.max_steps",
        str(args.steps),
        "--trainer.logger",
        "null",
        "--export.merge",
        "false",
    ]
    words += ["--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0"]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.callbacks", json.dumps([meter])]
    words += (
        ["--data.init_args.max_length", "64", "--model.compile", "false"]
        if args.tiny
        else ["--model.matmul", way]
    )
    paths = [environment()["PYTHONPATH"], *filter(None, [os.environ.get("PYTHONPATH")])]
    surroundings = environment() | {"OMP_NUM_THREADS": "4", "PYTHONPATH": os.pathsep.join(paths)}
    with (args.work / f"{way}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "taigi_lightning", *words], cwd=args.work / "home", env=surroundings,
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def main() -> None:
    args, began = parse_arguments(), time.monotonic()
    base, home, turns = args.work / "base", args.work / "home", args.work / "turns"
    if not base.exists():
        write_16_bit_base(replace(TAIGI_13B, **TINY) if args.tiny else TAIGI_13B, base)
        if CUDA:
            torch.cuda.empty_cache()
    if not home.exists():
        home.mkdir()
        lay_out(home, base.resolve(), [f"{TEXT * 9}{n}" for n in range(600)], held_out=4)
    turns.mkdir(exist_ok=True)
    for file in turns.iterdir():
        file.unlink()
    print(f"RESULT base written after {time.monotonic() - began:.1f} s", flush=True)
    running = {way: start(args, way) for way in args.ways}
    for way, process in running.items():
        (turns / f"{way}.0.go").touch()
        try:
            process.wait(max(1.0, args.patience - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            process.kill()
        file = turns / f"{way}.json"
        if file.exists():
            print(f"RESULT {way} {file.read_text(encoding='utf-8')}", flush=True)
        else:
            print(f"FAILED {way}: {(args.work / f'{way}.log').read_text()[-1500:]}", flush=True)


if __name__ == "__main__":
    main()
