"""Values that a setting may not have, though its type allows them: found before anything heavy is imported."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from taigi_lightning.cli.config_locations import where


class Bounds(NamedTuple):
    """The least and the greatest number of a setting, and the same in words."""

    low: float
    high: float
    words: str


_ANY = math.inf
AT_LEAST = {
    -1: Bounds(-1, _ANY, "a whole number above 0, or -1 for no limit"),
    0: Bounds(0, _ANY, "0 or more"),
    1: Bounds(1, _ANY, "1 or more"),
}
ABOVE_0 = Bounds(math.ulp(0.0), 1e9, "a number above 0")  # subnormals included
# What Lightning or PyTorch would refuse once a model is loaded, or would take without a word.
BOUNDS = {
    "seed_everything": Bounds(0, 2**32 - 1, "a whole number from 0 to 4294967295"),
    "trainer.max_steps": AT_LEAST[-1],
    "trainer.max_epochs": AT_LEAST[-1],
    "trainer.min_steps": AT_LEAST[0],
    "trainer.min_epochs": AT_LEAST[0],
    "trainer.accumulate_grad_batches": AT_LEAST[1],
    "trainer.check_val_every_n_epoch": AT_LEAST[1],
    "trainer.val_check_interval": ABOVE_0,
    "trainer.gradient_clip_val": AT_LEAST[0],
    "trainer.log_every_n_steps": AT_LEAST[0],
    "trainer.num_sanity_val_steps": Bounds(-1, _ANY, "0 or more, or -1 for every batch"),
    **{f"trainer.limit_{name}_batches": AT_LEAST[0] for name in ("train", "val", "test", "predict")},
    "trainer.overfit_batches": AT_LEAST[0],
    "trainer.num_nodes": AT_LEAST[1],
    "checkpoint.save_top_k": Bounds(-1, _ANY, "0 or more, or -1 for all"),
    "checkpoint.every_n_train_steps": AT_LEAST[0],
    "checkpoint.every_n_epochs": AT_LEAST[0],
    "model.optimizer.lr": ABOVE_0,
    "model.optimizer.weight_decay": AT_LEAST[0],
    "model.optimizer.eps": AT_LEAST[0],
    "model.lora.r": Bounds(1, 2**16, "a rank from 1 to 65536"),
    "data.batch_size": Bounds(1, 2**31 - 1, "a whole number from 1 to 2147483647"),
    "data.max_length": Bounds(1, 2**31 - 1, "a whole number from 1 to 2147483647"),
}
# A path that is empty means the folder one stands in, or nothing.
PATHS = ("model.base", "model.adapter", "data.data_dir", "data.questions", "data.train_file", "data.validation_file",
         "trainer.default_root_dir", "ckpt_path")  # fmt: skip
MIXED = ("data.data_dir.", "data.train_file.")  # each source of a mixture with its weight
# Of an epoch's batches.
SHARES_OR_COUNTS = {key for key in BOUNDS if "limit_" in key} | {
    "trainer.val_check_interval",
    "trainer.overfit_batches",
}
LARGEST = 2**63 - 1  # what PyTorch and NumPy count with


def impossible_value(config: Mapping[str, Any], arguments: Sequence[str]) -> str | None:
    """The sentence for the first setting whose value cannot be right, or None.

    Args:
        config: what the parser made of the command line.
        arguments: the command line without the program's name.
    """
    for key in PATHS:
        if setting(config, key) == "":
            return f"{key} is empty{where(key, arguments)}; give a path, or leave it out."
    for key, value in numbers(config):
        bounds = ABOVE_0 if key.startswith(MIXED) else BOUNDS.get(key)
        wanted = ""
        if math.isnan(value):
            wanted = bounds.words if bounds else "a number"
        elif bounds is not None and not (bounds.low <= value <= bounds.high and math.isfinite(value)):
            wanted = bounds.words
        elif key in SHARES_OR_COUNTS and value > 1 and value != int(value):
            wanted = "a share up to 1, or a whole number"
        elif isinstance(value, int) and abs(value) > LARGEST:
            wanted = f"a number of at most {LARGEST}"
        if wanted:
            return f"{key} is {value}{where(key, arguments)}; wanted {wanted}."
    return None


def setting(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key, in which `init_args` does not count; None where there is none.

    >>> setting({"data": {"init_args": {"data_dir": ""}}}, "data.data_dir")
    ''
    """
    found: Any = config
    for part in key.split("."):
        found = found.get("init_args", found) if isinstance(found, Mapping) else {}
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def numbers(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int | float]]:
    """Every number of a config with its dotted name, in which `init_args`, which flags leave out, does not count.

    >>> [*numbers({"model": {"optimizer": {"init_args": {"lr": 0.1}}}, "trainer": {"devices": [0, True]}})]
    [('model.optimizer.lr', 0.1), ('trainer.devices', 0)]
    """
    for name, value in config.items():
        key = prefix if name == "init_args" else f"{prefix}.{name}".lstrip(".")
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield from numbers(one, key)
            elif isinstance(one, int | float) and not isinstance(one, bool):
                yield key, one
