"""What a Lightning user writes on the command line on the second day: it works, or one sentence says why not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.working_folder import TEXT, environment, lay_out

FIT = (
    "fit --config configs/cpt.yaml --config configs/tiny.yaml --model.base models/base --trainer.max_steps 2 "
    "--data.init_args.max_length 64 --trainer.val_check_interval 2 --model.lora.r 2 --run.overwrite true "
    "--checkpoint.every_n_train_steps 1 --export.merge false --trainer.enable_progress_bar false "
)
OWN = """
from taigi_lightning import CausalLMModule
from taigi_lightning.cli.lightning_cli import TaigiCLI


class Mine(CausalLMModule):
    def __init__(self, greeting: str = "hello", **options):
        super().__init__(**options)
        self.greeting = greeting

    def on_train_start(self):
        print("the module says", self.greeting)


if __name__ == "__main__":
    TaigiCLI(Mine)
"""
# One process for all of them, which forks: PyTorch and Lightning are imported once.
SERVER = """
import json, os, sys, traceback
import taigi_lightning.cli.lightning_cli
from taigi_lightning.__main__ import answer
for line in sys.stdin:
    number, arguments = json.loads(line)
    child = os.fork()
    if child == 0:
        out = os.open(f"said-{number}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.argv = ["taigi", *arguments]
        try:
            code = answer(arguments)
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
            code = 99
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code or 0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
USES = {
    "barebones": ("--trainer.barebones true", 0, "Adapter: models/cpt_model/adapter"),
    "a table of the model": ("--trainer.enable_model_summary true", 0, "counts bytes where weights have 4 bits"),
    "torch's AdamW": ("--model.optimizer AdamW --model.optimizer.lr 1e-3", 0, "Adapter:"),
    "torch's SGD": ("--model.optimizer=SGD --model.optimizer.lr 1e-3", 0, "Adapter:"),
    "an average": ("--trainer.callbacks EMAWeightAveraging --trainer.callbacks.decay 0.5", 0, "Adapter:"),
    "a module of one's own": ("--model mine.Mine --model.greeting lí-hó", 0, "the module says lí-hó"),
    "a module that is not there": ("--model mine.Yours", 1, "names a class that is not there: mine.Yours"),
    "another class as module": ("--model os.PathLike", 1, "does not derive from CausalLMModule"),
    "64 bits": ("--trainer.precision 64", 1, "the base is computed in 32 bits at most"),
    "16 bits": ("--trainer.precision bf16-true", 1, "would store the adapter in 16 bits"),
    "bitsandbytes twice": (
        "--trainer.plugins BitsandbytesPrecision --trainer.plugins.mode nf4", 1, "would convert the adapter"
    ),
    "an average of epochs": (
        "--trainer.callbacks StochasticWeightAveraging --trainer.callbacks.swa_lrs 1e-3", 1, "Lightning refuses this"
    ),
    "a package that is not there": (
        "--trainer.logger TensorBoardLogger --trainer.logger.save_dir tb", 1, "a package that is not installed"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, tiny_llama_dir: Path) -> dict[str, tuple[int, str]]:
    """Exit code and text of every use, one after the other in one folder."""
    folder = tmp_path_factory.mktemp("home")
    lay_out(folder, tiny_llama_dir, [f"{TEXT * 2}{n}" for n in range(12)], held_out=4)
    (folder / "mine.py").write_text(OWN)
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=folder, env=environment() | {"HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    found = {}
    for number, (name, (options, _, _)) in enumerate(USES.items()):
        server.stdin.write(json.dumps([number, f"{FIT}{options}".split()]) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        found[name] = code, (folder / f"said-{number}.txt").read_text()
    server.stdin.close()
    server.wait(60)
    return found


@pytest.mark.parametrize("name", USES)
@pytest.mark.posix("forks a process for each use")
def test_uses_of_the_command_line(answered: dict[str, tuple[int, str]], name: str) -> None:
    _, wanted, words = USES[name]
    code, said = answered[name]
    assert code == wanted, said[-2000:]
    assert words in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_an_own_command_line_over_an_own_module(tmp_path: Path, tiny_llama_dir: Path) -> None:
    lay_out(tmp_path, tiny_llama_dir, [f"{TEXT * 2}{n}" for n in range(12)], held_out=4)
    (tmp_path / "mine.py").write_text(OWN)
    done = subprocess.run(
        [sys.executable, "mine.py", *FIT.split()],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "the module says hello" in done.stdout
    assert (tmp_path / "models" / "cpt_model" / "adapter" / "adapter_model.safetensors").is_file()
