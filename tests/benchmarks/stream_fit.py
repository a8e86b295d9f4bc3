"""Weights that wait on the host through the real commands, `fit` and `predict`, on one CUDA GPU.

python -m tests.benchmarks.stream_fit --work /dev/shm/stream            # writes a base of 26 GB there, if none is there

A base of the 13B's shape with random weights in bfloat16 is written, a shard a layer. All runs of RUNS are started at
once and load; then each trains or answers in its turn, alone on the card. A run's limit on the card is PyTorch's, from
before loading; one on the host is a control group's, where this may be made (as root, groups of version 2).

Rehearsal on a CPU: --tiny
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from taigi_lightning.planning.memory import Shape
from tests.working_folder import TEXT, environment, lay_out

sys.path.insert(0, str(Path(__file__).parent))

from ddp_scaling import write_questions
from random_base import TAIGI_13B, llama_config, write_toy_tokenizer
from stream_base import DEVICE, NARROW
from turns import call_in_turn

GIB = 2**30
GROUPS = Path("/sys/fs/cgroup")
METER = "tests.benchmarks.stream_meter.StreamMeter"


@dataclass(frozen=True)
class Run:
    """One command: GiB of the card and of the host it may take, 0 for all, and what else it is told."""

    limit: float = 0.0
    host: float = 0.0
    predict: bool = False
    options: tuple[str, ...] = ()


EIGHT_BIT = ("--model.optimizer", "bitsandbytes.optim.AdamW8bit")
ONE_ROW = ("--data.init_args.batch_size", "1", "--model.optimizer", "bitsandbytes.optim.PagedAdamW8bit")
RESIDENT = ("--model.weights_on_host", "none", "--model.activation_budget", "0")
RUNS = {
    "fit-6": Run(6, options=EIGHT_BIT),
    "fit-7.2": Run(7.2),
    "fit-7.2-host-14": Run(7.2, host=14),
    "fit-4.5": Run(4.5, host=12, options=ONE_ROW),
    "fit-resident": Run(11.5, options=(*EIGHT_BIT, *RESIDENT)),
    "predict-6": Run(6, predict=True),
    "predict-packed": Run(12, predict=True, options=("--model.weights_on_host", "none")),
    "predict-dequantised": Run(predict=True),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("stream-work"))
    parser.add_argument("--runs", nargs="*", default=list(RUNS))
    parser.add_argument("--base_only", action="store_true")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps")
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--patience", type=float, default=300, help="seconds that all runs get together")
    parser.add_argument("--tiny", action="store_true", help="narrow layers: a rehearsal without a GPU")
    return parser.parse_args()


# ---- the base ---------------------------------------------------------------------------------------


def write_16_bit_base(shape: Shape, folder: Path) -> None:
    """A Llama with random bfloat16 weights, a shard a layer, made on the device and written by several threads."""
    folder.mkdir(parents=True)
    config = llama_config(shape)
    named = dict(llama_tensors(shape))
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, size in named.items():
        part = name.split(".")[2] if name.startswith("model.layers.") else "rest"
        shards.setdefault(f"model-{part}.safetensors", {})[name] = size
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: write_shard(folder / item[0], item[1]), shards.items()))
    weight_map = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {"total_size": 2 * shape.parameters}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    written = config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(written, default=str))
    write_toy_tokenizer(folder)


def llama_tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and sizes of a Llama's tensors."""
    for layer in range(shape.layers):
        for linear in shape.linears:
            block = "self_attn" if linear.name in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            yield f"model.layers.{layer}.{block}.{linear.name}.weight", (linear.outputs, linear.inputs)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", (shape.hidden,)
    yield "model.norm.weight", (shape.hidden,)
    for table in ("model.embed_tokens", "lm_head"):
        yield f"{table}.weight", (shape.vocabulary, shape.hidden)


