"""`merge` as a command: which base it takes, and the card that it leaves."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from taigi_lightning.cli.merge import merge_command
from taigi_lightning.errors import InputError
from taigi_lightning.model.lineage import base_identity, write_lineage
from tests.taigi_lightning.model.saved_adapters import edited, save_adapter, save_base


def test_the_command_takes_the_base_that_the_adapter_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_base(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter")
    merge_command(adapter=adapter, output_dir=tmp_path / "merged")
    assert f"of {base} merged, onto the original ones" in capsys.readouterr().out
    assert not (tmp_path / "merged" / "README.md").exists(), "no lineage says what the adapter was trained on"
    with pytest.raises(InputError, match="--overwrite true to replace it"):
        merge_command(adapter=adapter, output_dir=tmp_path / "merged")
    merge_command(adapter=adapter, output_dir=tmp_path / "merged", overwrite=True)
    with pytest.raises(InputError, match="give --base"):
        merge_command(adapter=edited(adapter, base_model_name_or_path=None))


def test_the_command_leaves_a_card_that_names_the_base(tmp_path: Path) -> None:
    base = save_base(
        tmp_path / "models--someone--base" / "snapshots" / "0a1b"
    )  # as the Hub's cache lays it out
    adapter = save_adapter(base, tmp_path / "adapter")
    write_lineage(adapter, base=base_identity(base))
    merge_command(adapter=adapter, output_dir=tmp_path / "merged")
    card = ModelCard.load(tmp_path / "merged" / "README.md")
    assert (card.data.base_model, card.data.base_model_relation) == ("someone/base", "finetune")
    assert str(tmp_path) not in str(card)
