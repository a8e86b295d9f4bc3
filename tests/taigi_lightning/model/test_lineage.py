"""A wrong or changed base is refused, and every model says which runs and which corpus it came from."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from taigi_lightning.errors import InputError
from taigi_lightning.model.lineage import (
    base_identity,
    check_identity,
    check_lineage,
    read_lineage,
    write_lineage,
)
from taigi_lightning.model.safetensors_files import INDEX


def save_base(folder: Path) -> Path:
    """Two shards of one large tensor each, an index and a config."""
    folder.mkdir(parents=True)
    weight_map = {}
    for number in (1, 2):
        shard = f"model-0000{number}-of-00002.safetensors"
        weight_map[f"w{number}"] = shard
        save_file({f"w{number}": torch.randn(400, 500).bfloat16()}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_base(tmp_path / "base")


def test_identity_is_plain_text_and_survives_a_move(base: Path) -> None:
    before = base_identity(base, "nf4")
    moved = base_identity(shutil.move(base, base.with_name("moved")), "nf4")
    assert set(before) == {"name", "config", "weights", "tensors", "quantization"}
    assert all(isinstance(value, str) for value in before.values())
    assert before["config"] == hashlib.sha256(b'{"model_type": "llama"}').hexdigest()
    assert moved == {**before, "name": str(base.with_name("moved"))}
    check_identity(moved, before)


def test_a_change_of_one_small_tensor_in_a_large_file_makes_another_base(tmp_path: Path) -> None:
    """As a merge into a mixture of experts: pieces spread over the file fall into the experts."""
    (tmp_path / "config.json").write_text("{}")
    found = {f"layers.{n}.experts": torch.randn(2048, 1024).bfloat16() for n in range(4)}
    found |= {f"layers.{n}.q_proj": torch.randn(8, 8).bfloat16() for n in range(4)}
    save_file(found, tmp_path / "model.safetensors")
    before = base_identity(tmp_path)
    found["layers.1.q_proj"] += 1
    save_file(found, tmp_path / "model.safetensors")
    after = base_identity(tmp_path)
    assert after["weights"] == before["weights"]
    with pytest.raises(InputError, match="its weights differ"):
        check_identity(found=after, wanted=before)
    del before["tensors"]  # as earlier versions recorded it
    check_identity(found=after, wanted=before)


def test_a_base_trained_further_is_refused_with_both_identities(base: Path) -> None:
    before = base_identity(base)
    shard = base / "model-00002-of-00002.safetensors"
    save_file({"w2": load_file(shard)["w2"] * 1.01}, shard)
    after = base_identity(base)
    with pytest.raises(InputError, match="its weights differ") as error:
        check_identity(found=after, wanted=before)
    assert before["weights"][:8] in str(error.value)
    assert after["weights"][:8] in str(error.value)


def test_config_and_quantisation_count(base: Path) -> None:
    before = base_identity(base, "nf4")
    with pytest.raises(InputError, match="its quantization differ"):
        check_identity(base_identity(base, "none"), before)
    (base / "config.json").write_text('{"model_type": "llama", "rope_theta": 1.0}')
    with pytest.raises(InputError, match="its config differ"):
        check_identity(base_identity(base, "nf4"), before)


def test_an_incomplete_or_pickled_base_is_refused(base: Path) -> None:
    (base / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match="lacks model-00002"):
        base_identity(base)
    shutil.rmtree(base)
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="only pytorch_model"):
        base_identity(base)


def test_a_base_to_train_from_scratch_has_an_identity(base: Path) -> None:
    for file in base.glob("*.safetensors*"):
        file.unlink()
    assert base_identity(base)["weights"] == "none"


def test_a_hub_name_means_its_cached_snapshot(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "hub" / "models--someone--llama"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("a" * 40)
    shutil.copytree(base, repo / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert base_identity("someone/llama") == {**base_identity(base), "name": "someone/llama"}
    with pytest.raises(InputError, match="someone/other is neither a folder here nor a model"):
        base_identity("someone/other")


def test_the_lineage_of_sft_includes_that_of_cpt(base: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "manifest.json").write_text('{"documents": 3}')
    questions = tmp_path / "questions.csv"
    questions.write_text("文章,問題\n")
    cpt = save_base(tmp_path / "cpt_model")

    write_lineage(cpt, base=base_identity(base, "nf4"), run_config="seed: 9527", data=corpus)
    write_lineage(tmp_path / "final", base=base_identity(cpt, "nf4"), run_config="lr: 1", data=questions)

    lineage = read_lineage(tmp_path / "final")
    assert lineage is not None
    assert lineage["data"]["path"] == str(questions)
    assert lineage["base"]["name"] == str(cpt)
    earlier = lineage["base"]["lineage"]
    assert earlier["base"]["weights"] == base_identity(base)["weights"]
    assert earlier["run"]["config"] == hashlib.sha256(b"seed: 9527").hexdigest()
    assert earlier["data"] == {
        "path": str(corpus),
        "sha256": hashlib.sha256(b'{"documents": 3}').hexdigest(),
    }


def test_an_adapter_is_refused_on_another_base_than_its_own(base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    check_lineage(adapter, base)  # an adapter from elsewhere says nothing: nothing to compare
    write_lineage(adapter, base=base_identity(base, "nf4"))
    check_lineage(adapter, base, "nf4")
    check_lineage(adapter, base)  # a merge does not load the base in 4 bits
    with pytest.raises(InputError, match="quantization differ"):
        check_lineage(adapter, base, "none")
    with pytest.raises(InputError, match="weights differ"):
        check_lineage(adapter, save_base(tmp_path / "other"))


def test_a_damaged_lineage_is_an_error_and_not_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text('{"base": ')
    with pytest.raises(InputError, match=r"lineage\.json is not JSON"):
        read_lineage(tmp_path)


def test_no_secret_of_the_config_reaches_the_lineage(base: Path, tmp_path: Path) -> None:
    write_lineage(tmp_path / "adapter", base=base_identity(base), run_config="api_key: hunter2")
    assert "hunter2" not in (tmp_path / "adapter" / "lineage.json").read_text()


def test_an_adapter_whose_bytes_changed_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    weights = adapter / "adapter_model.safetensors"
    save_file({"lora_A": torch.zeros(100, 100)}, weights)
    write_lineage(adapter, base=base_identity(base))
    check_lineage(adapter, base)
    content = bytearray(weights.read_bytes())
    content[5000:7000] = bytes(255 - byte for byte in content[5000:7000])
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is damaged"):
        check_lineage(adapter, base)
