"""A model from scratch takes all of its base's tokenizer along, and a full disk is found out before training."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from taigi_lightning.errors import InputError
from taigi_lightning.model.export import export_full_model
from taigi_lightning.model.safetensors_files import tokenizer_files
from taigi_lightning.planning.disk import check_space, free_space, run_bytes

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def base(tiny_tokenizer_dir: Path, tmp_path: Path) -> Path:
    """A tokenizer with a chat template beside it, as transformers 5 writes it."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_tokenizer_dir, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "README.md").write_text("not part of the tokenizer")
    return folder


@pytest.fixture
def hub_base(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same base under a Hub name, in a cache that has it already; there is no network."""
    cache = tmp_path / "hub"
    repository = cache / "models--somebody--tiny"
    shutil.copytree(base, repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return "somebody/tiny"


def test_the_tokenizer_goes_along_with_its_chat_template(
    base: Path, tiny_llama_dir: Path, tiny_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    export_full_model(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), str(base), output, "1MB")
    written = AutoTokenizer.from_pretrained(output)
    assert written.encode("阿明欲去佗位？") == tiny_tokenizer.encode("阿明欲去佗位？")
    assert written.apply_chat_template([{"role": "user", "content": "好"}], tokenize=False) == "好"
    assert not (output / "README.md").exists()
    assert not (output / "model.partial").exists()


def test_a_hub_name_is_found_in_the_cache(hub_base: str, base: Path) -> None:
    found = tokenizer_files(hub_base)
    assert [path.name for path in found] == [path.name for path in tokenizer_files(base)]


def test_a_hub_name_that_is_nowhere_is_said_to_be(hub_base: str) -> None:
    with pytest.raises(InputError, match="somebody/else"):
        tokenizer_files("somebody/else")


def test_a_run_keeps_one_checkpoint_more_while_it_writes() -> None:
    needs = run_bytes(adapter=10, optimizer=20, checkpoints=2, merged=100)
    assert needs == {"checkpoints": 90, "adapter": 10, "merged model": 100}
    assert run_bytes(adapter=10, optimizer=20, checkpoints=0, merged=0) == {"adapter": 10}


def test_too_small_a_disk_is_refused_with_the_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert free_space(tmp_path / "not" / "there") == (tmp_path, 10**9)
    check_space(tmp_path, {"adapter": 10**9}, "")
    with pytest.raises(
        InputError, match=r"2\.00 GB are needed .*\(adapter 1\.50, merged model 0\.50\).* 1\.00 GB"
    ):
        check_space(tmp_path, {"adapter": 3 * 10**9 // 2, "merged model": 10**9 // 2}, "")
