"""What a config waits for, checked before anything is loaded: figures that never come, or the wrong way round."""

from __future__ import annotations

from typing import Any

from taigi_lightning.errors import InputError
from taigi_lightning.planning.monitors import NEWEST, Measured, Watch, check_watch, source_names


def check_monitors(config: Any, *, own_model: bool) -> None:
    """Refuse a checkpoint or an early stop that waits for a figure that never comes, before anything is loaded.

    Args:
        config: what the parser made of the command line.
        own_model: whether the module is one of the user's own, which may log anything.

    Raises:
        InputError: it is so; or the best checkpoint is to be exported, and none is kept by a figure.
    """
    given = config.trainer.callbacks or []
    callbacks = given if isinstance(given, list) else [given]
    kinds = [str(callback.class_path) for callback in callbacks]
    keeps = config.trainer.enable_checkpointing is not False and not config.trainer.barebones
    watches = [Watch("checkpoint.monitor", config.checkpoint.monitor, config.checkpoint.mode)]
    watches = [
        watch for watch in watches if keeps and watch.monitor not in NEWEST and config.checkpoint.save_top_k
    ]
    own = any("Checkpoint" in kind for kind in kinds)
    if config.export.which == "best" and not (watches or (own and keeps)):
        raise InputError(
            "export.which is best, and no checkpoint is kept by a figure that could be best. Give "
            "--checkpoint.monitor val/loss, or --export.which last."
        )
    for kind, callback in zip(kinds, callbacks, strict=True):
        if not kind.endswith((".EarlyStopping", ".ModelCheckpoint")):
            continue
        settings = callback.init_args
        if settings.get("monitor") not in NEWEST:
            name = kind.rpartition(".")[2]
            watches.append(Watch(name, str(settings.monitor), settings.get("mode") or "min"))
            _check_epoch_end(name, settings, config.trainer)
    known = all(kind.startswith(("lightning.", "taigi_lightning.")) for kind in kinds)
    for watch in watches if not config.trainer.fast_dev_run else []:
        check_watch(watch, _measured(config), all_known=known and not own_model)
    _check_saves(config)


def _check_epoch_end(name: str, settings: Any, trainer: Any) -> None:
    """Refuse to look at each epoch's end for what is measured at other times."""
    validated = str(settings.monitor).startswith("val/")
    if validated and settings.get("check_on_train_epoch_end") and trainer.check_val_every_n_epoch != 1:
        raise InputError(
            f"{name} looks for {settings.monitor} at the end of every epoch (check_on_train_epoch_end), and it is not "
            "measured in every one. Leave that out: then it looks after each validation."
        )


def _check_saves(config: Any) -> None:
    """Refuse to keep the best by a figure of training in a run that ends before the first save."""
    monitor, every, steps = (
        str(config.checkpoint.monitor),
        config.checkpoint.every_n_train_steps,
        config.trainer.max_steps,
    )
    if monitor.startswith("train/") and every and 0 < steps < every:
        raise InputError(
            f"checkpoint.monitor is {monitor}, which is looked at every {every} steps "
            f"(checkpoint.every_n_train_steps), and the run ends after {steps}. Lower it."
        )


def _measured(config: Any) -> Measured:
    """What a run would measure on held-out data, by its config alone."""
    trainer, data = config.trainer, config.data.init_args
    kind = config.data.class_path.rpartition(".")[2]
    ours = kind in ("CPTDataModule", "SFTDataModule", "InstructionDataModule")
    held_out = (
        not ours
        or data.get("validation_split")
        or data.get("validation_file")
        or data.get("validation_fraction")
    )
    return Measured(
        validates=bool(held_out) and trainer.limit_val_batches not in (0, 0.0),
        questions=kind == "SFTDataModule" or not ours,
        sources=_sources(data) if ours else None,
        **_first_validation(trainer),
    )


def _first_validation(trainer: Any) -> dict[str, Any]:
    """When the first validation comes and when the run ends, as `Measured` has them, as far as the config says so."""
    steps, interval, every = trainer.max_steps, trainer.val_check_interval, trainer.check_val_every_n_epoch
    if every is None and isinstance(interval, int) and steps > 0:
        return {"first": interval, "last": steps * trainer.accumulate_grad_batches}
    if every is not None and steps <= 0 and (trainer.max_epochs or 0) > 0:
        return {"first": every, "last": trainer.max_epochs, "unit": "epochs"}
    return {}


def _sources(data: Any) -> list[str] | None:
    """What several sources that are validated on are called; None where only their data module knows."""
    mixed = data.get("data_dir") or data.get("train_file")
    if not isinstance(mixed, dict) or len(mixed) < 2 or data.get("validation_file"):
        return []
    return None if any(source.startswith("hf:") for source in mixed) else source_names(list(mixed))
