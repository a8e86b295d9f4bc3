"""Without Triton everything still runs, in plain torch, and says so once."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from taigi_lightning.fast_path import apply, cross_entropy
from taigi_lightning.kernels import elementwise
from taigi_lightning.kernels.triton_support import plain_operations, triton_fault

CARD: Any = SimpleNamespace(is_cuda=True)


@pytest.fixture
def no_triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Importing it fails, as in a PyTorch for Windows or for CPUs."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    triton_fault.cache_clear()
    yield
    triton_fault.cache_clear()


@pytest.mark.usefixtures("no_triton")
def test_without_it_a_card_computes_in_plain_torch() -> None:
    assert cross_entropy._operations(CARD) is elementwise
    assert not apply._runs_triton(CARD)


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize(("system", "package"), [("win32", "triton-windows"), ("linux", "triton")])
def test_a_run_on_a_card_says_so_and_what_to_install(
    monkeypatch: pytest.MonkeyPatch, system: str, package: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    line = plain_operations(cuda=True, wanted=True)
    assert line is not None and "plain PyTorch" in line and line.endswith(f"install the package {package}")


@pytest.mark.usefixtures("no_triton")
@pytest.mark.parametrize(("cuda", "wanted"), [(False, True), (True, False)])
def test_nothing_is_said_where_nothing_would_use_it(cuda: bool, wanted: bool) -> None:
    assert plain_operations(cuda, wanted) is None


def test_a_library_that_cannot_be_loaded_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("[WinError 126] The specified module could not be found\nmore")

    monkeypatch.setattr("taigi_lightning.kernels.triton_support.import_module", broken)
    triton_fault.cache_clear()
    assert triton_fault() == "OSError: [WinError 126] The specified module could not be found"
    triton_fault.cache_clear()
