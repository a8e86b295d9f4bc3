"""A folder to run commands in, as a user's checkout looks after the corpus was cleaned."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parent.parent


def lay_out(folder: Path, base: Path, texts: Sequence[str], *, held_out: int, manifest: str = "{}") -> None:
    """Link the project's configs and a base; write texts as the corpus `data/cpt_corpus`.

    Args:
        base: linked as `models/base`.
        held_out: how many of the texts, the last ones, are the validation split.
    """
    (folder / "models").mkdir()
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "models" / "base").symlink_to(base)
    corpus = folder / "data" / "cpt_corpus"
    corpus.mkdir(parents=True)
    rows = pd.DataFrame({"text": list(texts)})
    rows[:-held_out].to_parquet(corpus / "train-00000-of-00001.parquet")
    rows[-held_out:].to_parquet(corpus / "validation-00000-of-00001.parquet")
    (corpus / "manifest.json").write_text(manifest)
