"""Several GPUs of one host against one, training and predicting through the real commands, in one table.

python -m tests.benchmarks.ddp_scaling --base BASE16 --corpus data/cpt_corpus --output ddp --gpus 8

Runs of RUNS follow one another, those joined by + at the same time; --gpus takes those up to so many, --runs chooses
and orders them. Training is `fit` with the same rows an optimizer step on every number of GPUs: 32, so that each of
eight has the config's micro-batch of 4; with --rows 16, the config's own step, they have 2. "plain" is without dropout,
where the losses should agree. A callback notes each card's peak memory and which backward passes synchronised, and
traces the last three steps: how long collectives ran, and how long while nothing else did. Prediction answers 1,001
made-up questions with the adapter of the run "two"; time is from the first batch, kernels compiled, to the files.
Each run leaves a folder under --output; the table is made of what lies there, so a session may take several calls.

Rehearsal on a CPU: --base models/tiny-taigi --more "--config configs/tiny.yaml" --steps 8 --questions 41 --gpus 4
"""

import argparse
import csv
import json
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

GIB = 2**30
WARM_UP, TRACED = 4, 3  # optimizer steps at the beginning that do not count, and at the end
METERS = "tests.benchmarks.ddp_meters"


@dataclass(frozen=True)
class Run:
    """One command: on how many GPUs, on which one if it is one, and what part of --steps."""

    devices: int
    card: int = 0
    predict: bool = False
    share: float = 1.0
    options: tuple[str, ...] = ()


PLAIN = ("--model.lora.lora_dropout", "0")
NAMES = {2: "two", 4: "four", 8: "eight"}
RUNS = {
    "one-0": Run(1), "one-1": Run(1, 1), **{name: Run(count) for count, name in NAMES.items()},
    "one-again": Run(1, share=0.6), "two-again": Run(2, share=0.6),
    "one-plain": Run(1, 1, share=0.5, options=PLAIN),
    **{f"{name}-plain": Run(count, share=0.5, options=PLAIN) for count, name in NAMES.items()},
    "predict-one": Run(1, predict=True),
    **{f"predict-{name}": Run(count, predict=True) for count, name in NAMES.items()},
}  # fmt: skip


def order(gpus: int) -> list[str]:
    """The runs of a host with so many GPUs.

    >>> order(2)
    ['one-0+one-1', 'two', 'predict-one+one-plain', 'predict-two', 'two-plain', 'one-again', 'two-again']
    """
    names = [name for count, name in NAMES.items() if count <= gpus]
    predictions, plain = [f"predict-{name}" for name in names], [f"{name}-plain" for name in names]
    return ["one-0+one-1", *names, "predict-one+one-plain", *predictions, *plain, "one-again", "two-again"]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="a 16-bit base with its tokenizer")
    parser.add_argument("--corpus", type=Path, default=Path("data/cpt_corpus"))
    parser.add_argument("--output", type=Path, default=Path("ddp_scaling"), help="a folder")
    parser.add_argument("--gpus", type=int, default=2, choices=NAMES, help="of this host")
    parser.add_argument("--runs", nargs="*", help="see above; none only makes the table")
    parser.add_argument("--steps", type=int, default=28, help="optimizer steps, the traced ones included")
    parser.add_argument("--rows", type=int, default=32, help="of an optimizer step, over all GPUs")
    parser.add_argument("--micro_batch", type=int, default=4, help="rows of a GPU at once, at most")
    parser.add_argument("--questions", type=int, default=1001)
    parser.add_argument("--more", type=shlex.split, default=[], help="for every command")
    parser.add_argument("--limit", type=float, default=400, help="seconds for a run")
    return parser.parse_args()


# ---- the commands ---------------------------------------------------------------------------------