def write_shard(path: Path, sizes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file, by its format: the header's length, the header, the tensors."""
    header, start = {}, 0
    for name, size in sizes.items():
        end = start + 2 * torch.Size(size).numel()
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for size in sizes.values():
            weight = torch.empty(size, dtype=torch.bfloat16, device=DEVICE)
            weight = weight.fill_(1.0) if weight.dim() == 1 else weight.normal_(std=0.02)
            file.write(memoryview(weight.cpu().view(torch.uint8).numpy()).cast("B"))


# ---- the runs ---------------------------------------------------------------------------------------


def command(name: str, args: argparse.Namespace) -> list[str]:
    """The command line of a run, in the folder `home`."""
    run, turns = RUNS[name], args.work.resolve() / "turns"
    meter = {"class_path": METER, "init_args": {"folder": str(turns), "name": name, "limit": run.limit}}
    callbacks = [meter]
    words = (
        ["predict", "--config", "configs/predict.yaml"]
        if run.predict
        else ["fit", "--config", "configs/cpt.yaml"]
    )
    if run.predict:
        writer = {"class_path": "PredictionWriter", "init_args": {"output": f"models/{name}/output.csv"}}
        callbacks = [writer, meter]
        words += ["--model.adapter", "null", "--data.init_args.questions", "data/questions.csv"]
    else:
        words += ["--trainer.max_steps", str(args.steps), "--trainer.limit_val_batches", "0"]
        words += ["--trainer.num_sanity_val_steps", "0", "--export.merge", "false"]
    words += ["--model.base", "models/base", "--trainer.default_root_dir", f"models/{name}"]
    words += ["--trainer.logger", "null", "--trainer.enable_progress_bar", "false"]
    words += ["--trainer.callbacks", json.dumps(callbacks), *run.options]
    if args.tiny:
        words[3:3] = ["--config", "configs/tiny.yaml"] if not run.predict else []
        words += ["--data.init_args.max_length", "512" if run.predict else "64"]
        words += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true"] if run.predict else []
    return [sys.executable, "-m", "taigi_lightning", *words]


def start(name: str, args: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """Start a run; what it prints goes to a file, its host memory is limited where that can be."""
    group, words = GROUPS / f"stream-{name}", command(name, args)
    try:
        if RUNS[name].host:
            group.mkdir(exist_ok=True)
            (group / "memory.max").write_text(str(int(RUNS[name].host * GIB)))
            (group / "memory.swap.max").write_text("0")
            words = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *words]
    except OSError as error:
        print(f"{name}: its host memory is not limited: {error}", flush=True)
    with (args.work / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            words, cwd=args.work / "home", env=surroundings(), stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip


def surroundings() -> dict[str, str]:
    """The variables of a run: this checkout first, then what else this process imports from."""
    paths = [environment()["PYTHONPATH"], *filter(None, [os.environ.get("PYTHONPATH")])]
    return environment() | {"OMP_NUM_THREADS": "4", "PYTHONPATH": os.pathsep.join(paths)}


def report(name: str, args: argparse.Namespace) -> None:
    """Print what a run left."""
    file = args.work / "turns" / f"{name}.json"
    if not file.exists():
        print(f"RESULT {name} failed: {(args.work / f'{name}.log').read_text()[-1500:]}", flush=True)
        return
    found: dict[str, Any] = json.loads(file.read_text())
    if "step_tokens" in found:
        found["tok_s"] = round(found["step_tokens"] / statistics.median(found["seconds"][1:]))
    else:
        found["questions_s"] = round(found["questions"] / found["seconds"][0], 1)
    peak = GROUPS / f"stream-{name}" / "memory.peak"
    if peak.exists():
        found["group_peak_gib"] = round(int(peak.read_text()) / GIB, 2)
    print(f"RESULT {name} {json.dumps(found)}", flush=True)


def main() -> None:
    args = parse_arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    base, home, began = args.work / "base", args.work / "home", time.monotonic()
    if not base.exists():
        write_16_bit_base(
            replace(TAIGI_13B, **NARROW | {"vocabulary": 1024}, layers=6) if args.tiny else TAIGI_13B, base
        )
        print(f"RESULT base written in {time.monotonic() - began:.1f} s", flush=True)
    if args.base_only:
        return
    if not home.exists():
        home.mkdir()
        lay_out(home, base.resolve(), [f"{TEXT * 9}{n}" for n in range(400)], held_out=4)
        write_questions(home / "data" / "cpt_corpus", home / "data" / "questions.csv", args.questions)
    (args.work / "turns").mkdir(exist_ok=True)
    running = {name: start(name, args) for name in args.runs}
    call_in_turn(args.work / "turns", args.runs, 1, lambda name: running[name].poll() is None, args.patience)
    for name, process in running.items():
        report(name, args)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    main()
