"""How much host memory a process may take for activations."""

import pytest

from taigi_lightning.fast_path.activation_offload import host_bytes


def test_processes_of_one_machine_share_half_of_its_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taigi_lightning.fast_path.activation_offload.available_bytes", lambda: 4 * 2**30)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert host_bytes(True) == 2 * 2**30
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert host_bytes(True) == 2**29
    assert host_bytes(False) == 0.0
    assert host_bytes(8) == 8 * 2**30
