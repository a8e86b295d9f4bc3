"""What `plan` counts of the adapters that stay beside a merged model's 4-bit base."""

import json
from pathlib import Path
from typing import Any

import pytest

from taigi_lightning.model.hand_off import STACKED as WRITTEN
from taigi_lightning.planning.base_shape import KNOWN
from taigi_lightning.planning.earlier_stages import STACKED, ranks_beside
from taigi_lightning.planning.memory import GIB
from taigi_lightning.planning.prediction_needs import predict_needs
from taigi_lightning.planning.settings import Settings, read_settings
from taigi_lightning.planning.training_needs import needs

SHAPE = KNOWN["Bohanlu/Taigi-Llama-2-13B"]


def stage(folder: Path, base: Path | str, rank: int, quantization: str = "nf4, blocks of 64") -> Path:
    """What `plan` reads of a finished stage."""
    (folder / "adapter").mkdir(parents=True)
    lineage = json.dumps({"base": {"name": str(base), "quantization": quantization}})
    for place in (folder, folder / "adapter"):
        (place / "lineage.json").write_text(lineage)
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return folder


@pytest.fixture
def cpt(tmp_path: Path) -> Path:
    return stage(tmp_path / "cpt_model", "somewhere/else", 64)


def test_the_words_are_those_that_lineages_hold() -> None:
    assert STACKED == WRITTEN


def test_every_earlier_stage_counts(tmp_path: Path, cpt: Path) -> None:
    sft = stage(tmp_path / "final_model", cpt, 16, f"nf4, blocks of 64{STACKED}abc beside it")
    assert ranks_beside(str(cpt), {}) == (64,)
    assert ranks_beside(str(sft), {}) == (16, 64)
    assert ranks_beside(str(sft), {"hand_off": "merge"}) == ()
    assert ranks_beside(str(sft), {"quantization": "none"}) == ()
    assert ranks_beside(str(cpt), {"adapter": str(sft / "adapter")}) == (64,)
    assert ranks_beside("somewhere/else", {}) == ()


def test_an_adapter_on_merged_weights_has_nothing_beside_it(tmp_path: Path, cpt: Path) -> None:
    sft = stage(tmp_path / "final_model", cpt, 16)
    assert ranks_beside(str(cpt), {"adapter": str(sft / "adapter")}) == ()
    in_16_bits = stage(tmp_path / "in_16_bits", "somewhere/else", 8, "none")
    assert ranks_beside(str(in_16_bits), {}) == ()


def test_an_adapter_that_trains_on_keeps_its_rank(cpt: Path) -> None:
    model: dict[str, Any] = {"base": str(cpt), "lora": {"r": 16}, "hand_off": "continue"}
    read = read_settings({"model": model, "data": {"class_path": "SFTDataModule"}})
    assert (read.rank, read.ranks_beside) == (64, ())


def test_they_are_counted_once_in_16_bits() -> None:
    alone, beside = Settings(rank=16), Settings(rank=16, ranks_beside=(64,))
    frozen = 250_347_520 * 2  # bytes; that many parameters CPT trains on the 13B
    for count in (lambda s: needs(s, SHAPE, 24 * GIB), lambda s: predict_needs(s, SHAPE, 12 * GIB)):
        assert count(beside).parts["earlier stages' adapters"] == frozen
        assert "earlier stages' adapters" not in count(alone).parts
    general = needs(beside, SHAPE, 24 * GIB, general="it is another architecture")
    assert general.parts["earlier stages' adapters"] == frozen
