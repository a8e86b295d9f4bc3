"""A base for the tests of the fast path, and a folder for those that run commands."""

from pathlib import Path

import pytest

from tests.taigi_lightning.fast_path.small_decoders import llama
from tests.working_folder import small_corpus


@pytest.fixture(scope="module")
def nf4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama in 32 bits, which `nf4_llama` loads in four."""
    folder = tmp_path_factory.mktemp("base")
    llama().save_pretrained(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the project's configs, a tiny base and a small corpus; it is the current one."""
    small_corpus(tmp_path, tiny_llama_dir)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path
