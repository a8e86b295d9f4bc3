"""`last` is the newest whole checkpoint of the folder's run, or none; a damaged one is never chosen."""

from pathlib import Path

import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.training.checkpoints import check_whole, find_checkpoint, newest_checkpoint
from taigi_lightning.training.run_identity import Run, begin, write_run


def save(root: Path, name: str, step: int, run: Run | None = None, best: str = "") -> Path:
    path = root / "checkpoints" / name
    path.parent.mkdir(exist_ok=True, parents=True)
    content = {"global_step": step, "weights": torch.arange(10_000.0) + step}
    if run:
        content["run"] = run.as_plain()
    torch.save(content | {"callbacks": {"ModelCheckpoint{'monitor': 'x'}": {"best_model_path": best}}}, path)
    return path


def start(earlier: Run | None = None, step: int = 0) -> Run:
    return begin(earlier, step=step, seed=1, settings="", data="")


def test_the_one_with_the_most_steps_wins_whatever_its_age_or_name(tmp_path: Path) -> None:
    for name, step in (("step=900.ckpt", 900), ("epoch=3/loss=0.1.ckpt", 1000), ("last.ckpt", 20)):
        (tmp_path / "checkpoints" / name).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path, name, step)
    assert newest_checkpoint(tmp_path).step == 1000


def test_another_runs_checkpoint_is_not_the_last_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run A finished at 12, run B began anew and was killed at 3 before it saved."""
    first = start()
    save(tmp_path, "step=12.ckpt", 12, first)
    write_run(tmp_path, start())
    with pytest.raises(InputError, match=r"no complete checkpoint of the run that began .*step=12\.ckpt"):
        find_checkpoint("last", tmp_path)
    write_run(tmp_path, first)
    assert newest_checkpoint(tmp_path).step == 12
    assert "not of this run" in capsys.readouterr().out


def test_what_a_run_left_behind_by_going_back_is_not_its_last(tmp_path: Path) -> None:
    """Trained to 12, resumed from 3 with other settings, saved at 6 and killed."""
    first = start()
    for step in (3, 12):
        save(tmp_path, f"step={step}.ckpt", step, first)
    again = start(first, step=3)
    write_run(tmp_path, again)
    assert newest_checkpoint(tmp_path).step == 3
    save(tmp_path, "step=6.ckpt", 6, again)
    assert newest_checkpoint(tmp_path).step == 6


def test_checkpoints_of_versions_without_runs_go_on_working(tmp_path: Path) -> None:
    save(tmp_path, "step=7.ckpt", 7)
    assert newest_checkpoint(tmp_path).step == 7


@pytest.mark.parametrize("fault", ["cut", "flipped", "hole", "empty"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    whole, broken = save(tmp_path, "step=10.ckpt", 10), save(tmp_path, "step=12.ckpt", 12)
    content = bytearray(broken.read_bytes())
    middle = len(content) // 2  # in the weights
    if fault == "cut":
        del content[middle:]
    elif fault == "flipped":
        content[middle] ^= 1
    elif fault == "hole":
        content[middle : middle + 4096] = bytes(4096)
    else:
        content.clear()
    broken.write_bytes(content)
    assert find_checkpoint("last", tmp_path) == str(whole)
    assert "Passing over" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"step=12\.ckpt .*step=10\.ckpt"):
        find_checkpoint(str(broken), tmp_path)
    with pytest.raises(InputError, match="Give an earlier one"):
        check_whole(broken)


def test_best_is_what_the_newest_one_records(tmp_path: Path) -> None:
    good = save(tmp_path, "step=2.ckpt", 2)
    save(tmp_path, "step=4.ckpt", 4, best=str(good))
    assert find_checkpoint("best", tmp_path) == str(good)
    good.unlink()
    with pytest.raises(InputError, match="records no best"):
        find_checkpoint("best", tmp_path)


def test_no_checkpoint_at_all_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Leave --ckpt_path out"):
        find_checkpoint("last", tmp_path)
    save(tmp_path, "step=7.ckpt", 7)
    with pytest.raises(InputError, match=r"nope\.ckpt does not exist.*step=7\.ckpt"):
        find_checkpoint("nope.ckpt", tmp_path)
