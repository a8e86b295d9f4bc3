"""Two GPUs whose frozen weights stream from one host copy, against one GPU, through `fit`.

python -m tests.benchmarks.ddp_streaming --work /tmp/ddp        # 16 layers of the 13B's width; about two minutes

Writes a base with random 16-bit weights, then trains it in turn on one card and on two with the same rows an optimizer
step, every layer's packed weights on the host, without dropout. The first run packs and keeps the packed weights, the
second reads them. Each rank notes its steps, its card's peak, what the plan chose, and its share of the host's memory:
shared pages are divided among those that map them. Prints RESULT lines and the share of linear scaling, which says
something of two cards only where both runs chose the same. --grow touches that much memory first, for a machine whose
memory is given to it as it is used: a plan counts what is there when it is made.

Rehearsal on a CPU: --tiny
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from transformers import LlamaForCausalLM

from taigi_lightning.fast_path.apply import causal_lm
from taigi_lightning.fast_path.machine_speed import measure_machine
from taigi_lightning.planning.activation_plan import keeps_everything
from tests.benchmarks.random_base import TAIGI_13B, llama_config
from tests.working_folder import ROOT, TEXT, environment, lay_out

GIB = 2**30
CUDA = torch.cuda.is_available()
WARM_UP = 3  # optimizer steps that do not count


class Meter(Callback):
    """Leave `rank-N.json` in a folder: seconds of loading and of each optimizer step, losses, memory.

    Args:
        folder: where to write.
        limit: GiB of the card that PyTorch may take, from before the base is loaded; 0: all.
    """

    def __init__(self, folder: str, limit: float = 0.0) -> None:
        self.folder, self.began, self.loaded = Path(folder), time.perf_counter(), 0.0
        self.ends: list[float] = []
        self.losses: list[float] = []
        if CUDA and limit:
            card = int(os.environ.get("LOCAL_RANK", "0"))
            total = torch.cuda.get_device_properties(card).total_memory
            torch.cuda.set_per_process_memory_fraction(limit * GIB / total, card)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.ends = [time.perf_counter()]
        self.loaded = self.ends[0] - self.began

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step >= len(self.ends):
            if CUDA:
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            self.losses.append(float(trainer.callback_metrics.get("train/loss", torch.tensor(0.0))))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module: Any = pl_module
        decoder = causal_lm(module.model).fast_decoder
        plan = next(iter(decoder.plans.values()))
        machine = measure_machine(
            decoder.device, decoder.backbone.norm.weight.dtype
        )  # as the plan was made with
        lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()]
        held = {line[0].rstrip(":"): 1024 * int(line[1]) for line in lines if line[0].startswith("Pss_")}
        found: dict[str, Any] = {
            "loaded_s": round(self.loaded, 1),
            "seconds": [round(b - a, 3) for a, b in zip(self.ends, self.ends[1:], strict=False)],
            "losses": self.losses,
            "host_gib": {name: round(size / GIB, 3) for name, size in held.items()},
            "weights_gib": round(decoder.stream.host_bytes() / GIB, 3),
            "kept_layers": sum(map(keeps_everything, plan)),
            "activations_on_host": sorted(plan[0].host),
            "link_gb_s": round(machine.link / 1e9, 1),
            "tflop_s": round(machine.rate / 1e12),
        }
        if CUDA:
            found["reserved_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 2)
        (self.folder / f"rank-{trainer.global_rank}.json").write_text(json.dumps(found), encoding="utf-8")


def prepare(work: Path, layers: int, tiny: bool) -> None:
    """Write the base and a corpus."""
    narrow: dict[str, Any] = {"hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 4, "head_size": 16}
    shape = replace(TAIGI_13B, layers=layers, **(narrow if tiny else {}))
    with torch.device("cuda" if CUDA else "cpu"):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(llama_config(shape))
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(work / "base", max_shard_size="1GB")
    del model
    if CUDA:
        torch.cuda.empty_cache()
    for file in (ROOT / "models" / "tiny-taigi").glob("*token*"):
        shutil.copy(file, work / "base")
    (work / "home").mkdir()
    texts = [f"{n}。{TEXT * (1 + n % 40)}" for n in range(3000 if CUDA else 200)]
    lay_out(work / "home", (work / "base").resolve(), texts, held_out=4)


def command(name: str, devices: int, args: argparse.Namespace) -> list[str]:
    """The command line of a run."""
    meter = {"class_path": f"{__spec__.name}.Meter" if __spec__ else "Meter",
             "init_args": {"folder": str(args.work.resolve() / name), "limit": args.limit}}  # fmt: skip
    words = ["fit", "--config", "configs/cpt.yaml", *(["--config", "configs/tiny.yaml"] if args.tiny else [])]
    words += [
        "--model.base",
        "models/base",
        "--model.weights_on_host",
        "all",
        "--model.lora.lora_dropout",
        "0",
    ]
    words += ["--model.packed_cache", str(args.work.resolve() / "packed"), "--model.warmup_steps", "1"]
    words += ["--model.optimizer", "bitsandbytes.optim.AdamW8bit" if CUDA else "torch.optim.AdamW"]
    words += ["--trainer.accumulate_grad_batches", str(4 // devices), "--trainer.max_steps", str(args.steps)]
    words += [
        "--trainer.limit_val_batches",
        "0",
        "--trainer.num_sanity_val_steps",
        "0",
        "--export.merge",
        "false",
    ]
    words += [
        "--trainer.logger",
        "null",
        "--trainer.log_every_n_steps",
        "1",
        "--trainer.devices",
        str(devices),
    ]
    words += ["--trainer.default_root_dir", f"models/{name}", "--trainer.enable_progress_bar", "false"]
    words += ["--trainer.callbacks", json.dumps([meter])]
    words += ["--trainer.strategy", "ddp"] if devices > 1 else []
    words += ["--data.init_args.max_length", "64"] if args.tiny else []
    return [sys.executable, "-m", "taigi_lightning", *words]


def run(name: str, devices: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """What each rank noted; nothing if the run failed, whose end is printed."""
    (args.work / name).mkdir()
    paths = [environment()["PYTHONPATH"], *filter(None, [os.environ.get("PYTHONPATH")])]
    surroundings = environment() | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "4"}
    began = time.perf_counter()
    log = args.work / name / "log.txt"
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command(name, devices, args), cwd=args.work / "home", env=surroundings,
                                   stdout=out, stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        try:
            code = process.wait(args.patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            code = process.wait()
    ranks = [json.loads(path.read_text()) for path in sorted((args.work / name).glob("rank-*.json"))]
    print(f"RESULT {name} exit {code}, {time.perf_counter() - began:.0f} s", flush=True)
    if code or len(ranks) != devices:
        print(log.read_text()[-2500:], flush=True)
    for line in log.read_text().splitlines():
        if "page-locked" in line or "cannot share" in line or "packed weights" in line:
            print(f"{name}: {line[:300]}", flush=True)
    for number, rank in enumerate(ranks):
        print(f"RESULT {name} rank {number} {json.dumps(rank)}", flush=True)
    return ranks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("ddp-streaming"))
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps")
    parser.add_argument("--limit", type=float, default=5.0, help="GiB of each card")
    parser.add_argument("--patience", type=float, default=110, help="seconds for each run")
    parser.add_argument("--grow", type=int, default=0, help="GiB of the host's memory to touch first")
    parser.add_argument("--tiny", action="store_true", help="narrow layers: a rehearsal without a GPU")
    args = parser.parse_args()
    args.work.mkdir(parents=True)
    torch.ones(args.grow * GIB // 8, dtype=torch.float64)
    began = time.perf_counter()
    prepare(args.work, args.layers, args.tiny)
    print(f"RESULT base written in {time.perf_counter() - began:.0f} s", flush=True)
    one, two = (run(name, devices, args) for name, devices in (("one", 1), ("two", 2)))
    if not one or not two:
        return
    medians = [statistics.median(ranks[0]["seconds"][WARM_UP:]) for ranks in (one, two)]
    apart = [abs(a - b) for a, b in zip(one[0]["losses"], two[0]["losses"], strict=True)]
    shared = sum(rank["host_gib"]["Pss_Shmem"] for rank in two)
    print(
        "RESULT "
        + json.dumps(
            {
                "of_linear": round(medians[0] / medians[1] / 2, 4), "seconds_a_step": medians,
                "loss_apart_most": max(apart), "shared_gib_of_both": round(shared, 3),
                "weights_gib": two[0]["weights_gib"],
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
