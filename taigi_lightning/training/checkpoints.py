"""Finding the checkpoint to resume from: whole, of this run, and the newest of those."""

from __future__ import annotations

import functools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from taigi_lightning.errors import InputError
from taigi_lightning.planning.monitors import NEWEST
from taigi_lightning.terminal import print_line
from taigi_lightning.training.run_identity import Run, read_run


def checkpoint_folder(root: str | Path | None) -> Path:
    """Where a run whose `trainer.default_root_dir` is `root` keeps its checkpoints."""
    return Path(root or ".") / "checkpoints"


class Score(NamedTuple):
    """What a checkpoint was kept for: the monitor, which way is better, and its value."""

    monitor: str
    mode: str
    value: float


class Saved(NamedTuple):
    """A checkpoint on disk.

    Args:
        path: where.
        step: after how many optimizer steps.
        run: by which run; None for one of a version that recorded none.
        best: the path that it records as that run's best one, by another monitor than the step.
        scores: what it was itself kept for.
        whole_state: whether the optimizer's state is in it, without which a run cannot go on.
    """

    path: Path
    step: int
    run: Run | None
    best: str
    scores: tuple[Score, ...] = ()
    whole_state: bool = True


def find_checkpoint(name: str, root: Path) -> str:
    """Turn `--ckpt_path` into a file.

    Args:
        name: `last`, this run's newest whole checkpoint; `best`, its best one by `checkpoint.monitor`; or a file.
        root: the run's folder.

    Raises:
        InputError: there is no such checkpoint, or it is damaged.
    """
    if name == "last":
        return str(newest_checkpoint(root).path)
    if name == "best":
        newest = newest_checkpoint(root)
        kept = best_of(of_run(saved_checkpoints(checkpoint_folder(root)), newest.run, newest.step))
        best = str(kept.path) if kept else newest.best
        if not best or damage(Path(best)):
            raise InputError(
                f"--ckpt_path best: the newest checkpoint in {checkpoint_folder(root)} records no best one that is "
                "there and whole. Set checkpoint.monitor to what is to be best, such as val/loss, or name a file."
            )
        return best
    if name != "hpc" and (fault := damage(Path(name))):
        there = ", ".join(str(saved.path) for saved in saved_checkpoints(checkpoint_folder(root))) or "none"
        raise InputError(
            f"The checkpoint {name} {fault}. In {checkpoint_folder(root)} there are: {there}. `last` takes the "
            "newest whole one of this run."
        )
    return name


def of_run(checkpoints: Iterable[Saved], run: Run | None, step: int) -> list[Saved]:
    """Those of a run's checkpoints that it went through up to a step; where no run is recorded, all up to it."""
    return [
        saved
        for saved in checkpoints
        if saved.step <= step and (run is None or run.continues(saved.run, saved.step))
    ]


def best_of(checkpoints: Iterable[Saved]) -> Saved | None:
    """The best of some checkpoints by the monitor that the first of them was kept for; None if none was."""
    scored = [(score, saved) for saved in checkpoints for score in saved.scores]
    if not scored:
        return None
    first = scored[0][0]
    chosen = [(score.value, saved) for score, saved in scored if score[:2] == first[:2]]
    pick = min if first.mode == "min" else max
    return pick(chosen, key=lambda pair: pair[0])[1]


def newest_checkpoint(root: Path) -> Saved:
    """The whole checkpoint with the most steps that belongs to the run in `root`; the others are named and passed over.

    Raises:
        InputError: there is none.
    """
    folder, run = checkpoint_folder(root), read_run(root)
    others = []
    for saved in saved_checkpoints(folder):
        if not saved.whole_state:  # nor does it say of which run it is
            print_line(f"Passing over {saved.path}: it holds weights alone, without the optimizer's state.")
        elif run is not None and not run.continues(saved.run, saved.step):
            others.append(str(saved.path))
            print_line(f"Passing over {saved.path}: it is not of this run, which {run.in_words()}.")
        elif fault := damage(saved.path):
            print_line(f"Passing over {saved.path}: it {fault}.")
        else:
            return saved
    whose = f" of the run that {run.in_words()}" if run else ""
    name = f", or name one of another run: {', '.join(others[:3])}" if others else ""
    raise InputError(
        f"--ckpt_path last found no complete checkpoint{whose} in {folder}. Leave --ckpt_path out to start from the "
        f"beginning{name}."
    )


