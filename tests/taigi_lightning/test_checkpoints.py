"""The newest complete checkpoint is found, and a torn one never chosen."""

from pathlib import Path

import pytest
import torch

from taigi_lightning.checkpoints import newest_checkpoint
from taigi_lightning.errors import InputError


def test_the_one_with_the_most_steps_wins_whatever_its_age(tmp_path: Path) -> None:
    for step in (900, 1000, 20):
        torch.save({"step": step}, tmp_path / f"step={step}.ckpt")
    assert newest_checkpoint(tmp_path).name == "step=1000.ckpt"


def test_a_torn_file_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weights": torch.zeros(1000)}, tmp_path / "step=10.ckpt")
    whole = (tmp_path / "step=10.ckpt").read_bytes()
    (tmp_path / "interrupted-step=12.ckpt").write_bytes(whole[: len(whole) // 2])
    assert newest_checkpoint(tmp_path).name == "step=10.ckpt"
    assert "interrupted-step=12.ckpt" in capsys.readouterr().out


def test_no_checkpoint_at_all_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Leave --ckpt_path out"):
        newest_checkpoint(tmp_path / "checkpoints")
