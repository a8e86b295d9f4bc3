"""Add an adapter to its 16-bit base: one tensor at a time, in float32, rounding once."""

import re
import shutil
import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from taigi_lightning.atomic_write import write_json
from taigi_lightning.errors import InputError
from taigi_lightning.model.hand_off import STACKED
from taigi_lightning.model.lineage import adapter_hash, check_lineage, read_lineage
from taigi_lightning.model.lora_deltas import LoraUpdate, read_updates
from taigi_lightning.model.merge_places import find_places, quantised_weights
from taigi_lightning.model.merge_precision import (
    PIECE,
    Survival,
    measure_survival,
    nf4_round_trip,
    pool,
    round_stochastically,
)
from taigi_lightning.model.merge_tokens import RowUpdate, grown_config, grown_index, read_rows
from taigi_lightning.model.publish import CONFIG, publish_model
from taigi_lightning.model.safetensors_files import (
    INDEX,
    SINGLE,
    TensorEntry,
    base_folder,
    read_header,
    rewrite_shard,
    tokenizer_files,
    weight_files,
)
from taigi_lightning.model.text_model import text_model_class
from taigi_lightning.planning.disk import check_space
from taigi_lightning.planning.run_files import LINEAGE
from taigi_lightning.terminal import console, joined

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress

Onto = Literal["original", "dequantized"]
PARTIAL = ".partial"
GENERATION_CONFIG = "generation_config.json"
MEASURED_VALUES = 1 << 23  # of a weight at most, in rows spread evenly: keeps the measurement to seconds


@dataclass(frozen=True)
class MergeReport:
    """What a merge did; as text, what it kept. `merge_precision.py` defines the fractions."""

    folder: Path
    base: str
    adapter: Path
    onto: Onto
    weights: int  # how many of the base's tensors the adapter changed
    survival: Mapping[str, Survival]  # by projection (q_proj, ...), over the weights that were measured
    tokens: int = 0  # whose rows of the embedding were written

    @property
    def overall(self) -> Survival:
        """All the measured weights together."""
        return pool(list(self.survival.values()))

    def __str__(self) -> str:
        whole = self.overall
        verdict = f"keeps {whole.fraction_4bit:.1%} (± {whole.standard_error:.1%}) of the update"
        if whole.fraction_4bit < 0.99 - 2 * whole.standard_error:
            verdict += (
                ", less than 99 %: with hand_off merge, a 4-bit stage starts from less than was trained"
            )
        elif whole.fraction_4bit < 0.99:
            verdict += ", perhaps less than 99 %: these weights are too few to tell"
        parts = ", ".join(f"{name} {part.fraction_4bit:.1%}" for name, part in self.survival.items())
        return joined(
            f"{self.folder}: {self.weights} weights of {self.base} merged, onto the {self.onto} ones.",
            *([f"The rows of {self.tokens} tokens are written into its embeddings."] if self.tokens else []),
            f"The update's size is {whole.size:.2%} of the weights'; "
            f"16 bits keep {whole.fraction_16bit:.1%} of it.",
            f"A second 4-bit quantisation {verdict} ({parts}).",
        )


