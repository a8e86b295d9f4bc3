"""The corpus folder: every file written aside, then renamed into place, the manifest last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from corpus_tools.documents import PartSummary
from corpus_tools.errors import InputError
from corpus_tools.files.atomic import sha256_of, write_json, write_text
from corpus_tools.steps.clean_all import InputFile
from corpus_tools.steps.output_folder import WHOLE
from corpus_tools.windows import in_use, patiently

CARD = """---
language: nan
license: other
license_name: that-of-the-texts
pretty_name: Taigi corpus
configs:
- config_name: default
  data_files:
{splits}
---
# Taigi corpus

{documents:,} documents of {min_chars}-{max_chars} characters, {characters:,} characters in all, cleaned by
`corpus_tools` {version}. `report.html` shows what was removed and why, `dropped.parquet` holds it, and
`manifest.json` the options and the hashes of every input and output file.

The licence is that of the texts, which cleaning does not change: name it at the top before you share the corpus.
"""


def package_version() -> str:
    """The version of what pip installed; `from source` where nothing was."""
    try:
        return version("taigi-lightning")
    except PackageNotFoundError:
        return "from source"


def _names(parts: Sequence[PartSummary], suffix: str) -> list[tuple[str, str, str]]:
    """(name in the work folder, name in the corpus folder, sha256) of every data file."""
    names = []
    for split in ("train", "validation"):
        having = [(i, p.files[split]) for i, p in enumerate(parts) if split in p.files]
        for k, (i, sha256) in enumerate(having):
            names.append((f"part-{i:05d}.{split}", f"{split}-{k:05d}-of-{len(having):05d}.{suffix}", sha256))
    return names


@contextmanager
def joined(path: Path) -> Iterator[Callable[[Path], None]]:
    """Takes Arrow files of dropped text and writes them, in a thread, one after the other as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from corpus_tools.files.writers import DROPPED_SCHEMA

    def append(part: Path) -> None:
        with pa.memory_map(str(part)) as file:
            writer.write_table(pa.ipc.open_file(file).read_all())

    with (
        pq.ParquetWriter(path, DROPPED_SCHEMA, compression="zstd", use_dictionary=False) as writer,
        ThreadPoolExecutor(1) as thread,
    ):
        waiting: list[Future[None]] = []
        yield lambda part: waiting.append(thread.submit(append, part))
        for future in waiting:
            future.result()


def publish(
    work: Path,
    output_dir: Path,
    parts: Sequence[PartSummary],
    files: Sequence[InputFile],
    report: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    """Rename the finished files from `work` into `output_dir`; a folder without manifest.json is unfinished."""
    suffix = str(options["output_format"])
    data = _names(parts, suffix)
    splits = [s for s in ("train", "validation") if any(new.startswith(s) for _, new, _ in data)]
    card = CARD.format(
        splits="\n".join(f"  - split: {s}\n    path: {s}-*.{suffix}" for s in splits),
        documents=report["documents"]["total"],
        characters=report["characters"]["kept"],
        version=package_version(),
        min_chars=options["min_chars"],
        max_chars=options["max_chars"],
    )
    write_text(work / "README.md", card)
    write_json(work / "report.json", report)
    hashes = {new: sha256 for _, new, sha256 in data}
    hashes |= {name: sha256_of(work / name) for name in WHOLE}
    inputs = [{"name": f.name, "bytes": f.bytes, "sha256": f.sha256, "rows": f.rows} for f in files]
    manifest = {"version": package_version(), "options": options, "inputs": inputs, "outputs": hashes}
    write_json(work / "manifest.json", manifest)
    _rename(work, output_dir, [*((name, new) for name, new, _ in data), *zip(WHOLE, WHOLE, strict=True)])


def _rename(work: Path, output_dir: Path, names: Sequence[tuple[str, str]]) -> None:
    """Put files of the work folder, each under its new name, in the place of an earlier corpus; the manifest last.

    Raises:
        InputError: another program holds one of the files open, which on Windows keeps it in its place.
    """
    earlier = [path for split in ("train", "validation") for path in output_dir.glob(f"{split}-*-of-*")]
    for path in [*earlier, *(output_dir / name for name in (*WHOLE, "manifest.json"))]:
        if in_use(path):
            raise InputError(
                f"{path} is open in another program; close it there and run the same command again, which takes this "
                "run up where it is."
            )
    patiently(lambda: (output_dir / "manifest.json").unlink(missing_ok=True))
    for path in earlier:
        patiently(path.unlink)
    for name, new in [*names, ("manifest.json", "manifest.json")]:
        patiently(partial((work / name).replace, output_dir / new))
