"""`plan`: it reads a config as `fit` does, and what it advises fits."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from taigi_lightning.__main__ import main
from taigi_lightning.cli import lightning_cli as cli
from taigi_lightning.errors import InputError
from taigi_lightning.planning import command
from taigi_lightning.planning.base_shape import KNOWN, read_base
from taigi_lightning.planning.cards import Card
from taigi_lightning.planning.memory import GIB
from taigi_lightning.planning.needing_less import fitting
from taigi_lightning.planning.settings import Settings, read_settings
from taigi_lightning.planning.training_needs import needs
from tests.warm_python import WarmPython
from tests.working_folder import link

ROOT = Path(__file__).parents[3]
CPT = ["--config", "configs/cpt.yaml"]


def plan(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `python -m taigi_lightning plan arguments`, run in this process."""
    monkeypatch.setattr(sys, "argv", ["taigi_lightning", "plan", *arguments])
    try:
        return main()
    except SystemExit as stop:
        return int(stop.code or 0)


def settings_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Settings:
    """What the command line makes of a plan's arguments."""
    found: list[Settings] = []
    monkeypatch.setattr(cli, "print_plan", lambda config: found.append(read_settings(config)))
    assert plan(monkeypatch, *arguments) == 0
    return found[0]


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (CPT, {}),
        ([*CPT, "--config", "configs/tiny.yaml"], {"base": "models/tiny-taigi", "max_length": 512, "accumulate": 1,
         "activation_budget": 1.0, "max_steps": 120, "accelerator": "cpu"}),
        (["--config=configs/cpt.yaml", "--trainer.max_steps=7", "--data.batch_size", "2", "--model.lora.r", "8"],
         {"max_steps": 7, "batch_size": 2, "rank": 8}),
        ([*CPT, "--trainer.devices", "2"], {"devices": 2}),
        ([*CPT, "--model.optimizer", "torch.optim.SGD", "--export.merge", "false"],
         {"optimizer": "torch.optim.SGD", "merge": False}),
    ],
)  # fmt: skip
def test_a_plan_reads_yaml_files_and_flags_as_fit_does(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], changed: dict[str, Any]
) -> None:
    monkeypatch.chdir(ROOT)
    cpt = Settings(rank=64, accumulate=4, max_steps=1000, folder="models/cpt_model")
    assert settings_of(monkeypatch, *arguments) == replace(cpt, **changed)


def test_a_plan_without_a_config_has_the_defaults_of_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(monkeypatch, "--data", "CPTDataModule", "--model.lora.r", "16") == Settings(rank=16)


