"""Add an adapter to its 16-bit base, tensor by tensor, in float32, rounding once."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from taigi_lightning.errors import InputError
from taigi_lightning.lora_updates import LoraUpdate, read_adapter_config, read_updates
from taigi_lightning.shards import (
    INDEX,
    TensorEntry,
    base_folder,
    read_header,
    read_pieces,
    read_tensor,
    weight_files,
)

if TYPE_CHECKING:
    import torch

Onto = Literal["original", "dequantized"]
PARTIAL = ".partial"
COMPANIONS = [
    *("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template*", "*.jinja", INDEX, "config.json"),
]


@dataclass(frozen=True)
class MergeReport:
    """What a merge did."""

    folder: Path
    base: str
    adapter: Path
    onto: Onto
    weights: int  # how many of the base's tensors the adapter changed


def merge_adapter(
    base: str | Path, adapter: Path, output_dir: Path, *, onto: Onto = "original", device: str = "cpu"
) -> MergeReport:
    """Write base + adapter as a model that plain transformers loads, in the base's own dtype and shards.

    Holds a few tensors in memory at a time, whatever the model's size. Files are written to
    `output_dir/.partial` and renamed at the end, `config.json` last: a merge that is killed leaves nothing
    that loads. `adapter/`, `checkpoints/` and `logs/` inside `output_dir` are left alone.

    Args:
        base: folder or hub name of the 16-bit model that the adapter was trained on.
        adapter: folder of a PEFT LoRA adapter.
        output_dir: where the merged model goes; an earlier merged model there is replaced.
        onto: add to the original weights, or to the 4-bit weights that training saw, dequantised.
        device: where the products are computed, such as "cpu" or "cuda".

    Raises:
        InputError: the base or the adapter cannot be used, they do not fit each other, or the disk is full.
    """
    source = base_folder(base)
    shards = weight_files(source)
    updates = read_updates(adapter)
    headers = [read_header(shard) for shard in shards]
    _check_fit(headers, updates, source, adapter)
    _check_place(source, shards, output_dir)
    partial = output_dir / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for shard, header in zip(_with_progress(shards), headers, strict=True):
        _merge_shard(shard, header, updates, partial / shard.name, onto=onto, device=device)
    names = [path.name for pattern in COMPANIONS for path in sorted(source.glob(pattern))]
    for name in dict.fromkeys(names):
        shutil.copyfile(source / name, partial / name)
    _publish(partial, output_dir)
    return MergeReport(output_dir, str(base), adapter, onto, len(updates))


def _check_fit(
    headers: Sequence[dict[str, TensorEntry]], updates: dict[str, LoraUpdate], source: Path, adapter: Path
) -> None:
    """Every tensor of the adapter must find its weight, of the same shape."""
    weights = {name: entry for header in headers for name, entry in header.items()}
    for name, update in updates.items():
        entry = weights.get(name)
        if entry is None or entry.shape != update.shape:
            found = f"has no {name}" if entry is None else f"holds {name} as {list(entry.shape)}"
            raise InputError(
                f"The adapter {adapter} changes {name} as {list(update.shape)} (its {update.a.name}), but "
                f"the base {source} {found}. Give the base that the adapter was trained on; an output layer "
                "tied to the embeddings cannot be merged."
            )


def _check_place(source: Path, shards: Sequence[Path], output_dir: Path) -> None:
    """The output must not be the base, and its disk must hold the new model."""
    if output_dir.resolve() == source.resolve():
        raise InputError(
            f"{output_dir} is the base itself, which a merge never changes. Give another folder."
        )
    wanted = sum(shard.stat().st_size for shard in shards) + (1 << 26)
    here = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(here).free
    if free < wanted:
        raise InputError(
            f"The merged model needs {wanted / 1e9:.1f} GB in {output_dir}, where {free / 1e9:.1f} GB "
            "are free. Free some space or give a folder on another disk."
        )


def _with_progress(shards: Sequence[Path]) -> Iterator[Path]:
    """Yield the shards, showing a bar on a terminal and a line a shard elsewhere."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if console.is_terminal:
        yield from track(shards, description="Merging", console=console)
        return
    for number, shard in enumerate(shards, start=1):
        console.print(f"Merging {shard.name} ({number} of {len(shards)})", highlight=False)
        yield shard