def merge_adapter(
    base: str | Path, adapter: Path, output_dir: Path, *, onto: Onto = "original", device: str = "cpu"
) -> MergeReport:
    """Write base + adapter as a model that plain transformers loads, in the base's own dtype and shards.

    Holds a few tensors in memory at a time, whatever the model's size. Files are written to
    `output_dir/.partial` and renamed at the end, `config.json` last: a merge that is killed leaves nothing
    that loads, or the earlier model untouched. Folders inside `output_dir` (`adapter/`, `checkpoints/`, logs)
    are left alone. Two merges on one kind of device give the same bytes. The adapter's `lineage.json`, if it
    has one, must name this base, and goes with the merged model, the adapter's own hash added.

    Args:
        base: folder or hub name of the 16-bit model that the adapter was trained on.
        adapter: folder of a PEFT LoRA adapter.
        output_dir: where the merged model goes; an earlier merged model there is replaced.
        onto: add to the original weights, or to the 4-bit weights that training saw, dequantised. The second
            is exactly the trained function as long as the model stays in 16 bits, but a second 4-bit
            quantisation, as with `hand_off: merge`, takes nearly all of the update away. Of the first it keeps
            most: the report says how much, and tests/benchmarks/merge_retention.py measures it.
        device: where the sums are computed, such as "cpu" or "cuda".

    Returns:
        what was merged, and how much of it a second 4-bit quantisation keeps; printing it shows both.

    Raises:
        InputError: the base or the adapter cannot be used, they do not fit each other, or the disk is full.
    """
    _check_device(device)
    source = base_folder(base)
    shards = weight_files(source)
    check_lineage(adapter, base)
    lineage = read_lineage(adapter)
    check_onto(onto, lineage["base"] if lineage else {})
    updates, tables = _placed(source, read_updates(adapter), read_rows(adapter))
    headers = [read_header(shard) for shard in shards]
    _check_place(source, shards, output_dir)
    quantised = quantised_weights(source) if onto == "dequantized" else set()
    partial = output_dir / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    by_shard = dict(zip(shards, headers, strict=True))
    survival = _rewrite(by_shard, partial, updates, tables, quantised, device)
    kept = (GENERATION_CONFIG,) if shards[0].name == SINGLE else (GENERATION_CONFIG, INDEX)
    besides = [path for name in kept for path in source.glob(name)]
    of_tokens = tokenizer_files(adapter) if tables else []  # beside the base's, some of which they replace
    for path in (*tokenizer_files(source), *besides, *of_tokens):
        shutil.copyfile(path, partial / path.name)
    if tables and (partial / INDEX).is_file():
        sizes = [
            sum(path.stat().st_size for path in files) for files in (shards, partial.glob("*.safetensors"))
        ]
        grown_index(partial / INDEX, sizes[1] - sizes[0])
    if lineage is not None:  # with the adapter's hash: a later stage makes sure that both are of one run
        write_json(partial / LINEAGE, {**lineage, "adapter": adapter_hash(adapter)})
    publish_model(partial, output_dir, grown_config((source / CONFIG).read_bytes(), tables))
    tokens = len(next(iter(tables.values())).ids) if tables else 0
    return MergeReport(output_dir, str(base), adapter, onto, len(updates), survival, tokens)


