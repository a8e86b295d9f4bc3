"""Safetensors files as byte ranges: a model of any size is read and written one tensor at a time."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from taigi_lightning.errors import InputError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
# The same weights once more, in their maker's own format: as large as the model, and never read.
HUB_COPIES = ["consolidated*", "original/*", "metal/*"]
# What a tokenizer may consist of, in transformers' formats old and new.
TOKENIZER_FILES = [
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *(
        "*.model",
        "chat_template*",
        "*.jinja",
        "*processor_config.json",
    ),  # the last are of bases that see pictures
]


@dataclass(frozen=True)
class TensorEntry:
    """One tensor's place in a safetensors file: `start` and `end` are bytes from the file's beginning."""

    name: str
    dtype: str  # as the format spells it: BF16, F16, F32, ...
    shape: tuple[int, ...]
    start: int
    end: int


def base_folder(base: str | Path) -> Path:
    """Return the folder that holds a model's files: `base` itself, or the cached snapshot of a hub name.

    Only safetensors, JSON, tokenizer and template files are ever fetched, never a pickle. What the cache
    already holds is used as it is.

    Raises:
        InputError: `base` is no folder and the hub does not give its files.
    """
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    reason = ""
    for only_cached in (True, False):
        try:
            folder = Path(
                snapshot_download(
                    str(base),
                    allow_patterns=HUB_FILES,
                    ignore_patterns=HUB_COPIES,
                    local_files_only=only_cached,
                )
            )
            weight_files(folder)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, InputError) as error:
            reason = str(error).splitlines()[0]
        else:
            return folder
    raise InputError(
        f"{base} is neither a folder here nor a model that the hub gives ({reason}). "
        "Give the folder of a base model, or check the name and the connection."
    )


def tokenizer_files(base: str | Path) -> list[Path]:
    """Return the files a base's tokenizer consists of, in name order; of a hub name, no weights are fetched.

    Raises:
        InputError: `base` is no folder and the hub does not give its files.
    """
    folder = Path(base)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(str(base), allow_patterns=TOKENIZER_FILES))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
            raise InputError(
                f"The tokenizer of {base} cannot be fetched ({str(error).splitlines()[0]})."
            ) from error
    found = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def weight_files(folder: Path) -> list[Path]:
    """Return a model's safetensors files in name order: `model.safetensors`, else those that its index names.

    An index beside `model.safetensors` is one that a model of several files left there; transformers passes over it.

    Raises:
        InputError: the folder holds no safetensors weights, or the index names files that are not there.
    """
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        names = [SINGLE]
    elif index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{index} is not an index of safetensors files ({error!r}).") from error
    else:
        raise InputError(f"{folder} holds {_weights_instead(folder)}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing[:3])}, which its {INDEX} names. Copy it again.")
    return [folder / name for name in names]


def _weights_instead(folder: Path) -> str:
    """What weights a folder holds that are not read here, what was wanted, and what to do."""
    names = sorted(path.name for path in folder.iterdir())
    shards = [name for name in names if name.endswith(".safetensors")]
    if shards:
        return (
            f"{shards[0]}, but neither {SINGLE} nor {INDEX}, which says what lies where. Download the folder again; "
            f"files of which one is the whole model must be called {SINGLE}."
        )
    if gguf := [name for name in names if name.endswith(".gguf")]:
        return (
            f"{gguf[0]} alone: GGUF is what other programs run a model from, and is not trained. Give the 16-bit "
            "model that it was made of."
        )
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    others = [name for name in names if name.endswith((".onnx", ".h5", ".msgpack", ".npz"))]
    found = f"only {', '.join(pickles[:3])}, pickled weights that can run code" if pickles else "no weights"
    if others and not pickles:
        found = f"only {others[0]}, weights in a form that is not read here"
    return (
        f"{found}; wanted {SINGLE} or {INDEX}. Save the model once with save_pretrained(folder, "
        "safe_serialization=True) and give that folder."
    )


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a safetensors file in the order of their bytes, after checking that it is whole.

    Raises:
        InputError: the file is no safetensors file, or it is shorter than its header says.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except SafetensorError as error:
        raise InputError(
            f"{path} is damaged or no safetensors file ({error}){_pointer(path)}. Copy it again."
        ) from error
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    begin = 8 + size
    entries = [
        TensorEntry(
            name, value["dtype"], tuple(value["shape"]), *(begin + at for at in value["data_offsets"])
        )
        for name, value in header.items()
    ]
    return {entry.name: entry for entry in sorted(entries, key=lambda entry: (entry.start, entry.end))}


def _pointer(path: Path) -> str:
    """A word on files that only name what Git LFS has not fetched."""
    with path.open("rb") as file:
        return ": it is a pointer of Git LFS, for `git lfs pull`" if file.read(12) == b"version http" else ""


def read_tensor(file: BinaryIO, entry: TensorEntry) -> "torch.Tensor":
    """Read one tensor in its own dtype (BF16, F16 or F32) and shape, on the CPU."""
    import torch

    dtypes = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    if entry.dtype not in dtypes:
        raise InputError(f"{entry.name} is stored as {entry.dtype}; wanted 16- or 32-bit floating point.")
    file.seek(entry.start)
    data = bytearray(entry.end - entry.start)
    file.readinto(data)  # type: ignore[attr-defined]
    return torch.frombuffer(data, dtype=dtypes[entry.dtype]).reshape(entry.shape)


def read_pieces(file: BinaryIO, start: int, end: int, size: int = 1 << 24) -> Iterator[bytes]:
    """Yield the bytes from `start` to `end` in pieces of at most `size`."""
    file.seek(start)
    while start < end:
        piece = file.read(min(size, end - start))
        start += len(piece)
        yield piece


def rewrite_shard(
    shard: Path,
    header: Mapping[str, TensorEntry],
    target: Path,
    changed: set[str],
    change: "Callable[[str, torch.Tensor], torch.Tensor]",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Write `target`, laid out as `shard`: all but the `changed` tensors byte for byte, those by `change`.

    `change` gets a tensor's name and the tensor on the CPU, and returns one of the same shape and dtype, but for those
    of which `shapes` tells another shape.
    """
    import torch

    with shard.open("rb") as source, target.open("wb") as sink:
        position = 0
        if shapes and not header.keys().isdisjoint(shapes):
            position = 8 + int.from_bytes(source.read(8), "little")
            sink.write(_header(source.read(position - 8), header, shapes))
        for entry in header.values():
            if entry.name in changed:
                sink.writelines(read_pieces(source, position, entry.start))
                tensor = change(entry.name, read_tensor(source, entry))
                sink.write(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
                position = entry.end
        sink.writelines(read_pieces(source, position, shard.stat().st_size))


def _header(found: bytes, entries: Mapping[str, TensorEntry], shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """A file's header, its length before it, where some tensors have other shapes, in the order of their bytes."""
    described, position = json.loads(found), 0
    for entry in entries.values():
        size, shape = entry.end - entry.start, shapes.get(entry.name, entry.shape)
        size = size * prod(shape) // prod(entry.shape)
        described[entry.name] |= {"shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # as the format's own writer aligns the data
    return len(text).to_bytes(8, "little") + text