def command(name: str, args: argparse.Namespace) -> list[str]:
    """The command line of a run."""
    run, folder = RUNS[name], args.output / name
    callbacks = [{"class_path": f"{METERS}.StepMeter", "init_args": {"folder": str(folder)}}]
    if run.predict:
        writer = {"class_path": "PredictionWriter", "init_args": {"output": str(folder / "output.csv")}}
        callbacks = [writer, {**callbacks[0], "class_path": f"{METERS}.PredictionMeter"}]
    words = ["predict" if run.predict else "fit", "--config"]
    words += ["configs/predict.yaml" if run.predict else "configs/cpt.yaml", *args.more]
    words += ["--model.base", str(args.base), "--trainer.default_root_dir", str(folder)]
    words += ["--trainer.devices", str(run.devices), "--trainer.logger", "null"]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.callbacks", json.dumps(callbacks)]
    if run.devices > 1:
        words += ["--trainer.strategy", "ddp"]
    if run.predict:
        words += ["--model.adapter", str(args.output / "two" / "adapter")]
        words += ["--data.init_args.questions", str(args.output / "questions.csv")]
    else:
        micro_batch = min(args.micro_batch, args.rows // run.devices)
        accumulate, left = divmod(args.rows, run.devices * micro_batch)
        assert not left, f"{args.rows} rows are not shared out evenly among {run.devices}"
        words += ["--data.init_args.batch_size", str(micro_batch)]
        words += ["--trainer.accumulate_grad_batches", str(accumulate)]
        words += ["--trainer.max_steps", str(max(WARM_UP + TRACED + 1, round(args.steps * run.share)))]
        words += ["--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0"]
        words += ["--data.init_args.data_dir", str(args.corpus), "--export.merge", "false"]
    return [sys.executable, "-m", "taigi_lightning", *words, *run.options]


def start(names: list[str], args: argparse.Namespace) -> None:
    """Run commands at the same time; what each prints goes to its folder."""
    began, running = time.monotonic(), {}
    for name in names:
        folder = args.output / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        visible = {"CUDA_VISIBLE_DEVICES": str(RUNS[name].card)} if RUNS[name].devices == 1 else {}
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            running[name] = subprocess.Popen(
                command(name, args),
                env={**os.environ, **visible},
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # so that the other ranks, its children, end with it
            )
    for name, process in running.items():
        try:
            code = process.wait(max(1.0, args.limit - (time.monotonic() - began)))
        except subprocess.TimeoutExpired:
            code = 124
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        print(f"{name}: exit {code}, {time.monotonic() - began:.0f} s", flush=True)


def write_questions(corpus: Path, file: Path, count: int) -> None:
    """Questions as long as the test's, cut out of the corpus; 11 in 100 have the passage of the one before."""
    file_of_texts = min(corpus.glob("train-*.parquet"))
    texts = "".join(pq.read_table(file_of_texts, columns=["text"])["text"].to_pylist())
    draw = random.Random(9527)

    def piece(characters: float) -> str:
        begin = draw.randrange(len(texts) - 500)
        return texts[begin : begin + round(characters)].replace("\n", "。")

    lengths = np.interp((np.arange(count) + 0.5) / count, [0, 0.5, 0.95, 1], [21, 147, 303, 469]).tolist()
    draw.shuffle(lengths)
    passages = [piece(length) for length in lengths]
    for row in sorted(draw.sample(range(1, count), round(0.114 * count))):
        passages[row] = passages[row - 1]
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["ID", "前文", "題幹", "選項1", "選項2", "選項3", "選項4"])
        for number, passage in enumerate(passages, start=1):
            options = [f"{place}{piece(draw.randint(2, 14))}" for place in "甲乙丙丁"]
            writer.writerow([number, passage, piece(draw.randint(8, 25)), *options])


# ---- the table ------------------------------------------------------------------------------------


def read_run(folder: Path) -> dict[str, Any]:
    """What a run left: a row for the table, empty if it did not come to its end."""
    ranks = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("rank-*.json"))]
    logs = list(folder.glob("logs/**/metrics.csv"))
    if not ranks or not (logs or "questions" in ranks[0]):
        return {}
    row: dict[str, Any] = {"ranks": ranks}
    if logs:
        with logs[0].open(encoding="utf-8") as file:
            steps = [step for step in csv.DictReader(file) if step.get("train/tokens_per_second")]
        row["speeds"] = [round(float(step["train/tokens_per_second"])) for step in steps]
        row["losses"] = [float(step["train/loss"]) for step in steps]
        row["tokens_per_second"] = statistics.median(row["speeds"][WARM_UP : -TRACED - 1] or row["speeds"])
    return row


