"""What a config waits for, checked before anything is loaded: figures that never come, or the wrong way round."""

from __future__ import annotations

from typing import Any

from taigi_lightning.errors import InputError
from taigi_lightning.planning.monitors import NEWEST, Measured, Watch, check_watch


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
    watches += [
        Watch(
            kind.rpartition(".")[2], str(callback.init_args.monitor), callback.init_args.get("mode") or "min"
        )
        for kind, callback in zip(kinds, callbacks, strict=True)
        if kind.endswith((".EarlyStopping", ".ModelCheckpoint"))
        and callback.init_args.get("monitor") not in NEWEST
    ]
    known = all(kind.startswith(("lightning.", "taigi_lightning.")) for kind in kinds)
    for watch in watches if not config.trainer.fast_dev_run else []:
        check_watch(watch, _measured(config), all_known=known and not own_model)


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
    steps, interval = trainer.max_steps, trainer.val_check_interval
    counted = trainer.check_val_every_n_epoch is None and isinstance(interval, int)
    return Measured(
        validates=bool(held_out) and trainer.limit_val_batches not in (0, 0.0),
        questions=kind == "SFTDataModule" or not ours,
        sources=None,
        first=interval if counted else None,
        last=steps * trainer.accumulate_grad_batches if steps > 0 else None,
    )
