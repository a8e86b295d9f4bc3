"""Who imports whom, checked in fresh interpreters."""

import subprocess
import sys

import pytest

from tests.warm_python import WarmPython

MODULES = ["corpus_tools", "corpus_tools.__main__", "corpus_tools.pipeline", "corpus_tools.sample.write"]


def loaded_after(statement: str, python: str = sys.executable) -> set[str]:
    """Top-level packages in sys.modules after a statement ran in an interpreter of its own."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    out = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


@pytest.mark.parametrize("module", MODULES)
def test_corpus_tools_imports_neither_torch_nor_taigi_lightning(module: str) -> None:
    assert not loaded_after(f"import {module}") & {"torch", "taigi_lightning", "lightning", "transformers"}


@pytest.mark.parametrize("module", ["cli.lightning_cli", "demo", "model.merge", "evaluation.scoring"])
def test_taigi_lightning_never_imports_corpus_tools(module: str, warm_python: WarmPython) -> None:
    assert "corpus_tools" not in loaded_after(f"import taigi_lightning.{module}", warm_python.executable)


def test_the_entry_point_stays_light_until_it_knows_the_command() -> None:
    assert not loaded_after("import taigi_lightning.__main__") & {"torch", "lightning", "transformers"}


def test_scoring_needs_no_torch() -> None:
    assert "torch" not in loaded_after("import taigi_lightning.evaluation.scoring")
