"""Packed weights kept on disk: the same bits at the next start, and nothing else is ever taken for them."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors import SafetensorError
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

from taigi_lightning.kernels.host_memory import held_in_place
from taigi_lightning.model import packed_cache, packed_loading
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.model.packed_loading import _Pack
from tests.taigi_lightning.architectures.small_bases import gemma3_wrapper, save_base, small_config
from tests.taigi_lightning.model.test_packed_loading import tensors

CPU = torch.device("cpu")


def load(base: Path, cache: Path | None, on_host: bool = True) -> Any:
    return load_base_model(
        str(base),
        quantization="nf4",
        compute_dtype=torch.float32,
        device=CPU,
        weights_on_host=on_host,
        packed_cache=None if cache is None else str(cache),
    )


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(small_config("qwen2"), tmp_path_factory.mktemp("base") / "a base")


@pytest.fixture
def cache(base: Path, tmp_path: Path) -> Path:
    """One with the base's weights in it."""
    load(base, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def packed_anew(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the weights that were packed, not read."""
    names: list[str] = []
    pack = _Pack.convert

    def noted(self: Any, input_dict: Any, *args: Any, **options: Any) -> Any:
        names.extend(input_dict)
        return pack(self, input_dict, *args, **options)

    monkeypatch.setattr(_Pack, "convert", noted)
    return names


@pytest.mark.parametrize(
    "kind", ["qwen2", "gemma3", "gpt2", "qwen3_moe", "phi3 with one table of embeddings"]
)
def test_the_next_start_has_the_same_bits_settings_and_names(
    kind: str, tmp_path: Path, packed_anew: list[str]
) -> None:
    config = (
        gemma3_wrapper()
        if kind == "gemma3"
        else small_config(kind.split(maxsplit=1)[0], tie_word_embeddings=True)
    )
    base, cache = save_base(config, tmp_path / "base"), tmp_path / "cache"
    first = load(base, cache)
    made = len(packed_anew)
    for on_host in (True, False):
        again, plain = load(base, cache, on_host), load(base, None, on_host=False)
        wanted, found = tensors(plain), tensors(again)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[n], wanted[n]) and found[n].dtype == wanted[n].dtype for n in wanted)
        assert again.config.to_dict() == plain.config.to_dict() == first.config.to_dict()
        assert again.generation_config.to_dict() == plain.generation_config.to_dict()
        assert again.name_or_path == plain.name_or_path
        assert not any(p.requires_grad for p in again.parameters())
    assert made > 0
    assert len(packed_anew) == made


@pytest.mark.parametrize("asks", ["get_load_operations", "get_weight_conversions"])
def test_what_is_read_waits_on_the_host_in_every_version_of_transformers(
    asks: str, base: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if asks == "get_weight_conversions":  # before there was the other, the class of the operation was fixed
        own = Bnb4BitHfQuantizer.get_load_operations
        monkeypatch.setattr(packed_loading._OnHost, "get_load_operations", own)
    load(base, cache)
    again = load(base, cache)
    four_bit = [module for module in again.modules() if isinstance(module, Linear4bit)]
    assert four_bit
    assert all(map(held_in_place, four_bit))


def flip(entry: Path) -> None:
    file = entry / "layer-1.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 4
    file.write_bytes(data)


def cut(entry: Path) -> None:
    with (entry / "layer-0.safetensors").open("r+b") as file:
        file.truncate(2000)


def foreign(entry: Path) -> None:
    record = json.loads((entry / "packed.json").read_text())
    record["made_from"]["bitsandbytes"] = "0.1"
    (entry / "packed.json").write_text(json.dumps(record))


FAULTS = {
    flip: "layer-1.safetensors is damaged",
    cut: "layer-0.safetensors is damaged",
    foreign: "another base or by other versions",
    lambda entry: (entry / "rest.safetensors").unlink(): "cannot be read",
    lambda entry: (entry / "packed.json").unlink(): "cannot be read",
    lambda entry: (entry / "packed.json").write_text("[1]"): "cannot be read",
    lambda entry: (entry / "model.safetensors.index.json").write_text("{}"): "index.json is damaged",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_damaged_or_foreign_is_passed_over_and_made_anew(
    fault: Any, base: Path, cache: Path, packed_anew: list[str]
) -> None:
    (name,) = entries(cache)
    wanted = tensors(load(base, None))
    packed_anew.clear()
    fault(cache / name)
    with pytest.warns(UserWarning, match=FAULTS[fault]):
        found = tensors(load(base, cache))
    assert packed_anew
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
    packed_anew.clear()
    load(base, cache)
    assert not packed_anew


def test_another_base_precision_or_version_has_an_entry_of_its_own(
    base: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_from = packed_cache.origin(str(base), torch.float32, CPU)
    assert packed_cache.find_entry(cache, made_from) is not None
    assert packed_cache.find_entry(cache, packed_cache.origin(str(base), torch.float16, CPU)) is None
    assert (
        packed_cache.find_entry(cache, packed_cache.origin(str(base), torch.float32, torch.device("cuda")))
        is None
    )
    other = shutil.copytree(base, tmp_path / "a base")
    assert (
        packed_cache.find_entry(cache, packed_cache.origin(str(other), torch.float32, CPU)) is not None
    )  # moved
    weights = min(other.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert packed_cache.find_entry(cache, packed_cache.origin(str(other), torch.float32, CPU)) is None
    monkeypatch.setattr(packed_cache, "version", lambda name: "9.9")
    assert packed_cache.find_entry(cache, packed_cache.origin(str(base), torch.float32, CPU)) is None


def test_a_full_disk_or_a_folder_that_cannot_be_written_stops_nothing(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="were not kept"):
        load(base, tmp_path / "file")
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(packed_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.warns(UserWarning, match=r"they take 0\.0 GiB, and 0\.0 are free"):
        load(base, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "full",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_disk_that_fills_while_it_is_written_leaves_nothing(
    full: Exception, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, written = packed_cache.save_file, []

    def until_full(*args: Any) -> None:
        if written:
            raise full
        written.append(save(*args))

    monkeypatch.setattr(packed_cache, "save_file", until_full)
    with pytest.warns(UserWarning, match="were not kept.*No space left"):
        load(base, tmp_path / "cache")
    assert entries(tmp_path / "cache") == []


def test_the_three_used_last_are_kept_and_what_a_killed_process_left_goes(base: Path, cache: Path) -> None:
    model, made_from = load(base, None), packed_cache.origin(str(base), torch.float32, CPU)
    (first,) = entries(cache)
    dead, alive = (cache / f"x-0123456789abcdef.{process}.partial" for process in (1, 2))
    others = cache / "holiday.partial"  # somebody else's, as old
    for folder in (dead, alive, others):
        folder.mkdir()
        (folder / "rest.safetensors").write_bytes(b"")
    hours_ago = time.time() - 7200
    for path in (p for folder in (dead, others) for p in (folder, folder / "rest.safetensors")):
        os.utime(path, (hours_ago, hours_ago))
    for number in range(3):
        for path in cache.glob("*/packed.json"):
            os.utime(path, (path.stat().st_mtime - 10,) * 2)
        assert packed_cache.find_entry(cache, made_from) is not None  # used: it stays
        packed_cache.write_entry(cache, {**made_from, "weights": str(number)}, model)
    left = entries(cache)
    assert first in left
    assert len(left) == 5
    assert alive.name in left and others.name in left
    assert packed_cache.find_entry(cache, {**made_from, "weights": "0"}) is None


def test_one_rank_of_a_machine_writes(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    load(base, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
