"""The training step of each family's shape beside a peer's, processes in turn, on one CUDA GPU.

python tests/benchmarks/families.py --peer ../step.py --families Qwen3-8B Gemma-3-12B

Of each family a 4-bit base with random weights and 16 layers is made and written. Then take turns: this project on the
whole card, the peer without and with checkpointing, and this project again, each time under the peer's own reserved
peak. The peer is a script that this project does not contain: it is called with `--model FOLDER --variant unsloth
--ckpt none|all --dropout 0.05` and prints lines `RESULT {"ckpt": ..., "tok_s": ..., "peak_res": ...}`. Without it only
this project is measured. Tables are written after every process to --output.md, rows to --output.json.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from qlora_step import Session

Row = dict[str, Any]
WORDS = {"none": "nothing recomputed", "all": "checkpointing"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=["Qwen3-8B", "Gemma-3-12B", "Llama-3.1-8B"])
    parser.add_argument("--peer", help="a script; see above")
    parser.add_argument("--work", type=Path, default=Path("families-bases"), help="where bases are written")
    parser.add_argument("--output", type=Path, default=Path("families"), help="without an ending")
    parser.add_argument("--points", nargs="*", default=["whole", "least:budget=0"], help="of the first turn")
    parser.add_argument(
        "--seconds", type=float, default=3600, help="for everything; later parts are left out"
    )
    parser.add_argument("--resume", action="store_true", help="keep what --output.json holds")
    return parser.parse_args()


class Turns(Session):
    """One family's processes after another's."""

    def __init__(self, args: argparse.Namespace) -> None:
        args.corpus, args.tokenizer = Path(), Path()  # rows of random tokens alone
        super().__init__(args)

    def family(self, name: str) -> None:
        """Every turn of one family."""
        base = self.args.work / name
        options = ["--family", name] if self.args.peer is None else ["--family", name, "--write", str(base)]
        self.run(f"{name}-ours-1", [*self.points, *options, *self.args.points], 120)
        if self.args.peer is None:
            return
        peaks: dict[str, float] = {}
        for kind in WORDS:
            command = [self.args.peer, "--model", str(base), "--variant", "unsloth", "--ckpt", kind]
            rows = self.run(f"{name}-peer-{kind}", [*command, "--dropout", "0.05"], 170)
            if rows:
                peaks[kind] = rows[-1]["peak_res"]
        points = [f"{kind}:limit={peak}" for kind, peak in peaks.items()]
        if points:
            self.run(f"{name}-ours-2", [*self.points, "--model", str(base), *points], 120)
        shutil.rmtree(base, ignore_errors=True)

    def write(self) -> None:
        """Write the table and the rows, as far as they have come."""
        self.args.output.with_suffix(".json").write_text(json.dumps(self.rows, indent=1), encoding="utf-8")
        self.args.output.with_suffix(".md").write_text(
            family_table(self.rows, self.args.families), encoding="utf-8"
        )


def family_table(rows: list[Row], families: list[str]) -> str:
    """As Markdown: tokens a second at GiB reserved, and the ratios at equal memory."""
    lines = ["| shape, 16 layers | peer | ours at that memory | ratio | ours otherwise |", "|-|-|-|-|-|"]
    for family in families:
        mine = [r for r in rows if r["process"].startswith(f"{family}-ours")]
        others = " ; ".join(cell(r) for r in mine if r["name"] not in WORDS)
        for kind, words in WORDS.items():
            theirs = [r for r in rows if r["process"] == f"{family}-peer-{kind}"]
            same = [r for r in mine if r["name"] == kind]
            ratio = ""
            if theirs and same:
                speeds = [statistics.median(r["tok_s"] for r in side) for side in (same, theirs)]
                ratio = f"{speeds[0] / speeds[1]:.3f}"
            cells = [" ; ".join(map(cell, side)) for side in (theirs, same)]
            lines.append(f"| {family}, {words} | {cells[0]} | {cells[1]} | {ratio} | {others} |")
            others = ""
    return "\n".join(lines) + "\n"


def cell(row: Row) -> str:
    return f"{row['tok_s']:,} @ {row['peak_res']:.1f}"


def main() -> None:
    args = parse_arguments()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    turns = Turns(args)
    for name in args.families:
        started = time.monotonic()
        turns.family(name)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    print(family_table(turns.rows, args.families))


if __name__ == "__main__":
    main()
