"""Values that a setting's type allows and that nothing means."""

from typing import Any

import pytest

from taigi_lightning.cli.impossible_values import impossible_value


def config(key: str, value: Any) -> dict[str, Any]:
    """A parsed config with one setting; data and optimizers hold theirs in `init_args`."""
    *groups, name = key.split(".")
    found: dict[str, Any] = {name: value}
    for group in reversed(groups):
        found = {group: {"init_args": found} if group in ("data", "optimizer") else found}
    return found


@pytest.mark.parametrize(
    ("key", "values", "wanted"),
    [
        ("seed_everything", [-1, 2**32], "from 0 to 4294967295"),
        ("trainer.max_steps", [-5], "-1 for no limit"),
        ("trainer.max_epochs", [-2], "-1 for no limit"),
        ("trainer.min_steps", [-1], "0 or more"),
        ("trainer.accumulate_grad_batches", [0, -1], "1 or more"),
        ("trainer.check_val_every_n_epoch", [0], "1 or more"),
        ("trainer.val_check_interval", [0, -3, 0.0], "above 0"),
        ("trainer.val_check_interval", [1.5], "a share up to 1, or a whole number"),
        ("trainer.limit_train_batches", [-2, -0.5], "0 or more"),
        ("trainer.limit_test_batches", [2.5], "a share up to 1, or a whole number"),
        ("trainer.gradient_clip_val", [-1.0], "0 or more"),
        ("trainer.num_sanity_val_steps", [-7], "-1 for every batch"),
        ("trainer.log_every_n_steps", [10**25], "at most 9223372036854775807"),
        ("checkpoint.save_top_k", [-2], "-1 for all"),
        ("checkpoint.every_n_train_steps", [-1], "0 or more"),
        ("model.optimizer.lr", [0, -1e-4, float("inf"), float("nan")], "a number above 0"),
        ("model.optimizer.weight_decay", [-0.1], "0 or more"),
        ("model.optimizer.betas", [[0.9, float("nan")]], "a number"),
        ("model.lora.r", [10**11], "65536"),
        ("data.max_length", [10**11], "2147483647"),
        ("data.batch_size", [10**11], "2147483647"),
        ("data.my_own", [float("nan")], "a number"),
        ("model.base", [""], "give a path"),
        ("model.adapter", [""], "give a path"),
        ("data.data_dir", [""], "give a path"),
        ("trainer.default_root_dir", [""], "give a path"),
    ],
)
def test_it_is_named_with_its_place_and_what_was_wanted(key: str, values: list[Any], wanted: str) -> None:
    for value in values:
        said = impossible_value(config(key, value), ["fit", f"--{key}", str(value)])
        assert said is not None, value
        assert said.startswith(f"{key} is ") and f"(--{key})" in said and wanted in said


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("seed_everything", [0, True, 2**32 - 1, None]),
        ("trainer.max_steps", [-1, 0, 1, 10**9]),
        ("trainer.val_check_interval", [0.25, 1.0, 400, None]),
        ("trainer.limit_train_batches", [0, 0.5, 1, 7, 2.0]),
        ("trainer.num_sanity_val_steps", [-1, 0]),
        ("model.optimizer.lr", [1e-12, 2e-4, 1]),
        ("model.base", ["models/a", None]),
        ("checkpoint.save_top_k", [-1, 0, 2]),
    ],
)
def test_what_can_be_meant_passes(key: str, values: list[Any]) -> None:
    for value in values:
        assert impossible_value(config(key, value), []) is None, value