def compare_losses(one: dict[str, Any], two: dict[str, Any]) -> str:
    pairs = list(zip(one["losses"], two["losses"], strict=False))
    apart = [abs(a - b) for a, b in pairs]
    ends = " to ".join(f"{a:.4f} and {b:.4f}" for a, b in (pairs[0], pairs[-1]))
    return (
        f"{len(apart)} steps, {ends}; apart {statistics.mean(apart):.5f} on average, {max(apart):.5f} at most"
    )


def compare_answers(*folders: Path) -> str:
    one, two = (
        list(csv.DictReader((folder / "output.probabilities.csv").open(encoding="utf-8")))
        for folder in folders
    )
    once = all([row["ID"] for row in rows] == [str(n + 1) for n in range(len(one))] for rows in (one, two))
    pairs = list(zip(one, two, strict=False))
    names = [f"Probability{place}" for place in (1, 2, 3, 4)]
    apart = max(abs(float(a[name]) - float(b[name])) for a, b in pairs for name in names)
    same = sum(a["Answer"] == b["Answer"] for a, b in pairs)
    return f"{same} of {len(one)} answers equal, probabilities at most {apart:.6f} apart; each once: {once}"


def table(rows: dict[str, dict[str, Any]], output: Path) -> str:
    """The table, as Markdown, of the runs there are."""
    card = next((row["ranks"][0]["card"] for row in rows.values()), "no run")
    lines = [card, "", "| run | a second | of | GiB a card, allocated / reserved |", "|-|-|-|-|"]
    notes = []
    for name, row in rows.items():
        ranks = row["ranks"]
        memory = " ; ".join(f"{r['allocated'] / GIB:.2f} / {r['reserved'] / GIB:.2f}" for r in ranks)
        if "speeds" not in row:
            speed = f"{sum(r['questions'] for r in ranks) / ranks[0]['seconds']:.1f} questions"
            spent = " ; ".join(f"{r['own_seconds']:.2f} s" for r in ranks)
            lines.append(f"| {name} | {speed} | {spent} | {memory} |")
            continue
        counted = len(row["speeds"]) - WARM_UP - TRACED - 1
        lines.append(f"| {name} | {row['tokens_per_second']:,} tokens | {counted} steps | {memory} |")
        for rank, found in enumerate(ranks):
            trace, flags = found["trace"], found["synchronised"][: found["accumulate"]]
            notes.append(
                f"- {name}, rank {rank}: {trace['wall_ms']} ms a step, nothing running {trace['idle_ms']}, "
                f"collectives {trace['collectives_ms']}, alone {trace['collectives_alone_ms']}; "
                f"backward passes synchronise: {flags}"
            )
    ones = [rows[name]["tokens_per_second"] for name in ("one-0", "one-1", "one-again") if name in rows]
    for name in [name for name in (*NAMES.values(), "two-again") if ones and name in rows]:
        count = RUNS[name].devices
        ratio = rows[name]["tokens_per_second"] / count / statistics.mean(ones)
        notes.append(f"- {name}: {ratio:.3f} of {count} times the mean on one card")
    pairs = [("one-0", other) for other in ("one-1", *NAMES.values())]
    for a, b in [*pairs, *(("one-plain", f"{name}-plain") for name in NAMES.values())]:
        if {a, b} <= rows.keys():
            notes.append(f"- loss, {a} and {b}: {compare_losses(rows[a], rows[b])}")
    for name in [f"predict-{name}" for name in NAMES.values()]:
        if {"predict-one", name} <= rows.keys():
            notes.append(f"- {name}: {compare_answers(output / 'predict-one', output / name)}")
    return "\n".join([*lines, "", *notes]) + "\n"


def main() -> None:
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    write_questions(args.corpus, args.output / "questions.csv", args.questions)
    runs = order(args.gpus) if args.runs is None else args.runs
    for names in [*runs, None]:
        if names is not None:
            start(names.split("+"), args)
        rows = {name: row for name in RUNS if (row := read_run(args.output / name))}
        (args.output / "table.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        (args.output / "table.md").write_text(table(rows, args.output), encoding="utf-8")
    print(table(rows, args.output))


if __name__ == "__main__":
    main()
