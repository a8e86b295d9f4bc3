"""Programs that come with a model: none runs, nothing is asked, whatever the command."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.model.base_model import load_base_model, load_tokenizer
from taigi_lightning.model.text_model import text_model_class
from taigi_lightning.training.module import CausalLMModule
from tests.warm_python import WarmPython
from tests.working_folder import TEXT, lay_out

ROOT = Path(__file__).parents[3]
PROGRAM = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, ProcessorMixin
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
OwnTokenizer, OwnProcessor = LlamaTokenizer, ProcessorMixin
"""
MODEL_CODE = {
    "AutoConfig": "own.OwnConfig",
    "AutoModelForCausalLM": "own.OwnModel",
    "AutoModel": "own.OwnModel",
}
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "model": {"config.json": {"model_type": "own", "auto_map": MODEL_CODE}},
    "tokenizer": {
        "tokenizer_config.json": {
            "tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}
        }
    },
    "old tokenizer": {"tokenizer_config.json": {"auto_map": ["own.OwnTokenizer", None]}},
}  # fmt: skip


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    """Makes the small base a folder whose model or tokenizer is a program; what that leaves is `tmp_path / ran`."""

    def make(kind: str) -> Path:
        folder = tmp_path / "program"
        shutil.copytree(ROOT / "models" / "tiny-taigi", folder)
        (folder / "own.py").write_text(PROGRAM.format(mark=str(tmp_path / "ran")))
        for name, more in CHANGES[kind].items():
            settings = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(settings | more))
        return folder

    return make


COMMANDS = [
    "fit --config configs/cpt.yaml --config configs/tiny.yaml --model.base {}",
    "validate --config configs/cpt.yaml --config configs/tiny.yaml --model.base {}",
    "predict --model.base {} --model.adapter null --data.questions questions.csv",
    "compare questions.csv '{{base: {}}}'",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", CHANGES)
def test_no_command_runs_them_or_asks(
    kind: str, command: str, program: Callable[[str], Path], tmp_path: Path, warm_python: WarmPython
) -> None:
    folder, home = program(kind), tmp_path / "home"
    home.mkdir()
    lay_out(home, folder, [f"{TEXT}{n}" for n in range(8)], held_out=2)
    head = "ID,文章,問題,選項1,選項2,選項3,選項4,正確答案\n"
    (home / "questions.csv").write_text(head + "1,阿明去市仔。,去佗位？,市仔,厝,海,山,1\n")
    (tmp_path / "typed").write_text("y\n" * 9)
    with (tmp_path / "typed").open() as typed:
        done = subprocess.run(
            [warm_python.executable, "-m", "taigi_lightning", *shlex.split(command.format("models/base"))],
            cwd=home, stdin=typed, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert os.lseek(typed.fileno(), 0, os.SEEK_CUR) == 0, "standard input was read"
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert "wants to run a program that comes with it (own.Own" in said
    assert "models/base" in said
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", CHANGES)
def test_nor_does_the_library(kind: str, program: Callable[[str], Path], tmp_path: Path) -> None:
    base = str(program(kind))
    cpu = torch.device("cpu")
    ways: list[Callable[[], Any]] = [lambda: load_tokenizer(base)]
    if kind == "model":
        ways += [
            lambda: text_model_class(base),
            lambda: CausalLMModule(base),
            lambda: load_base_model(base, quantization="none", compute_dtype=torch.float32, device=cpu),
        ]
    for way in ways:
        with pytest.raises(InputError, match=r"wants to run a program that comes with it \(own\.Own"):
            way()
    assert not (tmp_path / "ran").exists()


def test_a_class_that_transformers_has_is_used_instead(
    program: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = program("model")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "llama"}))  # as Phi-3's was
    model = load_base_model(
        str(folder), quantization="none", compute_dtype=torch.float32, device=torch.device("cpu")
    )
    assert type(model).__module__.startswith("transformers.models.llama")
    assert not (tmp_path / "ran").exists()


def test_a_data_sets_script_is_not_run(tmp_path: Path, warm_python: WarmPython) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "set.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    done = subprocess.run(
        [warm_python.executable, "-m", "corpus_tools", "clean", f"hf://{tmp_path / 'set'}"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "ran").exists()
