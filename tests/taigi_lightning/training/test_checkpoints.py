"""The newest complete checkpoint is found, and a torn one never chosen."""

from pathlib import Path

import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.training.checkpoints import find_checkpoint, newest_checkpoint


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


def test_a_checkpoint_that_is_none_is_answered_with_those_there_are(tmp_path: Path) -> None:
    torch.save({"step": 7}, tmp_path / "step=7.ckpt")
    assert find_checkpoint("last", tmp_path) == str(tmp_path / "step=7.ckpt")
    assert find_checkpoint(str(tmp_path / "step=7.ckpt"), tmp_path) == str(tmp_path / "step=7.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    for name, found in (
        ("nope.ckpt", "no checkpoint nope.ckpt"),
        (f"{tmp_path}/text.ckpt", "no complete checkpoint"),
    ):
        with pytest.raises(InputError, match=rf"{found}.*step=7\.ckpt"):
            find_checkpoint(name, tmp_path)
