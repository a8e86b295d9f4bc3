"""Which of the Hub's files are fetched of a base."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects

from taigi_lightning.model.safetensors_files import base_folder

NEEDED = [
    "config.json",
    "model-00001-of-00001.safetensors",
    "model.safetensors.index.json",
    "tokenizer.model",
]
LEFT = ["consolidated.safetensors", "original/model.safetensors", "pytorch_model.bin", "training_args.bin"]


def test_weights_that_lie_there_twice_are_fetched_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fetched: list[str] = []

    def download(_: str, allow_patterns: Any, ignore_patterns: Any, local_files_only: bool) -> str:
        if not local_files_only:
            found = filter_repo_objects(
                [*NEEDED, *LEFT], allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
            )
            fetched.extend(found)
            (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert base_folder("owner/model") == tmp_path
    assert fetched == NEEDED
