"""Commands that are plain functions: parsed over outlines, run over the real packages."""

import subprocess

import pytest

from taigi_lightning.cli.commands import TOOLS
from tests.warm_python import WarmPython

ARGUMENTS = {
    "merge": ["--base", "models/tiny-taigi", "--output_dir", "nowhere"],
    "score": ["predictions.csv", "answers.csv"],
    "compare": ["questions.csv", "{base: models/tiny-taigi}"],
    "harness": ["questions.csv", "nowhere"],
    "generate": ["models/tiny-taigi", "--prompt", "a"],
    "card": ["nowhere"],
    "upload": ["nowhere", "owner/name"],
    "demo": [],
    "demo-real": [],
}
# What a preflight left in this package's modules that only an outline can have made.
CODE = """
import sys
from taigi_lightning.cli.outlines import Outline
from taigi_lightning.cli.preflight import preflight

command, *rest = sys.argv[1:]
assert preflight(command, rest) is None
mine = {name: module for name, module in sys.modules.items() if name.startswith("taigi_lightning")}
print(*[
    f"{name}.{key}"
    for name, module in mine.items()
    for key, value in vars(module).items()
    if isinstance(value, Outline) or "_late.<locals>" in getattr(value, "__qualname__", "")
])
"""


@pytest.mark.parametrize("command", TOOLS)
def test_nothing_of_a_preflight_is_left_for_the_real_run(command: str, warm_python: WarmPython) -> None:
    done = subprocess.run(
        [warm_python.executable, "-c", CODE, command, *ARGUMENTS[command]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
