"""Tables in memory as the Parquet files that the data modules read: a DataFrame, a list of dicts, a HF Dataset."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from taigi_lightning.atomic_write import write_json, written_aside
from taigi_lightning.data.hub import hub_file, hub_folder, is_address
from taigi_lightning.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    Rows: TypeAlias = pd.DataFrame | datasets.Dataset | Sequence[Mapping[str, Any]]
    Source: TypeAlias = str | os.PathLike[str] | Rows
    Shares: TypeAlias = Mapping[str, float]
    CorpusSource: TypeAlias = Source | Shares | Mapping[str, Rows]
    TrainingSource: TypeAlias = Source | Shares
    QuestionSource: TypeAlias = Source
else:  # what the command line takes
    Source = str
    CorpusSource = TrainingSource = str | dict[str, float]
    QuestionSource = Path


def is_mixture(source: object) -> TypeGuard[Shares]:
    """Whether these are paths with their shares, not one path or table."""
    return isinstance(source, Mapping) and all(isinstance(share, int | float) for share in source.values())


def weighted_paths(source: Any, path: Callable[[Any], str]) -> str | dict[str, float]:
    """One path; or paths with their shares, where that is what was given.

    Args:
        source: what a data module was given.
        path: what makes a path of one source: `questions_path` or `corpus_path`.
    """
    if not is_mixture(source):
        return path(source)
    return {path(one): share for one, share in source.items()}


def questions_path(source: Source) -> str:
    """The path of questions that are in a file already, or were written into the cache from a table or from the Hub.

    Raises:
        InputError: it is none of the kinds of table, or has no rows.
    """
    if is_address(source):
        return str(hub_file(source))
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    content, digest = _parquet(source)
    return str(_stored(_cache() / f"{digest}.parquet", content))


def corpus_path(source: CorpusSource) -> str:
    """The folder of a corpus that is on disk already, or was written into the cache.

    Args:
        source: a folder; a data set of the Hub, hf://OWNER/NAME; a table with a column `text`, to train on; or tables
            by split, as a DatasetDict is one.

    Raises:
        InputError: it is none of the kinds of table, or has no rows.
    """
    if is_address(source):
        return str(hub_folder(source))
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    splits = source if isinstance(source, Mapping) else {"train": source}
    files = {split: _parquet(rows) for split, rows in splits.items()}
    digests = {f"{split}-00000-of-00001.parquet": digest for split, (_, digest) in files.items()}
    folder = _cache() / hashlib.blake2b(repr(sorted(digests.items())).encode(), digest_size=16).hexdigest()
    for split, (content, _) in files.items():
        _stored(folder / f"{split}-00000-of-00001.parquet", content)
    write_json(folder / "manifest.json", {"files": digests})
    return str(folder)


def has_split(folder: str, split: str) -> bool:
    """Whether a corpus folder has a split."""
    return any(Path(folder).glob(f"{split}-*.parquet"))


def _parquet(rows: Any) -> tuple[bytes, str]:
    """A table as a Parquet file's bytes, and their digest."""
    table = _arrow(rows)
    if not table.num_rows:
        raise InputError(f"The {type(rows).__name__} given as data has no rows.")
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    content = buffer.getvalue()
    return content, hashlib.blake2b(content, digest_size=16).hexdigest()


def _arrow(rows: Any) -> pa.Table:
    if isinstance(rows, datasets.Dataset):
        return rows.with_format("arrow")[:]
    if hasattr(rows, "to_arrow"):  # polars
        return rows.to_arrow()
    if type(rows).__name__ == "DataFrame":
        return pa.Table.from_pandas(rows, preserve_index=False)
    if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        return pa.Table.from_pylist([dict(row) for row in rows])
    raise InputError(
        f"The data are a {type(rows).__name__}. Give a path, a DataFrame, a list of dicts or a Dataset of the library "
        "datasets."
    )


def _cache() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "taigi_lightning" / "in_memory"


def _stored(path: Path, content: bytes) -> Path:
    if not path.exists():
        with written_aside(path) as aside:
            aside.write_bytes(content)
    return path
