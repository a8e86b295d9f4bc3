"""A folder to run commands in, as a user's checkout looks after the corpus was cleaned."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parent.parent
TEXT = "阿明下晡欲去市仔買菜，伊毋知影按怎行。今仔日的天氣真好，咱來去海邊仔𨑨迌。"
CPT = [
    "fit", "--config", "configs/cpt.yaml", "--config", "configs/tiny.yaml", "--model.base", "models/base",
    "--data.init_args.max_length", "64", "--trainer.val_check_interval", "1000",
    "--trainer.enable_checkpointing", "true", "--samples.new_tokens", "2",
]  # fmt: skip


def link(place: Path, target: Path) -> None:
    """A link to a folder, or a copy of it where the system lets only administrators make links."""
    try:
        place.symlink_to(target, target_is_directory=True)
    except OSError:
        shutil.copytree(target, place)


def lay_out(folder: Path, base: Path, texts: Sequence[str], *, held_out: int, manifest: str = "{}") -> None:
    """Link the project's configs and a base; write texts as the corpus `data/cpt_corpus`.

    Args:
        base: linked as `models/base`.
        held_out: how many of the texts, the last ones, are the validation split.
    """
    (folder / "models").mkdir()
    link(folder / "configs", ROOT / "configs")
    link(folder / "models" / "base", base)
    corpus = folder / "data" / "cpt_corpus"
    corpus.mkdir(parents=True)
    rows = pd.DataFrame({"text": list(texts)})
    rows[:-held_out].to_parquet(corpus / "train-00000-of-00001.parquet")
    rows[-held_out:].to_parquet(corpus / "validation-00000-of-00001.parquet")
    (corpus / "manifest.json").write_text(manifest)


def small_corpus(folder: Path, base: Path) -> Path:
    """Lay out a corpus of forty texts of four lengths, four of them held out; returns the folder."""
    lay_out(folder, base, [f"{TEXT * (1 + n % 4)}{n}" for n in range(40)], held_out=4)
    return folder


def environment() -> dict[str, str]:
    """The variables of a command that runs in such a folder, in a process of its own."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