def _merge_shard(
    shard: Path,
    header: dict[str, TensorEntry],
    updates: dict[str, LoraUpdate],
    target: Path,
    *,
    onto: Onto,
    device: str,
) -> None:
    """Write a shard of the same layout: the header and the untouched tensors byte for byte."""
    with shard.open("rb") as source, target.open("wb") as sink:
        position = 0
        for entry in header.values():
            sink.writelines(read_pieces(source, position, entry.start))
            position = entry.end
            update = updates.get(entry.name)
            if update is None and not (onto == "dequantized" and _is_quantised(entry)):
                sink.writelines(read_pieces(source, entry.start, entry.end))
                continue
            _write_tensor(sink, _merge_weight(read_tensor(source, entry), update, onto, device))
        sink.writelines(read_pieces(source, position, shard.stat().st_size))


def _is_quantised(entry: TensorEntry) -> bool:
    """Whether 4-bit training quantises this tensor: the linear weights of the layers, not the embeddings."""
    return len(entry.shape) == 2 and ".layers." in entry.name


def _merge_weight(
    weight: "torch.Tensor", update: LoraUpdate | None, onto: Onto, device: str
) -> "torch.Tensor":
    """Return `weight` [rows, columns] plus its update, in its own dtype."""
    weight = weight.to(device)
    if onto == "dequantized":
        weight = _nf4_round_trip(weight)
    if update is None:
        return weight
    left, right = update.factors(device)
    rows = max(1, (1 << 22) // weight.shape[1])  # float32 copies of 16 MiB at a time
    for begin in range(0, weight.shape[0], rows):
        block = weight[begin : begin + rows]
        block.copy_(block.float().addmm_(left[begin : begin + rows], right))
    return weight


def _nf4_round_trip(weight: "torch.Tensor") -> "torch.Tensor":
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    codes, state = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    original: torch.Tensor = dequantize_4bit(codes, state)
    return original


def _write_tensor(sink: BinaryIO, tensor: "torch.Tensor") -> None:
    import torch

    sink.write(tensor.cpu().contiguous().view(torch.uint8).numpy().data)


def _publish(partial: Path, folder: Path) -> None:
    """Rename the finished files into place; without config.json, which comes last, nothing loads."""
    for stale in (folder / "config.json", folder / INDEX, *folder.glob("model*.safetensors")):
        stale.unlink(missing_ok=True)
    names = [path.name for path in partial.iterdir() if path.name not in (INDEX, "config.json")]
    for name in [*sorted(names), INDEX, "config.json"]:
        with contextlib.suppress(FileNotFoundError):  # a single-file model has no index
            (partial / name).replace(folder / name)
    partial.rmdir()


def merge_command(
    base: str | None = None,
    adapter: Path = Path("models/cpt_model/adapter"),
    output_dir: Path = Path("models/cpt_model"),
    onto: Onto = "original",
    device: str = "cpu",
) -> None:
    """Merge a LoRA adapter into its 16-bit base: a model that plain transformers loads.

    Args:
        base: folder or hub name of the base model; without it, the one that the adapter names.
        adapter: folder of the adapter, as training or PEFT saved it.
        output_dir: folder for the merged model; an earlier merged model there is replaced.
        onto: add to the original weights, or to the 4-bit weights that training saw, dequantised.
        device: where to compute, cpu or cuda.
    """
    name = base or read_adapter_config(adapter).get("base_model_name_or_path")
    if not name:
        raise InputError(f"{adapter} does not name its base; give --base.")
    print(merge_adapter(name, adapter, output_dir, onto=onto, device=device))
