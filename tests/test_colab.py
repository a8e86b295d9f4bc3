"""Every cell of the notebook, on a CPU with the small base: a first run, and one after the runtime was lost."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# What turns the notebook's commands into ones that a CPU finishes; nothing else about them changes.
TINY = {
    "corpus_tools sample": "--articles 20 --questions 120 --test_questions 12",
    "fit ": "--config configs/tiny.yaml --data.max_length 256 --trainer.val_check_interval 100",
}


def cells() -> list[str]:
    """The sources of the code cells."""
    notebook = json.loads((ROOT / "colab.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


class Runtime:
    """A machine that Colab lent: a folder of its own, in which lines of Python and of the shell are run."""

    def __init__(self, folder: Path, drive: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {"Path": Path, "HOME": drive}
        (folder / "models").mkdir(parents=True)
        (folder / "data").mkdir()
        for name in ("configs", "models/tiny-taigi"):
            (folder / name).symlink_to(ROOT / name)
        self.printed = ""

    def run(self, cell: str, **settings: Any) -> None:
        """Run a cell as IPython would: `!` lines in the shell, with {names} filled in, the others as Python."""
        python = [line for line in cell.splitlines() if not line.startswith(("!", "%"))]
        exec("\n".join(python), self.names)
        self.names |= settings
        for line in cell.splitlines():
            if line.startswith("!"):
                self.shell(re.sub(r"\{(\w+)\}", lambda name: str(self.names[name[1]]), line[1:]))

    def shell(self, command: str) -> None:
        for part, more in TINY.items():
            command += f" {more}" if part in command else ""
        bin = Path(sys.executable).parent
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"{bin}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        self.printed += done.stdout + done.stderr


def test_the_cells_go_on_after_a_lost_runtime(tmp_path: Path) -> None:
    settings, drive, install, data, cpt, sft, look = cells()
    assert 'drive.mount("/content/drive")' in drive
    assert re.search(r"pip install -q -e taigi-lightning", install)
    home = tmp_path / "drive"
    home.mkdir()
    first = Runtime(tmp_path / "first", home)
    for cell in (settings, data, often(cpt)):
        first.run(cell, BASE="models/tiny-taigi", CPT_STEPS=2)
    shutil.rmtree(
        home / "cpt_model" / "adapter"
    )  # it is written at the very end: the runtime was lost before
    second = Runtime(tmp_path / "second", home)
    for cell in (settings, data, often(cpt), often(sft), look):
        second.run(cell, BASE="models/tiny-taigi", CPT_STEPS=3, SFT_STEPS=2)
    assert second.names["more"] == ""
    assert "step=2" in second.printed
    answers = (home / "output-CPT&SFT_V2.csv").read_text(encoding="utf-8").splitlines()
    assert answers[0] == "ID,Answer"
    assert len(answers) == 13


def often(cell: str) -> str:
    """A cell whose runs save a checkpoint at every step."""
    return cell.replace("every_n_train_steps 20", "every_n_train_steps 1")
