"""The whole thread as it would run on Windows, as far as Linux can act it: see windows_like/sitecustomize.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from taigi_lightning.planning.run_files import run_names
from tests.taigi_lightning.architectures.small_bases import gemma3_wrapper, save_base
from tests.taigi_lightning.architectures.small_configs import small_config
from tests.warm_python import WarmPython
from tests.windows_like.scan import illegal_names
from tests.working_folder import ROOT

pytestmark = [
    pytest.mark.posix("acts Windows where it is not"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for what is in use"),
]
HERE = Path(__file__).parent / "windows_like"
FIT = (
    "taigi_lightning", "fit", "--config", "configs/cpt.yaml", "--config", "configs/tiny.yaml", "--data.num_workers=1",
    "--data.max_length=64", "--trainer.val_check_interval=1000",
    "--checkpoint.filename={step}-{train/loss:.2f}", "--checkpoint.every_n_train_steps=2", "--run.overwrite=true",
)  # fmt: skip
PREDICT = (
    "taigi_lightning", "predict", "--config", "configs/predict.yaml", "--config", "configs/tiny.yaml",
    "--model.base=models/tiny-taigi", "--model.adapter=models/cpt_model/adapter", "--excel=true",
)  # fmt: skip


class Windows:
    """A user's folder on it, and commands there."""

    def __init__(self, folder: Path, python: str) -> None:
        self.python = python
        self.folder = folder / "王小明 的檔案"
        self.log, self.close = folder / "refused.log", folder / "close the window"
        self.folder.mkdir()
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (HERE, ROOT))),
            "PYTHONIOENCODING": "cp950",
            "PYTHONUTF8": "0",
            "PYTHONWARNDEFAULTENCODING": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(self.folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "WINDOWS_LIKE_ROOT": str(folder),
            "WINDOWS_LIKE_LOG": str(self.log),
            "WINDOWS_LIKE_CLOSE": str(self.close),
        }

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, "-m", *arguments], cwd=self.folder, env=self.environment, encoding="cp950",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str) -> str:
        """Run a command to its end, after which nothing may have been refused, not even what the command caught."""
        process = self.begin(*arguments)
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == 0, printed[-3000:]
        self.nothing_refused(printed)
        return printed

    def nothing_refused(self, printed: str) -> None:
        refused = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        assert not refused, refused + printed[-3000:]


@pytest.fixture(scope="module")
def windows(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path, warm_python: WarmPython
) -> Windows:
    """A folder in which the corpus is cleaned."""
    windows = Windows(tmp_path_factory.mktemp("windows"), warm_python.executable)
    shutil.copytree(ROOT / "configs", windows.folder / "configs")
    shutil.copytree(tiny_llama_dir, windows.folder / "models" / "tiny-taigi")
    windows.run(
        "corpus_tools", "sample", "data", "--articles", "45", "--questions", "30", "--test_questions", "6"
    )
    for _ in range(2):  # the second replaces what the first wrote
        windows.run("corpus_tools", "clean", "data/IMA-Taiwan", "--workers", "2")
    return windows


# What this project's code would meet on Windows, each in a line that must fail.
REFUSED = """
import os, pathlib, sys
open_file = open("data/open.txt", "w", encoding="utf-8")
pathlib.Path("data/other.txt").touch()
def fails(line):
    try:
        exec(line, {"__name__": "taigi_lightning.x", "pathlib": pathlib, "path": pathlib.Path("data/other.txt")})
    except Exception as error:
        return type(error).__name__
for line in sys.argv[1].splitlines():
    print(fails(line))
"""
LINES = {
    "import fcntl": "ModuleNotFoundError",
    "import os; os.fork()": "AttributeError",
    "import signal; signal.SIGKILL": "AttributeError",
    "pathlib.Path('data/a:b').touch()": "OSError",
    "open('data/a:b', 'w', encoding='utf-8')": "OSError",
    "open('data/nul.txt', 'w', encoding='utf-8')": "OSError",
    "open('data/' + 'x' * 250, 'w', encoding='utf-8')": "FileNotFoundError",
    "pathlib.Path('data/v1.').mkdir()": "OSError",
    "pathlib.Path('data/open.txt').unlink()": "PermissionError",
    "path.replace('data/open.txt')": "PermissionError",
    "path.replace('data')": "PermissionError",
    "path.symlink_to('data/link.txt')": "PermissionError",
    "open('data/new.txt', 'w')": "ValueError",
    "path.read_text()": "EncodingWarning",
    "path.replace('data/moved.txt')": "None",
}