def saved_checkpoints(folder: Path) -> list[Saved]:
    """Every checkpoint in a folder that can be read, most steps first; the others are named on the screen."""
    found = []
    for path in sorted(folder.rglob("*.ckpt")):
        try:
            found.append(_read(path))
        except Exception as error:  # whatever a broken pickle raises
            print_line(f"Passing over {path}: it is incomplete or damaged ({type(error).__name__}).")
    return sorted(found, key=lambda saved: saved.step, reverse=True)


def _read(path: Path) -> Saved:
    """What a checkpoint says of itself."""
    content = _opened(path)
    run = content.get("run")
    states = {
        name: state
        for name, state in content.get("callbacks", {}).items()
        if name.startswith("ModelCheckpoint")
    }
    bests = [state["best_model_path"] for state in states.values() if state.get("monitor", "") not in NEWEST]
    return Saved(
        path,
        int(content["global_step"]),
        Run.from_plain(run) if run else None,
        next((str(best) for best in bests if best), ""),
        tuple(_scores(path, states)),
        "callbacks" in content,
    )


def _scores(path: Path, states: Mapping[str, Any]) -> Iterable[Score]:
    """What a checkpoint was kept for, by the states in it of the callbacks that keep them.

    Names are compared with the folder that they are in alone: a run's folder may have been moved.
    """
    for name, state in states.items():
        mode = re.search(r"'mode': '(min|max)'", name)
        if mode is None or state.get("monitor", "") in NEWEST:
            continue
        for kept, value in state.get("best_k_models", {}).items():
            if re.split(r"[\\/]", kept)[-2:] == [path.parent.name, path.name]:
                yield Score(state["monitor"], mode[1], float(value))


def _opened(path: Path) -> dict[str, Any]:
    """A checkpoint's content, whose tensors stay on the disk."""
    content: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return content


def check_goes_on(path: Path) -> None:
    """Refuse to train on from a file of weights alone, before anything is loaded.

    Raises:
        InputError: it is one.
    """
    if path.is_file():
        check_resumable(_opened(path), path)


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's bytes, or None. A `.ckpt` is a zip archive with a CRC-32 of every tensor."""
    if not path.is_file():
        return "does not exist"
    status = path.stat()
    return _damage(path.resolve(), status.st_mtime_ns, status.st_size)


@functools.lru_cache
def _damage(path: Path, changed: int, size: int) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError):
        return "is no complete checkpoint"
    return f"is damaged: the bytes of {broken} are not those that were written" if broken else None


def check_whole(path: str | Path | None) -> None:
    """Refuse a checkpoint that was damaged since it was written, which loading would not notice.

    Args:
        path: the file's; None and a remote address are let through.

    Raises:
        InputError: its bytes are not those that were written.
    """
    if path and "://" not in str(path) and (fault := damage(Path(path))):
        raise InputError(f"The checkpoint {path} {fault}. Give an earlier one; --ckpt_path last finds it.")


def check_resumable(checkpoint: Mapping[str, Any], path: str | Path | None) -> None:
    """Refuse to go on training from a checkpoint that holds weights alone.

    Args:
        checkpoint: its content.
        path: the file's, for the sentence.

    Raises:
        InputError: it has no optimizer's state.
    """
    if not checkpoint.get("optimizer_states"):
        raise InputError(
            f"The checkpoint {path} holds weights alone (save_weights_only), and a run cannot go on from it: the "
            "optimizer's state is not there. Give another one, or begin anew; `validate` and `predict` take it."
        )


def check_trained(found: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose trained parameters are not the model's, which loading would not notice.

    Args:
        found: the checkpoint's tensors by name.
        here: all parameters of the model by name.

    Raises:
        InputError: a name or a shape differs, or a parameter that trains is missing.
    """
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    known = {name: tuple(parameter.shape) for name, parameter in here.items()}
    unknown = [name for name, shape in shapes.items() if known.get(name) != shape]
    missing = [name for name, parameter in here.items() if parameter.requires_grad and name not in shapes]
    if unknown or missing:
        first = (unknown or missing)[0]
        raise InputError(
            f"The checkpoint's trained parameters are not this config's: {len(unknown)} differ and "
            f"{len(missing)} are missing, the first being {first} (checkpoint {shapes.get(first)}, here "
            f"{known.get(first)}). Use the config the checkpoint was trained with."
        )
