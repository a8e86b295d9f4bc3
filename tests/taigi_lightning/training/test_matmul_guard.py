"""A run in 8 bits, emulated: its first steps are compared with 16 bits, and it goes on in these where that differs."""

import csv
import json
import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from taigi_lightning.fast_path.apply import fast_decoder
from taigi_lightning.fast_path.eight_bit_weights import FORMATS
from taigi_lightning.planning.run_files import HOW_TRAINED
from taigi_lightning.training import matmul_guard, stage_model
from taigi_lightning.training.matmul_guard import MatmulGuard, cosine_of, fullest_rows, verdict
from taigi_lightning.training.module import CausalLMModule
from taigi_lightning.training.run_summary import Announcement
from tests.taigi_lightning.training.runs_in_8_bits import emulating, train

__all__ = ["emulating"]  # a fixture
Weights = dict[str, Tensor]


def watched(home: Path, matmul: str, name: str) -> tuple[str, Weights, list[dict[str, str]]]:
    """Five optimizer steps of two micro-batches: what products are in at the end, the adapter, and what was logged.

    home then has what the run's report says of the model.
    """
    logger = CSVLogger(home, name=name, version="")
    options: dict[str, Any] = {"accumulate_grad_batches": 2, "log_every_n_steps": 1, "logger": logger}
    trainer = train(matmul, 5, Announcement(), rows=2, **options)
    module: Any = trainer.lightning_module
    decoder: Any = fast_decoder(module.model)
    with (home / name / "metrics.csv").open(encoding="utf-8") as file:
        rows = [
            row for row in csv.DictReader(file) if any(row.get(f"{form}/gradient_cosine") for form in FORMATS)
        ]
    return decoder.matmul, {n: value.clone() for n, value in module.state_dict().items()}, rows


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize(("form", "least"), [("fp8", 0.95), ("int8", 0.995)])
def test_a_run_that_agrees_goes_on_in_8_bits_and_is_not_touched(
    emulating: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
    least: float,
) -> None:
    matmul, compared, rows = watched(emulating, form, "watched")
    assert matmul == form
    said = capsys.readouterr().out
    assert f"products with the 4-bit weights in {form}: the first steps compare it" in said
    cosine = statistics.fmean(float(row[f"{form}/gradient_cosine"]) for row in rows)
    found = next(
        line for line in said.splitlines() if line.startswith(f"Products in {form}, against 16 bits")
    )
    assert (
        f"have a mean cosine of {cosine:.4f} (steps compared: 3; below 0.95" in found
        and "--model.matmul int8" in found
    )
    assert json.loads((emulating / HOW_TRAINED).read_text())[-1] == found
    cosines = [float(row[f"{form}/gradient_cosine"]) for row in rows]
    assert len(cosines) == matmul_guard.CHECKED
    assert all(least < cosine < 0.99999 for cosine in cosines)
    assert all(0 < abs(float(row[f"{form}/loss_difference"])) < 0.05 for row in rows)
    monkeypatch.setattr(matmul_guard, "CHECKED", 0)
    _, alone, none = watched(emulating, form, "alone")
    assert not none
    assert same(compared, alone)


