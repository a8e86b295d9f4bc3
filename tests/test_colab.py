"""Every cell of the notebook, on a CPU with the small base: a first run, and one after the runtime was lost."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.warm_python import WarmPython
from tests.working_folder import link

ROOT = Path(__file__).parent.parent
# What turns the notebook's commands into ones that a CPU finishes; its own options come after, and win.
TINY = "--config configs/tiny.yaml --data.max_length 128 --trainer.val_check_interval 100"
SMALL = {
    "corpus_tools sample": "corpus_tools sample --articles 20 --questions 120 --test_questions 12",
    "--config configs/cpt.yaml": f"--config configs/cpt.yaml {TINY}",
    "--config configs/sft.yaml": f"--config configs/sft.yaml {TINY}",
}


def cells() -> list[str]:
    """The sources of the code cells."""
    notebook = json.loads((ROOT / "colab.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


class Runtime:
    """A machine that Colab lent: a folder of its own, in which lines of Python and of the shell are run."""

    def __init__(self, folder: Path, drive: Path, python: WarmPython) -> None:
        self.folder = folder
        self.path = os.pathsep.join((str(Path(python.executable).parent), os.environ["PATH"]))
        self.names: dict[str, Any] = {"Path": Path, "HOME": drive}
        (folder / "models").mkdir(parents=True)
        (folder / "data").mkdir()
        for name in ("configs", "models/tiny-taigi"):
            link(folder / name, ROOT / name)
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
        for part, smaller in SMALL.items():
            command = command.replace(part, smaller)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": self.path}
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


@pytest.mark.posix("Colab's shell")
def test_the_cells_go_on_after_a_lost_runtime(tmp_path: Path, warm_python: WarmPython) -> None:
    settings, drive, install, data, cpt, sft, look = cells()
    assert 'drive.mount("/content/drive")' in drive
    assert re.search(r"pip install -q -e taigi-lightning", install)
    home = tmp_path / "drive"
    home.mkdir()
    first = Runtime(tmp_path / "first", home, warm_python)
    for cell in (settings, data, often(cpt)):
        first.run(cell, BASE="models/tiny-taigi", CPT_STEPS=2)
    # It is written at the very end: the runtime was lost before.
    shutil.rmtree(home / "cpt_model" / "adapter")
    second = Runtime(tmp_path / "second", home, warm_python)
    for cell in (settings, data, often(cpt), often(sft), look):
        second.run(cell, BASE="models/tiny-taigi", CPT_STEPS=3, SFT_STEPS=2)
    starts = json.loads((home / "cpt_model" / "run.json").read_text(encoding="utf-8"))["starts"]
    assert [start["step"] for start in starts] == [0, 2], (
        "it goes on where the first runtime's checkpoint was"
    )
    answers = (home / "output-CPT&SFT_V2.csv").read_text(encoding="utf-8").splitlines()
    assert answers[0] == "ID,Answer"
    assert len(answers) == 13


def often(cell: str) -> str:
    """A cell whose runs save a checkpoint at every step."""
    return cell.replace("every_n_train_steps 20", "every_n_train_steps 1")
