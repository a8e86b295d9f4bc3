"""The training step of each family's shape beside a peer's, on one CUDA GPU.

python tests/benchmarks/families.py --peer ../step.py --families Qwen3-8B Gemma-3-12B --matmul bf16 int8

Of each family a 4-bit base with random weights and 16 layers is made and written. Then every process of a family is
started at once: this project and the peer, with everything kept and with checkpointing, this project under the peer's
own reserved peak as PEAKS has it. Once all have warmed up they time their steps in turn, one process at a time, twice.
The peer is a script that this project does not contain: it is called with `--model FOLDER --variant unsloth --ckpt
none|all --dropout 0.05 --gate FOLDER --turns 2 --name NAME`, calls `turns.wait_for_turn`, and prints a line `RESULT
{"tok_s": ..., "peak_res": ...}` a turn. Without it only this project is measured. The table goes to --output.md too.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from turns import call_in_turn

HERE = Path(__file__).parent
WORDS = {"none": "nothing recomputed", "all": "checkpointing"}
# GiB that the peer reserved: what this project may take beside it.
PEAKS = {
    "Qwen3-8B": {"none": 24.4, "all": 8.0},
    "Gemma-3-12B": {"none": 35.2, "all": 8.3},
    "Llama-3.1-8B": {"none": 24.5, "all": 7.5},
}
Row = dict[str, Any]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=list(PEAKS))
    parser.add_argument("--kinds", nargs="+", default=list(WORDS), help="of checkpointing: none, all")
    parser.add_argument(
        "--matmul", nargs="+", default=["bf16"], help="what our products are in, each by itself"
    )
    parser.add_argument("--peer", help="a script; see above")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("families-work"), help="for bases and logs")
    parser.add_argument("--output", type=Path, default=Path("families"), help="without an ending")
    parser.add_argument("--patience", type=float, default=240, help="seconds that a family's processes get")
    return parser.parse_args()


def commands(family: str, base: Path, args: argparse.Namespace) -> dict[str, list[str]]:
    """Of each process, by its name."""
    found = {}
    for kind in args.kinds:
        for who in (*args.matmul, "peer") if args.peer else args.matmul:
            name = f"{who}-{kind}"
            rest = ["--model", str(base), "--gate", str(base), "--turns", str(args.turns)]
            if who != "peer":
                point = f"{name}:limit={PEAKS[family][kind]},matmul={who}"
                found[name] = [str(HERE / "qlora_points.py"), point, *rest, "--steps", "9"]
            else:
                found[name] = [args.peer, "--variant", "unsloth", "--ckpt", kind, "--name", name, *rest]
                found[name] += ["--dropout", "0.05", "--steps", "9"]
    return found


def measure(family: str, args: argparse.Namespace) -> list[Row]:
    """All rows of a family, tagged with the processes' names."""
    base = args.work / family
    shutil.rmtree(base, ignore_errors=True)
    make = "import sys; from pathlib import Path; from random_base import *"
    make += f"; write_base(random_base(FAMILIES[{family!r}]()), Path({str(base)!r}))"
    subprocess.run([sys.executable, "-c", make], cwd=HERE, check=True, stderr=subprocess.DEVNULL)
    processes, logs = {}, {}
    for name, command in commands(family, base, args).items():
        logs[name] = args.output.with_name(f"{args.output.name}.{family}.{name}.log")
        with logs[name].open("w", encoding="utf-8") as file:
            processes[name] = subprocess.Popen(
                [sys.executable, *command], stdout=file, stderr=subprocess.STDOUT
            )
    call_in_turn(base, list(processes), args.turns, lambda n: processes[n].poll() is None, args.patience)
    rows = []
    for name, process in processes.items():
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        lines = logs[name].read_text(encoding="utf-8", errors="replace").splitlines()
        found = [json.loads(line[7:]) | {"process": name} for line in lines if line.startswith("RESULT ")]
        print(f"{family} {name}: {len(found)} turns", *([] if found else lines[-2:]), flush=True)
        rows += found
    shutil.rmtree(base, ignore_errors=True)
    return rows


def family_lines(family: str, rows: list[Row], matmuls: list[str]) -> list[str]:
    """Of the table: tokens a second at GiB reserved, and the ratio of medians."""
    lines = []
    for kind, words in WORDS.items():
        for matmul in matmuls:
            sides = [[r for r in rows if r["process"] == f"{who}-{kind}"] for who in (matmul, "peer")]
            if any(sides):
                cells = [" ; ".join(f"{r['tok_s']:,} @ {r['peak_res']:.1f}" for r in side) for side in sides]
                medians = [statistics.median(r["tok_s"] for r in side) for side in sides if side]
                ratio = f"{medians[0] / medians[1]:.3f}" if len(medians) == 2 else ""
                lines.append(f"| {family}, {words}, {matmul} | {cells[0]} | {cells[1]} | {ratio} |")
    return lines


def main() -> None:
    args = parse_arguments()
    args.work, args.output = args.work.resolve(), args.output.resolve()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    lines = ["| shape, 16 layers | ours, tokens/s @ GiB | peer | ratio |", "|-|-|-|-|"]
    for family in args.families:
        started = time.monotonic()
        lines += family_lines(family, measure(family, args), args.matmul)
        args.output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(*lines[2:], f"{family}: {time.monotonic() - started:.0f} s", sep="\n", flush=True)


if __name__ == "__main__":
    main()