def test_a_run_that_differs_is_a_run_in_16_bits(
    emulating: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(matmul_guard, "LEAST_COSINE", 0.99999)
    matmul, found, rows = watched(emulating, "fp8", "differs")
    said = capsys.readouterr().out
    assert "their mean cosine to those in 16 bits is 0.9" in said and "goes on in 16 bits" in said
    assert "Nearer to 16 bits than fp8, and as fast: --model.matmul int8." in said
    assert (matmul, len(rows)) == ("bf16", 1)
    _, wanted, none = watched(emulating, "bf16", "plain")
    assert not none
    assert same(found, wanted)


small_run = partial(train, "int8", rows=1, dropout=0.0)


def products_of(trainer: pl.Trainer) -> str:
    decoder = fast_decoder(trainer.lightning_module.model)  # type: ignore[arg-type]
    assert decoder is not None and not decoder.compared
    return decoder.matmul


def test_a_resumed_run_has_given_up_what_the_first_had(
    emulating: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, right = emulating / "one.ckpt", emulating / "right.ckpt"
    small_run(1).save_checkpoint(right)
    monkeypatch.setattr(matmul_guard, "LEAST_COSINE", 0.99999)
    given_up = small_run(1)
    given_up.save_checkpoint(file)
    monkeypatch.undo()
    monkeypatch.setattr(stage_model, "check_matmul", lambda *_: None)
    monkeypatch.chdir(emulating)
    capsys.readouterr()
    assert products_of(small_run(2, checkpoint=file)) == "bf16"
    said = capsys.readouterr().out
    assert "in int8 turned the gradients too far when this run began: it goes on in 16 bits" in said
    assert "--model.matmul int8_mixed." in said and "against 16 bits" not in said
    assert products_of(small_run(2, checkpoint=right)) == "int8"
    assert "Products in int8, against 16 bits" in capsys.readouterr().out


@pytest.mark.parametrize("spoilt", ["16 bits too", "8 bits alone"])
def test_numbers_that_are_none_are_laid_to_8_bits_only_where_they_are_theirs(
    emulating: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], spoilt: str
) -> None:
    gradients = MatmulGuard._gradients

    def changed(self: Any, trainer: Any, module: Any, rows: Any, way: Any) -> Any:
        loss, found = gradients(self, trainer, module, rows, way)
        return loss, [g * float("nan") for g in found] if way != "bf16" or spoilt == "16 bits too" else found

    monkeypatch.setattr(MatmulGuard, "_gradients", changed)
    trainer = small_run(4)
    said = capsys.readouterr().out
    if spoilt == "16 bits too":
        assert products_of(trainer) == "int8"
        assert said.count("not finite in 16 bits either") == 3 and "were not compared" in said
    else:
        assert products_of(trainer) == "bf16"
        assert "turn the gradients too far" in said and "is nan" in said


class Weighed(CausalLMModule):
    """A user's own, whose loss reads more of a batch, and whose hooks are its own."""

    def loss_sum(self, batch: Any) -> Tensor:
        return super().loss_sum(batch) * batch["weights"].mean()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return super().on_before_batch_transfer(batch | {"weights": torch.ones(len(batch["labels"]))}, 0)


def test_a_loss_of_ones_own_reads_what_else_is_in_its_rows(
    emulating: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert products_of(small_run(1, kind=Weighed)) == "int8"
    assert "steps compared: 1" in capsys.readouterr().out


def test_a_run_that_breaks_off_while_it_is_watched_may_hold_weights_in_the_next(emulating: Path) -> None:
    class Break(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("broken off")

    broken: list[Any] = []

    class Keep(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
            broken.append(pl_module)

    with pytest.raises(RuntimeError, match="broken off"):
        small_run(5, Break(), Keep())
    decoder = fast_decoder(broken[0].model)
    assert decoder is not None and decoder.compared
    fill = decoder.fill
    again = small_run(4, kind=lambda *_, **__: broken[0])
    assert products_of(again) == "int8" and decoder.fill == fill and fast_decoder(broken[0].model) is decoder


def test_a_run_that_could_not_be_compared_says_so() -> None:
    assert verdict("int8", []).startswith("Products in int8 were not compared")
    assert "Nearer" not in verdict("int8_backward", [(0.9995, 0.0)])
    assert "is nan, and 0.95 is wanted" in verdict("int8", [(0.99, 0.0), (float("nan"), 0.0)])


def test_the_rows_with_most_to_learn_are_taken() -> None:
    labels = torch.full((3, 5), -100)
    batch = {name: torch.arange(15).view(3, 5) for name in ("input_ids", "position_ids")} | {"labels": labels}
    assert fullest_rows(batch) is None
    labels[2, 3:], labels[1, 4] = 7, 7
    row = fullest_rows({**batch, "documents": object()})
    assert row is not None
    assert row.keys() == {"input_ids", "labels", "position_ids"}
    others = {"weights": torch.arange(3), "window_tokens": torch.tensor(3), "pixels": torch.ones(7)}
    whole = fullest_rows({**batch, **others})
    assert whole is not None and whole.keys() == {*row, "weights"} and whole["weights"].tolist() == [2]
    assert fullest_rows({name: value[:0] for name, value in batch.items()}) is None
    assert row["input_ids"].tolist() == [[10, 11, 12, 13, 14]]
    more = fullest_rows(batch, 6)
    assert more is not None
    assert more["input_ids"][:, 0].tolist() == [10, 5]
    assert more.keys() == row.keys() and len(fullest_rows(batch, 99)["labels"]) == 3  # type: ignore[index]
    assert fullest_rows([1, 2]) is None
    assert fullest_rows({"input_ids": labels}) is None


def test_the_cosine_is_the_mean_of_all_tensors_that_are_not_zero() -> None:
    one = [torch.tensor([3.0, 0.0]), torch.tensor([[0.0, 4e6]])]
    assert cosine_of(one, [2 * t for t in one]) == pytest.approx(1.0)
    assert cosine_of(one, [torch.tensor([3.0, 4.0]), one[1]]) == pytest.approx(0.8)  # (0.6 + 1) / 2
    assert cosine_of(one, [torch.tensor([0.0, 3.0]), -one[1]]) == pytest.approx(-0.5)
    nothing = torch.zeros(2)  # A's gradients before the first step, since B is zero
    assert cosine_of([nothing, *one], [nothing, *one]) == 1.0
    assert cosine_of([nothing, *one], [one[0], *one]) == pytest.approx(2 / 3)
    assert cosine_of([torch.zeros(2)], [torch.zeros(2)]) == 1.0
    assert cosine_of([torch.zeros(2)], [torch.ones(2)]) == cosine_of([torch.ones(2)], [torch.zeros(2)]) == 0.0
    assert math.isnan(cosine_of(one, [t * float("nan") for t in one]))
