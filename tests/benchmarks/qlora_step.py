"""The training step measured against a peer's, in one table from one command, on one CUDA GPU.

python tests/benchmarks/qlora_step.py --corpus data/cpt_corpus --peer ../step.py --packed_peer ../packed.py

The base is a 4-bit one of the 13B shape with random weights; for peers and `fit` it is written to --model if nothing
is there. Peers are scripts of their own, which this project does not contain; each prints lines
`RESULT {"ckpt": ..., "tok_s": ..., "peak_alloc": ..., "peak_res": ...}`. --packed_peer is called with
`--model FOLDER --corpus FOLDER` and measures rows without checkpointing, then, as "data": "packed", documents; --peer
is called with `--model FOLDER --variant unsloth --ckpt none|all|offload` for what is not measured yet. Without them
only this project is measured.

Processes take turns. Where a peer was measured, this project's point at that size runs under a hard limit of the
peer's own reserved peak. After each process the table is written anew: to --output.md, and as rows to --output.json.
With --resume what that file holds already is not measured again: for a session that was cut off.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHECKPOINTING = {"none": "off", "all": "on", "offload": "on, offloaded"}
SIZES = {"none": 69.37, "all": 15.3, "offload": 12.78}  # GiB, until a peer says
Row = dict[str, Any]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("base4"))
    parser.add_argument(
        "--corpus", type=Path, required=True, help="a cleaned corpus, for its documents' lengths"
    )
    parser.add_argument("--peer", help="a script; see above")
    parser.add_argument("--packed_peer", help="a script; see above")
    parser.add_argument("--fit", type=int, default=12, help="optimizer steps of `fit` to time; 0 for none")
    parser.add_argument("--config", default="configs/cpt.yaml", help="of `fit`")
    parser.add_argument("--tokenizer", type=Path, default=Path("models/tiny-taigi"), help="for `fit`")
    parser.add_argument("--output", type=Path, default=Path("qlora_step"), help="without an ending")
    parser.add_argument("--resume", action="store_true", help="keep what --output.json holds; see above")
    parser.add_argument(
        "--seconds", type=float, default=3600, help="for everything; later parts are left out"
    )
    return parser.parse_args()


class Session:
    """Processes run one after the other, their rows, and the table of these."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.end = time.monotonic() + args.seconds
        self.rows: list[Row] = []
        if args.resume:
            self.rows = json.loads(args.output.with_suffix(".json").read_text(encoding="utf-8"))
        self.points = [str(HERE / "qlora_points.py"), "--corpus", str(args.corpus)]
        self.points += ["--tokenizer", str(args.tokenizer)]

    def run(self, name: str, command: list[str], limit: float) -> list[Row]:
        """Run one process and keep its RESULT lines, tagged with a name; its whole output goes to a file."""
        if any(row["process"] == name for row in self.rows):
            return []
        limit = min(limit, self.end - time.monotonic())
        if limit < 20:
            print(f"{name}: no time left", flush=True)
            return []
        started = time.monotonic()
        log = self.args.output.with_name(f"{self.args.output.name}.{name}.log")
        with log.open("w", encoding="utf-8") as file:
            try:
                code = subprocess.run(
                    [sys.executable, *command],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=limit,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                code = 124
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [json.loads(line[7:]) | {"process": name} for line in lines if line.startswith("RESULT ")]
        self.rows += found
        print(f"{name}: {len(found)} rows, exit {code}, {time.monotonic() - started:.0f} s", flush=True)
        for line in lines if code or not found else []:
            if line.startswith("FAILED") or line is lines[-1]:
                print(f"  {line[:300]}", flush=True)
        self.write()
        return found

    def write(self) -> None:
        """Write the table and the rows, as far as they have come."""
        self.args.output.with_suffix(".json").write_text(json.dumps(self.rows, indent=1), encoding="utf-8")
        self.args.output.with_suffix(".md").write_text(table(self.rows), encoding="utf-8")

    # ---- the processes ------------------------------------------------------------------------------

    def ours(self, name: str, points: list[str], options: Sequence[str] = (), limit: float = 130) -> None:
        """Run points; one named as a peer's checkpointing gets that peer's memory, and the first is profiled."""
        bounded = [f"{p}:limit={self.size(p)}" if p in CHECKPOINTING else p for p in points]
        bounded[0] += ",profile=1"
        self.run(name, [*self.points, *options, *bounded], limit)

    def peer(self, name: str, kind: str, limit: float = 120) -> None:
        if self.args.peer and not self.peers(kind):
            command = [
                self.args.peer,
                "--model",
                str(self.args.model),
                "--variant",
                "unsloth",
                "--ckpt",
                kind,
            ]
            self.run(name, command, limit)

    def size(self, kind: str) -> float:
        """GiB that this project's point may take beside a peer's: the peer's own reserved peak."""
        return min((row["peak_res"] for row in self.peers(kind)), default=SIZES[kind])

    def peers(self, kind: str) -> list[Row]:
        """What a peer did on rows."""
        return [row for row in self.rows if row.get("ckpt") == kind and "data" not in row]

    def packed_peer(self) -> None:
        if self.args.packed_peer:
            folders = ["--model", str(self.args.model), "--corpus", str(self.args.corpus)]
            self.run("peer-packed", [self.args.packed_peer, *folders], 170)  # it compiles

    def fit(self) -> None:
        """Time the real command at the budget that fills the card."""
        from random_base import with_other_tokenizer

        args = self.args
        if not args.fit or any(row["process"] == "fit" for row in self.rows):
            return
        base, out = args.model.with_name(args.model.name + "-fit"), args.output.with_name("fit")
        with_other_tokenizer(args.model, args.tokenizer, base)
        command = ["-m", "taigi_lightning", "fit", "--config", args.config, "--model.base", str(base)]
        command += ["--data.init_args.data_dir", str(args.corpus), "--trainer.default_root_dir", str(out)]
        command += [
            "--trainer.max_steps",
            str(args.fit),
            "--trainer.logger",
            "null",
            "--export.merge",
            "false",
        ]
        command += ["--trainer.limit_val_batches", "0", "--trainer.num_sanity_val_steps", "0"]
        self.run("fit", command, 150)
        logs = sorted(out.glob("logs/**/metrics.csv"), key=lambda path: path.stat().st_mtime)
        if not logs:
            return
        with logs[-1].open(encoding="utf-8") as file:
            steps = [row for row in csv.DictReader(file) if row.get("train/tokens_per_second")]
        speeds = [float(row["train/tokens_per_second"]) for row in steps]
        self.rows.append(
            {
                "process": "fit", "variant": "fit", "name": "fit", "steps": speeds,
                "tok_s": round(statistics.median(speeds[2:] or speeds)),
                "peak_res": round(max(float(row.get("train/memory_gib") or 0) for row in steps), 2),
                "data_wait": statistics.median(float(row["train/data_wait"]) for row in steps),
                "loss": [round(float(row["train/loss"]), 3) for row in steps],
            }
        )  # fmt: skip
        self.write()


# ---- the table ------------------------------------------------------------------------------------


def cell(rows: list[Row], key: str = "tok_s") -> tuple[str, float]:
    """All processes' figures, and their median."""
    values = [row[key] for row in rows]
    return " ; ".join(f"{value:,}" for value in values), statistics.median(values) if values else 0.0


def peaks(rows: list[Row]) -> str:
    if not rows:
        return ""
    return f"{max(row.get('peak_alloc', 0) for row in rows):.2f} / {max(row['peak_res'] for row in rows):.2f}"


def table(rows: list[Row]) -> str:
    """The one table, as Markdown, of the rows there are."""
    ours = [row for row in rows if row.get("variant") == "taigi-lightning"]
    card = next((row["card"] for row in ours), "")
    lines = [
        f"{card}; GiB are PyTorch's peaks, allocated / reserved; semicolons part processes, ratios are of medians.",
        "", "| point | limit, GiB | peer, tokens/s | GiB | ours, tokens/s | GiB | layers kept, unpacked | ratio |",
        "|-|-|-|-|-|-|-|-|",
    ]  # fmt: skip
    for kind, words in CHECKPOINTING.items():
        theirs = [row for row in rows if row.get("ckpt") == kind and "data" not in row]
        mine = [row for row in ours if row["name"] == kind]
        (their_text, their_speed), (text, speed) = cell(theirs), cell(mine)
        ratio = f"{speed / their_speed:.3f}" if speed and their_speed else ""
        limit = " ; ".join(f"{row['limit']}" for row in mine)
        kept = " ; ".join(f"{row['kept_layers']}, {row['unpacked']}" for row in mine)
        lines.append(
            f"| peer's checkpointing {words} | {limit} | {their_text} | {peaks(theirs)} | {text} | {peaks(mine)} "
            f"| {kept} | {ratio} |"
        )
    for row in ours:
        if row["name"] not in CHECKPOINTING and row["data"] in ("rows", "corpus"):
            kept = f"{row['kept_layers']}, {row['unpacked']}"
            limit = row["limit"] or "the card"
            words = f"{row['name']}, budget {row['budget']}"
            lines.append(f"| {words} | {limit} | | | {row['tok_s']:,} | {peaks([row])} | {kept} | |")
    bare = [row for row in ours if row["data"] == "corpus"]
    for row in rows:
        if row.get("variant") == "fit":
            ratio = f"{row['tok_s'] / bare[0]['tok_s']:.3f} of bare" if bare else ""
            lines.append(
                f"| the same through `fit` | the card | | | {row['tok_s']:,} | {peaks([row])} | | {ratio} |"
            )
    documents = [row for row in rows if row.get("data") in ("packed", "padded")]
    if documents:
        mine = [row for row in documents if row in ours]
        lines += ["", "| documents | useful tokens/s | padding | GiB | ours / this |", "|-|-|-|-|-|"]
        best = max((row["useful_tok_s"] for row in mine), default=0)
        for row in documents:
            ratio = f"{best / row['useful_tok_s']:.2f}"
            padding = f"{row['padding']:.1%}" if "padding" in row else ""
            name = f"{row['variant']}, {row['data']}" + (
                f", limit {row['limit']}" if row.get("limit") else ""
            )
            lines.append(f"| {name} | {row['useful_tok_s']:,} | {padding} | {peaks([row])} | {ratio} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    args = parse_arguments()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    session = Session(args)
    written = (args.model / "config.json").is_file()
    write = [] if written else ["--write", str(args.model)]
    others = ["least:budget=0,limit=11.5", "documents:data=packed", "fit's blocks:data=corpus"]
    steps: list[Callable[[], object]] = [
        lambda: session.ours(
            "ours-1", [*CHECKPOINTING, *others, "padded:path=peft,data=padded"], write, limit=180
        ),
        session.packed_peer,
        session.fit,
        lambda: session.peer("peer-none", "none"),
        lambda: session.peer("peer-offload", "offload"),
        lambda: session.peer("peer-all", "all"),
        lambda: session.ours("ours-2", [*CHECKPOINTING], limit=120),
    ]
    for step in steps:
        step()
    print(table(session.rows))


if __name__ == "__main__":
    main()
