"""`plan` of a prediction: it counts what prediction holds, and the headroom that prediction keeps free."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from taigi_lightning.planning.base_shape import KNOWN
from taigi_lightning.planning.memory import CONTEXT, GIB, packed_layer_bytes, prefill_bytes
from taigi_lightning.planning.needing_less import fitting
from taigi_lightning.planning.prediction_needs import predict_needs
from taigi_lightning.planning.settings import Settings
from taigi_lightning.planning.step_time import Machine
from taigi_lightning.planning.training_needs import needs
from tests.taigi_lightning.planning.test_command import ROOT, plan, settings_of
from tests.working_folder import link

TAIGI = "Bohanlu/Taigi-Llama-2-13B"
PREDICT = ["--config", "configs/predict.yaml", "--model.base", TAIGI]
SFT = Settings(rank=16, predicts=True)
SHAPE = KNOWN[TAIGI]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the configs and what `plan` reads of a trained adapter."""
    link(tmp_path / "configs", ROOT / "configs")
    adapter = tmp_path / "models" / "final_model" / "adapter"
    adapter.mkdir(parents=True)
    found = {"r": 16, "target_modules": ["q_proj", "v_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(found))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_prediction_is_planned_as_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(monkeypatch, *PREDICT, "--gpu_memory", "16GiB") == 0
    printed = capsys.readouterr().out
    for words in ("adapter r 16, prediction", "13,107,200 parameters", "of 16,384 tokens", "It fits"):
        assert words in printed
    for words in ("gradients", "optimizer", "checkpoints", "merged model"):
        assert words not in printed


def test_the_saved_adapters_settings_count(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings_of(monkeypatch, *PREDICT, "--data.batch_tokens", "4096")
    assert (read.predicts, read.rank, read.row_tokens) == (True, 16, 4096)
    assert sorted(read.targets) == ["q_proj", "v_proj"]
    more = ["--config", "configs/cpt.yaml", "--model.adapter", "models/final_model/adapter"]
    assert settings_of(monkeypatch, *more).rank == 16  # also where training goes on from it


def test_it_holds_the_weights_that_training_holds_and_nothing_that_learns() -> None:
    parts, trained = predict_needs(SFT, SHAPE).parts, needs(SFT, SHAPE, 80 * GIB).parts
    for name in ("weights, projections", "weights, the rest", "adapter", "CUDA itself"):
        assert parts.pop(name) == trained[name]
    assert parts == {"headroom for one pass": prefill_bytes(SHAPE.hidden, SHAPE.intermediate, 16384)}


def test_dequantised_layers_fill_what_the_headroom_leaves() -> None:
    layers = [
        predict_needs(SFT, SHAPE, card * GIB).parts.get("weights, dequantised", 0)
        for card in (12, 16, 24, 80)
    ]
    assert layers[0] == 0 < layers[1] < layers[2] < layers[3]
    assert predict_needs(SFT, SHAPE, 800 * GIB).parts["weights, dequantised"] == layers[3]
    assert all(predict_needs(SFT, SHAPE, card * GIB).total <= card * GIB for card in (16, 24, 40, 80))


def test_fewer_tokens_are_advised_where_they_help() -> None:
    general = "its layers are others"  # whose weights cannot wait
    flags, fewer = fitting(SFT, SHAPE, 11 * GIB, general) or ([], SFT)
    assert flags == [f"--data.batch_tokens {fewer.batch_tokens}"]
    assert predict_needs(fewer, SHAPE, general=general).total <= 11 * GIB
    twice = replace(fewer, batch_tokens=2 * fewer.batch_tokens)
    assert predict_needs(twice, SHAPE, general=general).total > 11 * GIB
    assert fitting(SFT, SHAPE, 8 * GIB, general) is None
    assert predict_needs(SFT, SHAPE, 3 * GIB).total > 3 * GIB
    flags, fewer = fitting(SFT, SHAPE, 3 * GIB) or ([], SFT)
    assert flags == [f"--data.batch_tokens {fewer.batch_tokens}"]
    assert predict_needs(fewer, SHAPE, 3 * GIB).total <= 3 * GIB


def test_weights_that_may_not_wait_are_what_is_said_to_change() -> None:
    resident = replace(SFT, weights_on_host="none")
    flags, changed = fitting(resident, SHAPE, 8 * GIB) or ([], SFT)
    assert flags == ["--model.weights_on_host auto"]
    assert predict_needs(changed, SHAPE, 8 * GIB).total <= 8 * GIB


@pytest.mark.parametrize(("card", "measured", "waiting"), [(6.6, 5.86, 24)])
def test_weights_that_wait_are_planned_as_they_were_measured(
    card: float, measured: float, waiting: int
) -> None:
    """The 13B held to 6 GiB beside CUDA's own 0.6, without an adapter; GiB that PyTorch reserved."""
    need = predict_needs(replace(SFT, rank=None), SHAPE, int(card * GIB))
    assert abs(need.decisions.layers_on_host - waiting) <= 2
    assert (need.total - CONTEXT) / GIB == pytest.approx(measured, rel=0.05)
    assert need.host_total == need.decisions.layers_on_host * packed_layer_bytes(SHAPE)


@pytest.mark.parametrize("card", [5, 6, 8, 10, 12])
def test_what_a_small_card_lacks_waits_on_the_host(card: int) -> None:
    need = predict_needs(SFT, SHAPE, card * GIB)
    assert need.total <= card * GIB
    assert need.decisions.layers_dequantised == 0 or need.decisions.layers_on_host == 0
    assert need.decisions.slow_down >= 1
    short = predict_needs(SFT, SHAPE, card * GIB, host=2 * GIB)
    assert short.host_total <= 2 * GIB
    slow = predict_needs(SFT, SHAPE, card * GIB, machine=Machine(0.1e9, 100e12))
    assert (slow.decisions.slow_down > 1) == (slow.decisions.layers_on_host > 0)


def test_no_weight_waits_where_none_may_or_none_is_in_4_bits() -> None:
    for changes in ({"weights_on_host": "none"}, {"quantization": "none"}):
        assert not predict_needs(replace(SFT, **changes), SHAPE, 6 * GIB).host  # type: ignore[arg-type]
    assert predict_needs(replace(SFT, weights_on_host="all"), SHAPE, 80 * GIB).decisions.layers_on_host == 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.answer_strategy", "generate"], "answer_strategy generate takes is not counted"),
        (["--model.adapter", "models/none"], "models/none holds no adapter_config.json"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert plan(monkeypatch, *PREDICT, *arguments) == 1
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""
