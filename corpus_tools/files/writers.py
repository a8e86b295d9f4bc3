"""Columns of text into files: Parquet or JSONL for documents, Arrow for what was dropped."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DOCUMENT_SCHEMA = pa.schema(
    {
        "text": pa.string(),
        "title": pa.string(),
        "author": pa.string(),
        "source": pa.string(),
        "part": pa.int32(),
        "characters": pa.int32(),
        "taigi_score": pa.float32(),
    }
)
DROPPED_SCHEMA = pa.schema(
    {
        "source": pa.string(),
        "row": pa.int32(),
        "rows": pa.int32(),
        "title": pa.string(),
        "reason": pa.string(),
        "characters": pa.int32(),
        "text": pa.string(),
    }
)
_MOST_BYTES = 1 << 30  # of text in an array, whose offsets have 32 bits


class Rows:
    """Rows for a Parquet file; text may be given as UTF-8."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows: list[tuple[Any, ...]] = []

    def take(self) -> pa.Table:
        """The rows so far, which are then forgotten."""
        columns = zip(*self.rows, strict=True)
        arrays = [_array(values, f.type) for values, f in zip(columns, self.schema, strict=True)]
        self.rows = []
        return pa.Table.from_arrays(arrays, schema=self.schema)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.ChunkedArray:
    """An Arrow array from its buffers: `pa.array` would import pandas, which takes longer than a shard."""
    if kind == pa.string():
        return pa.chunked_array(_strings([v.encode() if isinstance(v, str) else v for v in values]), kind)
    buffers = [None, pa.py_buffer(np.array(values, kind.to_pandas_dtype()))]
    return pa.chunked_array([pa.Array.from_buffers(kind, len(values), buffers)])


def _strings(values: Sequence[bytes]) -> list[pa.Array]:
    """Arrays of some texts: several if one could not count so many bytes."""
    sizes = np.array(list(map(len, values)), np.int64)
    if sizes.sum() > _MOST_BYTES and len(values) > 1:
        half = len(values) // 2
        return _strings(values[:half]) + _strings(values[half:])
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return [pa.Array.from_buffers(pa.string(), len(values), buffers)]


def path_of(stem: Path, name: str) -> Path:
    """The file of a part: its train or validation documents, or what it dropped."""
    return stem.with_name(f"{stem.name}.{name}")


class _HashedFile(io.RawIOBase):
    """A file that knows the SHA-256 of what was written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


class Writers:
    """The files of a part, each opened when its first table comes: Parquet, JSON lines, Arrow for what is dropped."""

    def __init__(self, stem: Path, jsonl: bool) -> None:
        self._stem = stem
        self._jsonl = jsonl
        self._files: dict[str, _HashedFile] = {}
        self._open: dict[str, Any] = {}

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, *exception: object) -> None:
        for writer in [*self._open.values(), *self._files.values()]:
            writer.close()

    def hashes(self) -> dict[str, str]:
        """The files written and their SHA-256 in hexadecimal digits, when they are closed; that of `dropped` is ""."""
        return {
            name: self._files[name].sha256.hexdigest() if name in self._files else "" for name in self._open
        }

    def append(self, name: str, table: pa.Table) -> None:
        """Append a table to a file."""
        if name not in self._open:
            self._open[name] = self._opened(name, table.schema)
        if self._jsonl and name != "dropped":
            self._open[name].write(b"".join(msgspec.json.encode(row) + b"\n" for row in table.to_pylist()))
        else:
            self._open[name].write_table(table)

    def _opened(self, name: str, schema: pa.Schema) -> Any:
        path = path_of(self._stem, name)
        if name == "dropped":  # compressed when the parts' are joined
            return pa.ipc.new_file(path, schema)
        file = self._files[name] = _HashedFile(path)
        return (
            file if self._jsonl else pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False)
        )
