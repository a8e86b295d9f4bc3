"""Columns of text into files: Parquet or JSONL for documents, Arrow for what was dropped."""

from __future__ import annotations

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


class Columns:
    """Rows for a Parquet file, column by column."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.values: list[list[Any]] = [[] for _ in schema.names]

    def append(self, *row: Any) -> None:
        """Add a row; text may be given as UTF-8."""
        for column, value in zip(self.values, row, strict=True):
            column.append(value)

    def take(self) -> pa.Table:
        """The rows so far, which are then forgotten."""
        arrays = [_array(v, f.type) for v, f in zip(self.values, self.schema, strict=True)]
        self.values = [[] for _ in self.schema.names]
        return pa.Table.from_arrays(arrays, schema=self.schema)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array from its buffers: `pa.array` would import pandas, which takes longer than a shard."""
    if kind == pa.string():
        data = [value if isinstance(value, bytes) else value.encode() for value in values]
        offsets = np.zeros(len(data) + 1, np.int32)
        np.cumsum([len(d) for d in data], out=offsets[1:])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(data))]
    else:
        buffers = [None, pa.py_buffer(np.array(values, kind.to_pandas_dtype()))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def path_of(stem: Path, name: str) -> Path:
    """The file of a part: its train or validation documents, or what it dropped."""
    return stem.with_name(f"{stem.name}.{name}")


def append_table(writers: dict[str, Any], name: str, stem: Path, table: pa.Table, jsonl: bool) -> None:
    """Append a table to the file `name` of a part, opened when it is first needed and kept in `writers`."""
    if jsonl and name != "dropped":
        if name not in writers:
            writers[name] = path_of(stem, name).open("wb")
        writers[name].write(b"".join(msgspec.json.encode(row) + b"\n" for row in table.to_pylist()))
        return
    if name not in writers:
        path = path_of(stem, name)
        if name == "dropped":  # compressed when the parts' are joined
            writers[name] = pa.ipc.new_file(path, table.schema)
        else:
            writers[name] = pq.ParquetWriter(path, table.schema, compression="zstd", use_dictionary=False)
    writers[name].write_table(table)
