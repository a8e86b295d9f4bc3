"""A base for the tests of the fast path."""

from pathlib import Path

import pytest

from tests.taigi_lightning.small_decoders import llama


@pytest.fixture(scope="module")
def nf4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama in 32 bits, which `nf4_llama` loads in four."""
    folder = tmp_path_factory.mktemp("base")
    llama().save_pretrained(folder)
    return folder
