"""Completion in a real bash on a pseudo-terminal: what is typed, a TAB, and what the line then says."""

import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.warm_python import WarmPython

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.posix("bash on a pseudo-terminal"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash"),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory, warm_python: WarmPython) -> list[Path]:
    """The scripts of both commands, as a user would write them."""
    folder = tmp_path_factory.mktemp("completion")
    for package in ("taigi_lightning", "corpus_tools"):
        done = subprocess.run(
            [warm_python.executable, "-m", package, "--print_completion", "shtab-bash"],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (folder / f"{package}.sh").write_text(done.stdout)
    return sorted(folder.glob("*.sh"))


@contextmanager
def bash(scripts: list[Path]) -> Iterator[int]:
    """An interactive bash that has read the scripts; yields its terminal."""
    import pty  # no module of Windows

    process, terminal = pty.fork()
    if process == 0:
        os.execvpe(
            "bash", ["bash", "--norc", "--noprofile", "-i"], {**os.environ, "PS1": "> ", "TERM": "dumb"}
        )
    try:
        typed(terminal, "bind 'set enable-bracketed-paste off'; bind 'set completion-query-items 0'\n")
        for script in scripts:
            typed(terminal, f"source {script}\n")
        typed(terminal, f"cd {ROOT}; echo ready-$((40 + 2))\n", until="ready-42")
        yield terminal
    finally:
        os.close(terminal)
        os.waitpid(process, 0)


def typed(terminal: int, keys: str, until: str | None = None, seconds: float = 60) -> str:
    """Type, and read what the terminal shows until the words come, or until it has been silent."""
    os.write(terminal, keys.encode())
    shown, end = "", time.monotonic() + seconds
    while time.monotonic() < end and not (until and re.search(until, shown)):
        if not select.select([terminal], [], [], 1.0 if until is None else seconds)[0]:
            break
        shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("taigi-lightning pla", r"taigi-lightning plan "),
        ("taigi-lightning fit --model.lora.lora_dr", r"--model\.lora\.lora_dropout "),
        ("taigi-lightning fit --model.quantization n\t", r"nf4\s+none"),
        ("taigi-lightning fit --config configs/sf", r"configs/sft\.yaml "),
        ("taigi-lightning plan --gpu_m", r"--gpu_memory "),
        ("taigi-lightning merge --onto deq", r"--onto dequantized "),
        ("corpus-tools cle", r"corpus-tools clean "),
        ("corpus-tools clean data --deco", r"--decontaminate "),
    ],
)
def test_tab_completes(scripts: list[Path], line: str, completed: str) -> None:
    with bash(scripts) as terminal:
        assert re.search(completed, typed(terminal, f"{line}\t", until=completed))


def test_bash_finds_nothing_to_complain_about(scripts: list[Path]) -> None:
    with bash(scripts) as terminal:
        shown = typed(terminal, "taigi-lightning fit --trainer.max_ste\t", until="max_steps ")
    assert "not found" not in shown
    assert "error" not in shown
