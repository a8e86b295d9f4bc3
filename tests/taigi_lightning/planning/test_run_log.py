"""Logs of a run that was stopped and resumed: one course, in which no step counts twice."""

from pathlib import Path

from taigi_lightning.planning.run_log import read_run_log


def start(folder: Path, number: int, first: int, last: int, *, loss: float, checkpoint: str | None) -> None:
    """What one start logs: steps `first` to `last`, counted from 0 as Lightning does, and its settings."""
    log = folder / "logs" / f"version_{number}" / "metrics.csv"
    log.parent.mkdir(parents=True)
    rows = "\n".join(f"0,{step},{loss}" for step in range(first, last + 1))
    log.write_text(f"epoch,step,train/loss\n{rows}\n")
    (log.parent / "hparams.yaml").write_text(f"ckpt_path: {checkpoint or 'null'}\n")


def test_a_resume_goes_on_where_its_checkpoint_was(tmp_path: Path) -> None:
    start(tmp_path, 0, 0, 29, loss=3.0, checkpoint=None)
    start(tmp_path, 1, 20, 39, loss=2.0, checkpoint="checkpoints/step=20.ckpt")
    metrics, resumed_at = read_run_log(tmp_path)
    assert [step for step, _ in metrics["train/loss"]] == list(range(1, 41)), "each step once, in order"
    assert [loss for _, loss in metrics["train/loss"]] == [3.0] * 20 + [2.0] * 20
    assert resumed_at == [20]


def test_versions_are_numbers_and_resumes_add_up(tmp_path: Path) -> None:
    start(tmp_path, 0, 0, 4, loss=0.0, checkpoint=None)
    for number in range(1, 12):  # version_10 and version_11 come after version_9
        path = f"checkpoints/interrupted-step={5 * number}.ckpt"
        start(tmp_path, number, 5 * number, 5 * number + 4, loss=float(number), checkpoint=path)
    metrics, resumed_at = read_run_log(tmp_path)
    assert [loss for _, loss in metrics["train/loss"]] == [float(step // 5) for step in range(60)]
    assert resumed_at == [5 * number for number in range(1, 12)]


def test_going_back_before_a_resume_forgets_it(tmp_path: Path) -> None:
    start(tmp_path, 0, 0, 9, loss=0.0, checkpoint=None)
    start(tmp_path, 1, 8, 9, loss=1.0, checkpoint="step=8.ckpt")
    start(tmp_path, 2, 4, 9, loss=2.0, checkpoint="step=4.ckpt")
    metrics, resumed_at = read_run_log(tmp_path)
    assert [loss for _, loss in metrics["train/loss"]] == [0.0] * 4 + [2.0] * 6
    assert resumed_at == [4]


def test_a_new_run_in_the_same_folder_is_not_a_resume(tmp_path: Path) -> None:
    start(tmp_path, 0, 0, 29, loss=3.0, checkpoint=None)
    start(tmp_path, 1, 9, 19, loss=2.0, checkpoint=None)  # logged every tenth step only
    metrics, resumed_at = read_run_log(tmp_path)
    assert {loss for _, loss in metrics["train/loss"]} == {2.0}
    assert resumed_at == []


def test_a_start_that_logged_nothing_changes_nothing(tmp_path: Path) -> None:
    start(tmp_path, 0, 0, 9, loss=3.0, checkpoint=None)
    start(tmp_path, 1, 0, -1, loss=2.0, checkpoint="step=10.ckpt")  # a finished run, resumed for its export
    metrics, resumed_at = read_run_log(tmp_path)
    assert len(metrics["train/loss"]) == 10
    assert resumed_at == []
