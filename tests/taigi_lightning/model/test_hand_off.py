"""What a merged model is in 4 bits: found again from its files, and refused where those do not belong together."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.model.adapters import load_adapter
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.model.frozen_update import add_frozen_updates
from taigi_lightning.model.hand_off import Start, continued, find_start, kept_beside
from taigi_lightning.model.lineage import base_identity, read_lineage, write_lineage
from taigi_lightning.model.merge import merge_adapter
from tests.taigi_lightning.model.saved_adapters import save_adapter, save_base

CPU = torch.device("cpu")
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def stage(base: Path, folder: Path, quantization: Any = "nf4", hand_off: Any = "stack", **lora: Any) -> Path:
    """What `fit` leaves of a stage on `base`: the adapter with its lineage, and the merged model."""
    start = find_start(str(base), quantization, hand_off)
    adapter = save_adapter(base, folder / "adapter", **lora)
    write_lineage(adapter, base=start.identity)
    merge_adapter(base, adapter, folder)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base")


@pytest.fixture
def cpt(tmp_path: Path, base: Path) -> Path:
    return stage(base, tmp_path / "cpt_model")


def logits(start: Start, adapter: Path | None = None) -> torch.Tensor:
    """[1, T, V] of a start, with an adapter on it."""
    model: Any = load_base_model(start.weights, quantization="nf4", compute_dtype=torch.float32, device=CPU)
    add_frozen_updates(model, start.updates, torch.float32)
    if adapter is not None:
        model = load_adapter(model, str(adapter), trainable=False)
    with torch.no_grad():
        found: torch.Tensor = model.eval()(TOKENS).logits
    return found


def test_a_merged_model_in_4_bits_is_exactly_what_was_trained(base: Path, cpt: Path) -> None:
    trained = logits(Start(str(base), str(base), (), {}), cpt / "adapter")
    found = logits(find_start(str(cpt), "nf4"))
    again = logits(find_start(str(cpt), "nf4", "merge"))
    torch.testing.assert_close(found, trained, rtol=0, atol=1e-5)
    assert (again - trained).norm() > 0.01 * trained.norm()


def test_a_third_stage_keeps_both_updates(tmp_path: Path, base: Path, cpt: Path) -> None:
    sft = stage(cpt, tmp_path / "final_model", r=4)
    start = find_start(str(sft), "nf4")
    assert start.weights == str(base)
    assert start.updates == (cpt / "adapter", sft / "adapter")
    trained = logits(find_start(str(cpt), "nf4"), sft / "adapter")
    torch.testing.assert_close(logits(start), trained, rtol=0, atol=1e-5)


def test_in_16_bits_the_merged_weights_are_meant(tmp_path: Path, base: Path, cpt: Path) -> None:
    assert find_start(str(cpt), "none") == Start(str(cpt), str(cpt), (), base_identity(cpt, "none"))
    in_16_bits = stage(base, tmp_path / "in_16_bits", "none")
    assert find_start(str(in_16_bits), "nf4").updates == ()


@pytest.mark.parametrize("hand_off", ["stack", "merge"])
def test_a_saved_adapter_brings_its_own_hand_off(tmp_path: Path, cpt: Path, hand_off: Any) -> None:
    sft = stage(cpt, tmp_path / "final_model", hand_off=hand_off)
    wanted = find_start(str(cpt), "nf4", hand_off)
    for asked in ("stack", "merge", "continue"):
        assert find_start(str(cpt), "nf4", asked, sft / "adapter") == wanted
    assert bool(wanted.updates) == (hand_off == "stack")


def test_an_adapter_that_trained_on_belongs_to_the_first_base(tmp_path: Path, base: Path, cpt: Path) -> None:
    assert continued(str(cpt), "nf4") == (str(base), str(cpt / "adapter"))
    further = save_adapter(base, tmp_path / "further")
    write_lineage(further, base=find_start(str(base), "nf4").identity, continues=cpt / "adapter")
    assert find_start(str(cpt), "nf4", adapter=further).base == str(base)
    lineage = read_lineage(further)
    assert lineage is not None and lineage["continues"] == read_lineage(cpt / "adapter")
    assert continued(str(base), "nf4") is None


def test_an_adapter_in_other_bits_is_refused_unless_it_is_only_compared(tmp_path: Path, cpt: Path) -> None:
    sft = stage(cpt, tmp_path / "final_model")
    with pytest.raises(InputError, match="its quantization differ"):
        find_start(str(cpt), "none", adapter=sft / "adapter")
    start = find_start(str(cpt), "none", adapter=sft / "adapter", any_quantization=True)
    assert (start.weights, start.updates) == (str(cpt), ())


@pytest.mark.parametrize("removed", ["adapter", "adapter/lineage.json", "lineage.json"])
def test_older_merged_folders_are_quantised_as_they_were(cpt: Path, removed: str) -> None:
    path = cpt / removed
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert find_start(str(cpt), "nf4") == Start(str(cpt), str(cpt), (), base_identity(cpt, "nf4"))


def test_a_folder_merged_before_hashes_were_written_counts_by_its_run(cpt: Path) -> None:
    lineage = json.loads((cpt / "lineage.json").read_text())
    del lineage["adapter"]
    (cpt / "lineage.json").write_text(json.dumps(lineage))
    assert kept_beside(str(cpt), "nf4") == cpt / "adapter"
    (cpt / "lineage.json").write_text(json.dumps({**lineage, "run": {"config": "another"}}))
    with pytest.raises(InputError, match="is not the one that was merged"):
        find_start(str(cpt), "nf4")


def test_an_adapter_trained_anew_without_a_merge_is_refused(base: Path, cpt: Path) -> None:
    save_adapter(base, cpt / "adapter", r=4)
    write_lineage(cpt / "adapter", base=find_start(str(base), "nf4").identity)
    with pytest.raises(InputError, match=r"set --model\.hand_off merge"):
        find_start(str(cpt), "nf4")
    assert find_start(str(cpt), "nf4", "merge").updates == ()


def test_a_base_that_is_gone_or_changed_is_named(tmp_path: Path, base: Path, cpt: Path) -> None:
    shutil.move(base, tmp_path / "moved")
    with pytest.raises(InputError, match=rf"4-bit weights of {base}.*set --model.hand_off merge"):
        find_start(str(cpt), "nf4")
    assert find_start(str(cpt), "nf4", "merge").updates == ()
    save_base(base, vocab_size=300)
    with pytest.raises(InputError, match="its config and weights differ"):
        find_start(str(cpt), "nf4")


def test_the_dequantised_weights_of_another_base_are_not_added_to(tmp_path: Path, cpt: Path) -> None:
    sft = stage(cpt, tmp_path / "final_model")
    with pytest.raises(InputError, match=r"Use --export\.onto original"):
        merge_adapter(cpt, sft / "adapter", tmp_path / "again", onto="dequantized")


def test_an_update_of_another_base_is_refused(tmp_path: Path, cpt: Path) -> None:
    other = save_base(tmp_path / "other", hidden_size=32, num_hidden_layers=1)
    model = load_base_model(str(other), quantization="nf4", compute_dtype=torch.float32, device=CPU)
    with pytest.raises(
        InputError, match=r"changes \S+ as \[64, 128\], but the model holds it as \[32, 128\]"
    ):
        add_frozen_updates(model, [cpt / "adapter"], torch.float32)
