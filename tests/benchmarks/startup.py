"""Seconds until help, a plan, a refusal and the first line of `fit` are there: medians, each in a process of its own.

    python tests/benchmarks/startup.py [REPEATS]

Runs in the repository's root with the tiny base in models/tiny-taigi; nothing is trained and nothing written.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.working_folder import TEXT, lay_out  # noqa: E402 - of the repository, wherever this is started

CPT = ["fit", "--config", "configs/cpt.yaml", "--config", "configs/tiny.yaml", "--model.base", "models/base"]
COMMANDS = {
    "--help": ["--help"],
    "fit --help": ["fit", "--help"],
    "compare --help": ["compare", "--help"],
    "plan": ["plan", "--config", "configs/cpt.yaml", "--gpu_memory", "16GiB"],
    "a bad value": [*CPT, "--trainer.max_steps", "many"],
    "an unknown option": [*CPT, "--model.lora.rr", "4"],
    "a class that is not there": [*CPT, "--model.optimizer", "torch.optim.Adamm"],
    "a base that is not there": [*CPT, "--model.base", "models/none"],
    "a missing corpus": [*CPT, "--data.data_dir", "data/none"],
    "first line of fit": CPT,
}


def seconds(arguments: list[str], folder: Path) -> float:
    """Seconds to the first line that the command prints; what runs on is stopped."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "taigi_lightning", *arguments],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout
    process.stdout.readline()
    taken = time.perf_counter() - start
    process.kill()
    process.wait()
    return taken


def main() -> None:
    """Print a table."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder, ROOT / "models" / "tiny-taigi", [f"{TEXT}{n}" for n in range(8)], held_out=2)
        for title, arguments in COMMANDS.items():
            times = [seconds(arguments, folder) for _ in range(repeats)]
            print(
                f"{title:<28} {statistics.median(times):6.2f} s  ({min(times):.2f} to {max(times):.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
