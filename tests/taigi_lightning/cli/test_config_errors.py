"""Mistakes on the command line and in YAML: their place and the nearest right thing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from safetensors import SafetensorError

from taigi_lightning.cli.config_errors import SuggestingParser
from taigi_lightning.cli.config_locations import check_config_files
from taigi_lightning.cli.machine_errors import explain
from taigi_lightning.errors import InputError


@dataclass
class Lora:
    """An adapter."""

    r: PositiveInt = 16
    lora_alpha: int = 32
    lora_dropout: ClosedUnitInterval = 0.0


class Model:
    """A model."""

    def __init__(self, base: str = "b", lora: Lora | None = None, warmup_steps: int = 0) -> None: ...


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the parser of a `fit` command prints before it exits with 2."""
    parser = SuggestingParser()
    fit = SuggestingParser()
    fit.add_argument("--config", action="config")
    fit.add_argument("--trainer.max_steps", type=int, default=1)
    fit.add_argument("--trainer.accumulate_grad_batches", type=int, default=1)
    fit.add_argument("--schedule", type=Literal["linear", "cosine"], default="cosine")
    fit.add_argument("--budget", type=float | Literal["auto"], default="auto")
    fit.add_argument("--precision", type=Literal["16-mixed", "bf16-mixed"] | None)
    fit.add_class_arguments(Model, "model")
    parser.add_subcommands().add_subcommand("fit", fit)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["fit", *arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        (
            "trainer:\n  max_steps: 3\n  acumulate_grad_batches: 4\n",
            ["line 3", "Did you mean trainer.accumulate_grad_batches?"],
        ),
        ("modle:\n  base: b\n", ["line 2", "Did you mean model.base?"]),
        ("model:\n  lora: {r: 4, lora_aplha: 8}\n", ["line 2, in model.lora", "Did you mean lora_alpha?"]),
        ("model:\n  lora:\n    r: -3\n", ["model.lora.r is '-3'", "line 3", "above 0"]),
        ("model:\n  warmup_steps: many\n", ["'many'", "line 2", "--model.warmup_steps 100"]),
        ("model:\n  lora: {r: 3\ntrainer: 3\n", ["line 3", "not YAML"]),
        ("- model\n", ["holds no settings"]),
    ],
)
def test_a_mistake_in_yaml_is_placed_and_corrected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], yaml: str, words: list[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml)
    printed = complaint(capsys, "--config", str(file))
    for word in [str(file), *words]:
        assert word in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.warmup_stepz", "3"], "Did you mean --model.warmup_steps?"),
        (["--model.lora.lora_alhpa", "3"], "Did you mean lora_alpha?"),
        (["--schedule", "cosin"], "wanted one of linear, cosine. Did you mean cosine?"),
        (["--trainer.max_steps=x"], "wanted a whole number, for example --trainer.max_steps 100"),
        (["stray"], "'stray' belongs to no option"),
        (["--zebra", "3"], "There is no option --zebra."),
        (["--model.lora.helo", "3"], "Known there: lora_alpha, lora_dropout, r."),
        (["--model.lora.r", "many"], "model.lora.r is 'many' (--model.lora.r); wanted a whole number"),
        (["--model.lora", "64"], "for example --model.lora.r 64"),
        (["--model.warmup_steps"], "--model.warmup_steps wants a value after it."),
        (["--model.warmup_steps", "--schedule", "cosine"], "--model.warmup_steps=--schedule"),
        (["--model.lora.r", "-3"], "model.lora.r is '-3' (--model.lora.r); wanted a whole number above 0"),
        (["--model.lora.lora_dropout", "3"], "wanted a number from 0 to 1"),
        (["--budget", "most"], "budget is 'most' (--budget); wanted a number or auto."),
        (["--precision", "bf17"], "wanted one of 16-mixed, bf16-mixed"),
        (["--model", "base"], "--model.NAME VALUE"),
        (["cpt.yaml"], "An option is written --config cpt.yaml."),
        (["--config", "configs"], "configs is a folder"),
    ],
)
def test_a_mistake_in_a_flag_is_corrected(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in complaint(capsys, *arguments)


def test_a_missing_config_names_the_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "cpt.yaml").write_text("a: 1\n")
    problem = check_config_files(["--config", f"{tmp_path}/ctp.yaml"])
    assert problem is not None
    assert f"Did you mean {tmp_path}/cpt.yaml?" in problem


def named(name: str, text: str) -> Exception:
    """An exception of a class that need not be imported to be recognised."""
    return type(name, (RuntimeError,), {})(text)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (named("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2 GiB"), "activation_budget 0"),
        (named("MisconfigurationException", "No supported gpu backend found!"), "nvidia-smi"),
        (RuntimeError("CUDA error: no kernel image is available for execution"), "bitsandbytes"),
        (ModuleNotFoundError("No module named 'wandb'"), "--trainer.logger null"),
        (OSError(28, "No space left on device"), "--checkpoint.save_top_k 1"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "--checkpoint.save_top_k 1"),
        (MemoryError(), "own memory"),
    ],
)
def test_a_failure_of_the_machine_says_what_to_do(error: Exception, words: str) -> None:
    paragraph = explain(error)
    assert paragraph is not None
    assert words in paragraph


def test_an_input_error_wrapped_by_a_library_is_said_as_it_is() -> None:
    outer = ValueError("Does not validate against any of the Union subtypes")
    outer.__cause__ = InputError("batch_size is 0. Set it to 1 or more.")
    assert explain(outer) == "batch_size is 0. Set it to 1 or more."


def test_a_place_that_cannot_be_written_is_no_bug(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below", tmp_path / "no" / "such" / "folder", tmp_path):
        with pytest.raises(OSError, match="Errno") as error:
            path.write_text("")
        assert "cannot be used" in str(explain(error.value))
    with pytest.raises(FileNotFoundError) as missing:
        (tmp_path / "missing.txt").read_text()
    assert explain(missing.value) is None


def test_the_cause_counts_and_a_mistake_of_the_program_stays_one() -> None:
    outer = RuntimeError("step failed")
    outer.__cause__ = named("OutOfMemoryError", "CUDA out of memory")
    assert explain(outer) is not None
    assert explain(KeyError("x")) is None