def _rewrite(
    shards: Mapping[Path, Mapping[str, TensorEntry]],
    folder: Path,
    updates: Mapping[str, LoraUpdate],
    tables: Mapping[str, RowUpdate],
    quantised: Collection[str],
    device: str,
) -> dict[str, Survival]:
    """Write every shard into `folder`, its weights merged; returns by projection what was kept of the update.

    Args:
        shards: the base's files with their headers.
        updates: by stored tensor.
        tables: by stored tensor, rows of tokens to write into it.
        quantised: stored tensors that are rounded to 4 bits first.
    """
    measured = _choose_measured(updates)
    survival: dict[str, list[Survival]] = defaultdict(list)
    changed = {*updates, *tables, *quantised}
    shapes = {
        name: (max(table.needed, entry.shape[0]), entry.shape[1])
        for header in shards.values()
        for name, entry in header.items()
        if (table := tables.get(name)) is not None
    }
    bar = _progress_bar()
    task = bar.add_task("Merging", total=len(changed))

    def merge_tensor(name: str, original: "torch.Tensor") -> "torch.Tensor":
        bar.advance(task)
        if name in tables:
            return tables[name].into(original)
        original = original.to(device)
        start = nf4_round_trip(original) if name in quantised else original
        if name not in updates:
            return start
        left, right = updates[name].factors(device)
        merged = _add_update(start, left, right, seed=zlib.crc32(name.encode()))
        if name in measured:
            rows = slice(None, None, -(-original.numel() // MEASURED_VALUES))
            kept = measure_survival(original[rows], start[rows], merged[rows], left[rows], right)
            survival[_projection(name)].append(kept)
        return merged

    with bar:
        for number, (shard, header) in enumerate(shards.items(), start=1):
            bar.console.print(f"Merging {shard.name} ({number} of {len(shards)})")
            rewrite_shard(shard, header, folder / shard.name, changed, merge_tensor, shapes)
    return {name: pool(parts) for name, parts in survival.items()}


def check_onto(onto: Onto, identity: Mapping[str, str]) -> None:
    """Refuse to add to dequantised weights what was trained on those of another base, beside an earlier update.

    Raises:
        InputError: it is so.
    """
    if onto == "dequantized" and STACKED in identity.get("quantization", ""):
        raise InputError(
            "export.onto dequantized would add to the merged base's own weights in 4 bits, but with hand_off "
            "stack the adapter is trained on an earlier base's. Use --export.onto original, or "
            "--model.hand_off merge."
        )


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such name, or none here
        reason = str(error).splitlines()[0]
        raise InputError(
            f"The device {device!r} cannot be used here ({reason}). Give cpu, or cuda where PyTorch sees a GPU."
        ) from error


def _placed(
    source: Path, updates: Mapping[str, LoraUpdate], rows: Mapping[str, RowUpdate]
) -> tuple[dict[str, LoraUpdate], dict[str, RowUpdate]]:
    """The updates and the rows by the stored tensors' names, each as its tensor lies there."""
    shapes: dict[str, tuple[int, ...]] = {name: update.matrix for name, update in updates.items()}
    if both := shapes.keys() & rows.keys():
        raise InputError(
            f"The adapter has LoRA and rows of tokens for {min(both)}, which is not merged here."
        )
    if rows:
        size = text_model_class(source)[1].vocab_size
        shapes |= {name: (size, update.entry.shape[1]) for name, update in rows.items()}
    places = find_places(source, shapes)
    return {
        place.entry.name: replace(updates[name], weight=place.entry.name, transposed=place.transposed)
        for name, place in places.items()
        if name in updates
    }, {places[name].entry.name: update for name, update in rows.items()}


def _check_place(source: Path, shards: Sequence[Path], output_dir: Path) -> None:
    """The output must not be the base, and its disk must hold the new model."""
    if output_dir.resolve() == source.resolve():
        raise InputError(
            f"{output_dir} is the base itself, which a merge never changes. Give another folder."
        )
    needs = {"merged model": sum(shard.stat().st_size for shard in shards), "other files": 1 << 26}
    check_space(output_dir, needs, "Free some space or give a folder on another disk.")


def _choose_measured(updates: Mapping[str, LoraUpdate]) -> set[str]:
    """Return the names of the weights to measure: all of a small model, else three layers a projection."""
    layers: dict[str, dict[int, str]] = defaultdict(dict)
    for name in updates:
        if found := re.search(r"\.(\d+)\.", name):
            layers[_projection(name)][int(found[1])] = name
    few = sum(prod(update.shape) for update in updates.values()) <= 1 << 26
    measured: set[str] = set()
    for names in layers.values():
        order = sorted(names)
        chosen = order if few else [order[0], order[len(order) // 2], order[-1]]
        measured |= {names[layer] for layer in chosen}
    return measured


def _projection(name: str) -> str:  # model.layers.0.self_attn.q_proj.weight -> q_proj
    return name.split(".")[-2]


def _progress_bar() -> "Progress":
    """A bar on a terminal; elsewhere nothing but what is printed on its console."""
    from rich.progress import Progress

    screen = console(error=True)
    return Progress(console=screen, disable=not screen.is_terminal)


def _add_update(
    start: "torch.Tensor", left: "torch.Tensor", right: "torch.Tensor", seed: int
) -> "torch.Tensor":
    """Return `start` [rows, columns] + left [rows, r] @ right [r, columns], rounded once to its own dtype."""
    import torch

    generator = torch.Generator(start.device).manual_seed(seed)
    merged = torch.empty_like(start)
    rows = max(1, PIECE // start.shape[1])
    blocks = zip(torch.split(start, rows), torch.split(left, rows), torch.split(merged, rows), strict=True)
    for block, left_block, out in blocks:
        total = torch.addmm(block.float(), left_block, right)
        out.copy_(round_stochastically(total, start.dtype, generator))
    return merged
