"""Corpus cleaning against peers, in one run on one machine: `python tests/benchmarks/corpus_speed.py --peers DIR`.

DIR (or $CORPUS_BENCH_PEERS) holds `gen.py` (writes the input) and the peers' scripts `v_*.py`; it is read at
run time only. Without it, or with --source, the input is any folder of raw files and no peer runs.
Prints, as the median of some rounds, seconds, MB/s, CPU seconds and the peak memory of all processes together, and how
many times slower than this project with two processes each is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple


class Measurement(NamedTuple):
    """Wall and CPU seconds, and the peak of the resident memory of the process and its children, in MB."""

    seconds: float
    cpu: float
    peak_mb: float


def _sample(session: int, cpu: dict[str, int]) -> float:
    """Resident memory of a session's processes now, MB; in `cpu`, the clock ticks each of them has used so far."""
    total = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(fields[3]) == session:
                    cpu[entry.name] = int(fields[11]) + int(fields[12])
                    shared_out = (entry / "smaps_rollup").read_text().split("Pss:", 1)[1].split()[0]
                    total += int(shared_out)
            except (OSError, IndexError, ValueError):
                continue  # the process has ended
    return total / 1024


def measure(command: list[str], cwd: Path) -> Measurement:
    """Run a command to its end and measure it."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=cwd, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    peak, cpu = 0.0, dict[str, int]()
    while process.poll() is None:
        peak = max(peak, _sample(process.pid, cpu))
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    if process.returncode:
        error = process.stderr.read().decode(errors="replace") if process.stderr else ""
        raise SystemExit(f"{' '.join(command)} failed:\n{error[-2000:]}")
    return Measurement(seconds, sum(cpu.values()) / os.sysconf("SC_CLK_TCK"), peak)


def _medians(found: list[Measurement]) -> Measurement:
    return Measurement(*map(statistics.median, zip(*found, strict=True)))


def main() -> None:
    """Measure the project and the peers there are, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, default=os.environ.get("CORPUS_BENCH_PEERS"))
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peers installed")
    parser.add_argument("--source", type=Path, help="raw files; default: written by gen.py")
    parser.add_argument("--mb", type=int, default=220)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = options.source or work / "source"
        if options.source is None:
            if options.peers is None:
                parser.error("give --source, or --peers with gen.py in it")
            subprocess.run(
                [sys.executable, str(Path(options.peers) / "gen.py"), str(source), "--mb", str(options.mb)],
                check=True,
            )
        megabytes = sum(path.stat().st_size for path in source.rglob("*") if path.is_file()) / 1e6
        clean = [sys.executable, "-m", "corpus_tools", "clean", str(source), "--output_dir"]
        commands = {
            "corpus_tools, 1 process": [*clean, str(work / "one"), "--workers", "1"],
            "corpus_tools, 2 processes": [*clean, str(work / "two"), "--workers", "2"],
        }
        for name, arguments in {"datatrove": ["2"], "pandas": []}.items() if options.peers else ():
            script = Path(options.peers).resolve() / f"v_{name}.py"
            if script.exists():
                peer = [options.python, str(script), str(source.resolve()), str(work / name), *arguments]
                commands[f"{name} {' '.join(arguments)}".strip()] = peer
        rounds: dict[str, list[Measurement]] = {name: [] for name in commands}
        for _ in range(options.rounds):  # in turn, so that a busy moment strikes all
            for name, command in commands.items():
                rounds[name].append(measure(command, root))
    print(f"| {megabytes:.0f} MB | s (least) | MB/s | CPU s | peak MB | times |\n|-|-|-|-|-|-|")
    ours = _medians(rounds["corpus_tools, 2 processes"])
    for name, found in rounds.items():
        m, least = _medians(found), min(found).seconds
        print(
            f"| {name} | {m.seconds:.2f} ({least:.2f}) | {megabytes / m.seconds:.1f} | {m.cpu:.1f} | {m.peak_mb:.0f} "
            f"| {m.seconds / ours.seconds:.1f} |"
        )


if __name__ == "__main__":
    main()