def test_what_windows_refuses_is_refused_here(tmp_path: Path, warm_python: WarmPython) -> None:
    windows = Windows(tmp_path, warm_python.executable)
    (windows.folder / "data").mkdir()
    process = subprocess.run(
        [windows.python, "-c", REFUSED, "\n".join(LINES)], cwd=windows.folder, env=windows.environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert dict(zip(LINES, process.stdout.split(), strict=True)) == LINES


# The places that each command would write to, DEEP in them; no other file that is named is there.
WRITES = (
    "corpus_tools sample DEEP",
    "corpus_tools clean here --output_dir DEEP",
    "taigi_lightning fit --config configs/cpt.yaml --model.base BASE --trainer.default_root_dir DEEP",
    "taigi_lightning predict --config configs/predict.yaml --model.base BASE --trainer.callbacks PredictionWriter "
    "--trainer.callbacks.output DEEP/answers.csv",
    "taigi_lightning merge --output_dir DEEP",
    "taigi_lightning score none.csv none.csv --json DEEP/score.json",
    'taigi_lightning compare none.csv {"a":"none"} --output DEEP',
    "taigi_lightning generate none --prompts none.jsonl --output DEEP/texts.jsonl",
    "taigi_lightning demo --output_dir DEEP",
    "taigi_lightning demo-real --output_dir DEEP",
)


@pytest.mark.parametrize("command", WRITES, ids=lambda command: " ".join(command.split()[:2]))
def test_a_place_that_is_too_deep_is_refused_before_time_is_spent(
    tmp_path: Path, warm_python: WarmPython, command: str
) -> None:
    windows = Windows(tmp_path, warm_python.executable)
    shutil.copytree(ROOT / "configs", windows.folder / "configs")
    (windows.folder / "here").mkdir()
    deep = "x" * (250 - len(str(windows.folder)))
    words = command.replace("DEEP", deep).replace("BASE", str(ROOT / "models" / "tiny-taigi")).split()
    process = windows.begin(*words)
    printed = process.communicate(timeout=100)[0]
    assert process.returncode == 1, printed[-3000:]
    assert "Windows takes 259 in all" in printed, printed[-3000:]
    assert "Give a shorter folder, or switch on long paths (LongPathsEnabled)" in printed
    windows.nothing_refused(printed)


# An adapter that is saved, trained on and saved again in its folder. What writes it is no Python.
ADAPTERS = """
import sys
from pathlib import Path
import safetensors.torch, torch
import sitecustomize
from taigi_lightning.model.adapters import LoraSettings, attach_adapter, load_adapter, save_adapter
from taigi_lightning.model.base_model import load_base_model
write = safetensors.torch.serialize_file
def checked(tensors, path, *more, **named):
    sitecustomize.check_unmapped(path)
    return write(tensors, path, *more, **named)
safetensors.torch.serialize_file = checked
place = {"quantization": "none", "compute_dtype": torch.float32, "device": torch.device("cpu")}
for base in sys.argv[1:]:
    model = attach_adapter(load_base_model(base, **place), LoraSettings(r=4))
    for _ in range(3):
        save_adapter(model, Path(base, "adapter"), base)
        model = load_adapter(load_base_model(base, **place), str(Path(base, "adapter")), trainable=True)
"""


def test_an_adapter_is_trained_on_where_it_lies(tmp_path: Path, warm_python: WarmPython) -> None:
    """Its file is mapped as it is read: it may be neither written nor replaced before the tensors are gone."""
    windows = Windows(tmp_path, warm_python.executable)
    bases = {"gemma3": gemma3_wrapper(), "llama": small_config("llama")}
    folders = [save_base(config, windows.folder / name) for name, config in bases.items()]
    done = subprocess.run(
        [windows.python, "-c", ADAPTERS, *map(str, folders)], cwd=windows.folder, env=windows.environment,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    windows.nothing_refused("")
    names = load_file(folders[0] / "adapter" / "adapter_model.safetensors")
    assert all(".language_model." in name for name in names)


def test_a_corpus_has_the_bytes_that_linux_writes(windows: Windows) -> None:
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    source, target = windows.folder / "data" / "IMA-Taiwan", windows.folder.parent / "linux"
    command = [sys.executable, "-m", "corpus_tools", "clean", str(source), "--output_dir", str(target)]
    subprocess.run([*command, "--workers", "1"], env=here, check=True, capture_output=True)
    names = sorted(path.name for path in target.iterdir() if not path.name.startswith("."))
    assert len(names) >= 7
    for name in names:
        assert (target / name).read_bytes() == (windows.folder / "data/cpt_corpus" / name).read_bytes(), name


def test_the_whole_thread(windows: Windows) -> None:
    models = windows.folder / "models"
    assert "It fits" in windows.run("taigi_lightning", "plan", *FIT[2:-1], "--gpu_memory", "8GB")
    close_the_window_while_it_trains(windows)
    [saved] = models.glob("cpt_model/checkpoints/interrupted-step=*.ckpt")
    steps = int(saved.stem.rpartition("=")[2]) + 2
    resumed = windows.run(*FIT[:-1], f"--trainer.max_steps={steps}", "--ckpt_path=last")
    assert "report.html" in resumed
    assert (models / "cpt_model" / "model.safetensors.index.json").is_file()
    merged = windows.run("taigi_lightning", "merge", "--output_dir=models/again")
    assert "16 bits keep" in merged
    windows.run(*PREDICT)
    answers = "data/1001-question-v3-answers.csv"
    assert "of 6" in windows.run("taigi_lightning", "score", "data/output-CPT&SFT_V2.csv", answers)
    written = [path for path in windows.folder.rglob("*") if "cache" not in path.parts]
    assert not illegal_names(windows.folder)
    run = models / "cpt_model"
    # `fit` has checked its longest path with `.partial` behind it, under which every file is written.
    longest = max(map(len, run_names("{step}-{train/loss:.2f}")))
    assert [path for path in run.rglob("*") if len(str(path.relative_to(run))) > longest] == []
    for path in written:
        if path.suffix in (".html", ".yaml", ".md") or path.name in (
            "run.json",
            "lineage.json",
            "manifest.json",
        ):
            text = path.read_bytes().decode()
            assert "\r" not in text.replace("\r\n", "\r") or path.name == "hparams.yaml", path
    config = yaml.safe_load((models / "cpt_model" / "config.yaml").read_text(encoding="utf-8"))
    assert config["data"]["init_args"]["max_length"] == 64


def close_the_window_while_it_trains(windows: Windows) -> None:
    """The step is finished and a checkpoint saved before Windows ends the process."""
    process = windows.begin(*FIT, "--trainer.max_steps=400")  # it never comes so far
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if line.startswith("step "):
            windows.close.touch()
    code = process.wait(timeout=300)
    assert code == 128 + 12, printed[-3000:]  # SIGBREAK is acted by SIGUSR2
    assert "Saved" in printed
    windows.close.unlink()
    windows.nothing_refused(printed)
