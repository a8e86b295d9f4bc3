"""Names from before the folders: configs and scripts that have them go on working."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import taigi_lightning
from taigi_lightning.moved_modules import MOVED


def test_every_old_name_leads_to_a_module_that_is_there() -> None:
    root = Path(taigi_lightning.__file__).parent
    for new in filter(None, MOVED.values()):
        assert (root / f"{new.replace('.', '/')}.py").is_file(), new


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("datamodules", "CPTDataModule"),
        ("datamodules", "SFTDataModule"),
        ("predict_data", "PredictDataModule"),
        ("module", "CausalLMModule"),
        ("adapters", "LoraSettings"),
        ("merging", "merge_adapter"),
    ],
)
def test_an_old_name_gives_the_very_same_class_and_says_where_it_is(old: str, name: str) -> None:
    sys.modules.pop(f"taigi_lightning.{old}", None)
    with pytest.warns(FutureWarning, match=rf"taigi_lightning\.{old} is now taigi_lightning"):
        module = import_module(f"taigi_lightning.{old}")
    assert getattr(module, name) is getattr(taigi_lightning, name)


def test_a_name_that_never_was_is_still_missing() -> None:
    with pytest.raises(ModuleNotFoundError, match="datamodule"):
        import_module("taigi_lightning.datamodule")


def test_the_config_of_an_earlier_run_is_read(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser
    from lightning.pytorch import LightningDataModule

    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    old = {"class_path": "taigi_lightning.datamodules.CPTDataModule", "init_args": {"batch_size": 2}}
    with pytest.warns(FutureWarning):
        sys.modules.pop("taigi_lightning.datamodules", None)
        found = parser.parse_string(yaml.safe_dump({"data": old}))
    assert found.data.init_args.batch_size == 2