def test_the_config_a_run_leaves_can_be_planned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, warm_python: WarmPython
) -> None:
    monkeypatch.chdir(ROOT)
    file = tmp_path / "config.yaml"
    done = subprocess.run(
        [warm_python.executable, "-m", "taigi_lightning", "fit", *CPT, "--print_config"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    file.write_text(done.stdout)
    assert settings_of(monkeypatch, "--config", str(file)) == settings_of(monkeypatch, *CPT)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--trainer.max_steps", "abc"],
            "trainer.max_steps is 'abc' (--trainer.max_steps); wanted a whole number",
        ),
        (["--trainer.max_stpes", "5"], "Did you mean --trainer.max_steps"),
        (["--data.batch_sizes", "5"], "Did you mean batch_size?"),
        (["--gpu_memory", "1.2.3GiB"], "wanted a size, for example --gpu_memory 16GiB"),
        (["--gpu_memory", "-16GiB"], "--gpu_memory=-16GiB"),
        (["--gpu_memory=-16GiB"], "wanted a size"),
        (["--gpu_memory", "0GiB"], "wanted a size"),
        (["--tokens_per_second", "0"], "wanted a number above 0"),
        (["--config", "configs/ctp.yaml"], "Did you mean configs/cpt.yaml"),
        (["--model.quantization", "int8"], "wanted one of nf4, none"),
        (["--config", "wrong.yaml"], "line 2"),
        (["--gpu_memory"], "wants a value"),
    ],
)
def test_a_mistake_is_answered_as_fit_answers_it(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    link(tmp_path / "configs", ROOT / "configs")
    (tmp_path / "wrong.yaml").write_text("trainer:\n  max_stepz: 5\n")
    monkeypatch.chdir(tmp_path)
    assert plan(monkeypatch, *CPT, *arguments) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("error:") == 1
    assert len(printed.splitlines()) == 1


def test_the_default_run_needs_what_was_measured_of_its_parts() -> None:
    need = needs(Settings(rank=64), KNOWN["Bohanlu/Taigi-Llama-2-13B"])
    assert need.parts["adapter"] == need.parts["gradients"] == 4 * 250_347_520
    assert need.parts["weights, projections"] == pytest.approx(6.1 * GIB, rel=0.01)


def test_a_budget_fills_the_card_and_no_more() -> None:
    shape = KNOWN["Bohanlu/Taigi-Llama-2-13B"]
    for card in (24, 40, 48):
        need = needs(Settings(rank=64), shape, card * GIB)
        assert 0.85 * card * GIB < need.total < card * GIB


@pytest.mark.parametrize("card", [12, 14])
def test_what_is_advised_fits(card: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = KNOWN["Bohanlu/Taigi-Llama-2-13B"]
    settings = Settings(rank=64, activation_budget=1.0)
    found = fitting(settings, shape, card * GIB)
    assert found is not None
    flags, changed = found
    words = [word for flag in flags for word in flag.split()]
    advised = settings_of(monkeypatch, "--data", "CPTDataModule", "--model.lora.r", "64", *words)
    assert needs(advised, shape, card * GIB).total <= card * GIB
    assert advised.tokens == changed.tokens
    assert advised.step_tokens == settings.step_tokens or advised.max_length < 2048


def test_nothing_is_advised_where_nothing_helps() -> None:
    assert fitting(Settings(rank=64), KNOWN["Bohanlu/Taigi-Llama-2-13B"], GIB) is None


def test_the_table_says_what_a_user_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    arguments = [*CPT, "--gpu_memory", "16GiB", "--tokens_per_second", "8000"]
    assert plan(monkeypatch, *arguments) == 0
    printed = capsys.readouterr().out
    for words in [
        "250,347,520",
        "32,768 tokens",
        "At 8,000 tokens/s the run takes 1.1 hours",
        "merged model",
    ]:
        assert words in printed


def test_an_unknown_base_says_how_to_make_it_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"hf download nobody/nothing config\.json"):
        read_base("nobody/nothing")
    with pytest.raises(InputError, match="when the CPT stage has ended"):
        read_base("models/cpt_model_of_tomorrow")


def test_the_host_here_counts_with_the_card_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(command, "found_cards", lambda: [Card("RTX 5050", 8 * GIB)])
    monkeypatch.setattr(command, "available_bytes", lambda: 10 * GIB)
    assert plan(monkeypatch, *CPT) == 0
    assert "does not fit RTX 5050 (8.0 GiB) with 10.0 GiB of host memory available" in capsys.readouterr().out
    # Another card's host is not this machine's, and what is said counts before what is found.
    for options in (["--gpu_memory", "8GiB"], ["--host_memory", "14GiB"]):
        assert plan(monkeypatch, *CPT, *options) == 0
        assert "It fits " in capsys.readouterr().out
    assert plan(monkeypatch, *CPT, "--host_memory", "64GiB", "--pinned_memory", "7GiB") == 0
    assert "7.0 GiB that may be page-locked (--pinned_memory)" in capsys.readouterr().out


def test_what_windows_lets_be_locked_is_counted_unless_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taigi_lightning.kernels.available_memory.lends_host_memory", lambda: True)
    monkeypatch.setattr(command, "installed_bytes", lambda: 16 * GIB)
    assert command.machine_of({}).lockable == pytest.approx(7.2 * GIB)
    assert command.machine_of({"host_memory": "10GiB"}).lockable == pytest.approx(7.2 * GIB)
    assert command.machine_of({"host_memory": "64GiB"}).lockable == pytest.approx(
        28.8 * GIB
    )  # another machine
    assert command.machine_of({"pinned_memory": "5GiB"}).lockable == 5 * GIB
    monkeypatch.setattr("taigi_lightning.kernels.available_memory.lends_host_memory", lambda: False)
    assert command.machine_of({}).lockable == math.inf
