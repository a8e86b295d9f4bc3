"""What of a stage's config, and of this machine, decides how much a run needs; read without importing torch."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse.typing import restricted_string_type

from taigi_lightning.errors import InputError
from taigi_lightning.planning.earlier_stages import adapter_beside, ranks_beside
from taigi_lightning.planning.four_bit_options import check_from_scratch
from taigi_lightning.planning.memory import PROJECTIONS
from taigi_lightning.planning.monitors import KEPT, NEWEST
from taigi_lightning.planning.new_words import read_words
from taigi_lightning.planning.placement import WeightsOnHost
from taigi_lightning.planning.precisions import element_size
from taigi_lightning.planning.run_files import ADAPTER_CONFIG, adapter_config
from taigi_lightning.planning.run_log import read_run_log

CORPUS = "data/cpt_corpus"


@dataclass(frozen=True)
class Settings:
    """What of a stage's config decides memory, disk and time; the defaults are the command line's."""

    base: str = "Bohanlu/Taigi-Llama-2-13B"
    quantization: str = "nf4"
    from_scratch: bool = False
    rank: int | None = None
    rank_is_saved: bool = False  # an adapter's that goes on training
    ranks_beside: tuple[int, ...] = ()  # of earlier stages' adapters, frozen beside the 4-bit weights
    targets: tuple[str, ...] = tuple(PROJECTIONS)
    new_tokens: int = 0  # rows of the embedding, and of an untied output head, that train beside LoRA
    optimizer: str = "torch.optim.AdamW"
    activation_budget: float | str = "auto"
    weights_on_host: WeightsOnHost = "auto"
    matmul: str = "bf16"
    batch_size: int = 4
    max_length: int = 2048
    accumulate: int = 1
    max_steps: int = -1
    devices: int = 1  # of each machine
    machines: int = 1
    precision: str = "bf16-mixed"
    card_precision: str = "bf16-mixed"  # of 16 bits, what the card computes
    accelerator: str = "auto"
    folder: str = "."
    corpus: Mapping[str, float] = field(default_factory=lambda: {CORPUS: 1.0})  # with their shares
    fills_rows: bool = True
    workers: int = 0  # processes that prepare batches
    checkpoints: int = 2
    merge: bool = True
    predicts: bool = False
    batch_tokens: int = 16384
    answer_strategy: str = "choice"

    @property
    def row_tokens(self) -> int:
        """Tokens of the longest row of a prediction: a longer prompt goes alone."""
        return max(self.batch_tokens, self.max_length)

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.batch_size * self.max_length

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimizer step, over all devices."""
        return self.tokens * self.accumulate * self.devices * self.machines

    @property
    def element_size(self) -> int:
        """Bytes of one element of the hidden states."""
        return element_size(self.precision)


def read_settings(config: Mapping[str, Any]) -> Settings:
    """Pick what matters out of a stage's config; what it leaves out has the command line's default.

    Raises:
        InputError: the adapter that the config names is not there, nothing would train, or random weights would in
            4 bits or with an adapter.
    """
    model, trainer, data = (config.get(name) or {} for name in ("model", "trainer", "data"))
    if isinstance(data, str):
        data = {"class_path": data}
    arguments = {**data.get("init_args", {}), **{k: v for k, v in data.items() if k != "init_args"}}
    optimizer, base = model.get("optimizer"), str(model.get("base") or Settings.base)
    saved = _saved_adapter_of(model, base)
    # Its own settings count, as in the module.
    lora = model.get("lora") if saved is None else saved_adapter(saved)
    if model.get("from_scratch"):
        check_from_scratch(model.get("quantization") or "nf4", adapted=lora is not None)
    found: dict[str, Any] = {
        "base": model.get("base"),
        "quantization": model.get("quantization"),
        "ranks_beside": ranks_beside(base, model),
        "from_scratch": model.get("from_scratch"),
        "rank": lora.get("r", 16) if lora is not None else None,
        "rank_is_saved": saved is not None,
        "targets": tuple((lora or {}).get("target_modules") or PROJECTIONS),
        "new_tokens": _trained_rows(model.get("new_tokens"), lora),
        "optimizer": optimizer.get("class_path") if isinstance(optimizer, dict) else optimizer,
        "activation_budget": model.get("activation_budget"),
        "weights_on_host": model.get("weights_on_host"),
        "matmul": model.get("matmul"),
        "batch_size": arguments.get("batch_size"),
        "max_length": arguments.get("max_length"),
        "workers": arguments.get("num_workers"),
        "accumulate": trainer.get("accumulate_grad_batches"),
        "max_steps": trainer.get("max_steps"),
        "devices": count_devices(trainer.get("devices")),
        "machines": count_devices(trainer.get("num_nodes")),
        "precision": trainer.get("precision") and str(trainer["precision"]),
        "accelerator": trainer.get("accelerator"),
        "folder": trainer.get("default_root_dir"),
        "checkpoints": _kept(config.get("checkpoint") or {}),
        "merge": (config.get("export") or {}).get("merge"),
        "batch_tokens": arguments.get("batch_tokens"),
        "answer_strategy": model.get("answer_strategy"),
    }
    kind = str(data.get("class_path", "CPTDataModule")).rpartition(".")[2]
    texts, predicts = kind == "CPTDataModule", kind == "PredictDataModule"
    fills = texts or kind == "InstructionDataModule"
    if lora is None and not predicts and not model.get("from_scratch"):
        raise InputError("Nothing would train: give --model.lora a rank, for example --model.lora.r 64.")
    given = {name: value for name, value in found.items() if value is not None}
    return Settings(
        corpus=_corpora(arguments.get("data_dir", CORPUS)) if texts else {},
        fills_rows=fills and arguments.get("packing") is not False,
        predicts=predicts,
        **given,
    )


def _saved_adapter_of(model: Mapping[str, Any], base: str) -> Path | None:
    """The folder of the adapter that a config's model goes on with; None where it begins a new one, or has none."""
    if model.get("adapter"):
        return Path(model["adapter"])
    if model.get("hand_off") == "continue":
        return adapter_beside(base, model.get("quantization") or "nf4")
    return None


def _kept(checkpoint: Mapping[str, Any]) -> int | None:
    """How many checkpoints are kept: the newest, or the best and beside them the newest for resuming."""
    most = checkpoint.get("save_top_k")
    beside = 0 if checkpoint.get("monitor") in NEWEST else KEPT
    return most + beside if most and most > 0 else most


def _trained_rows(chosen: Mapping[str, Any] | None, lora: Mapping[str, Any] | None) -> int:
    """How many tokens' rows train: of the words that are named, or of those that a saved adapter brings."""
    if chosen:
        return len(read_words(chosen["tokens"]))
    indices = (lora or {}).get("trainable_token_indices") or []
    found = indices.values() if isinstance(indices, Mapping) else [indices]
    return max((len(ids) for ids in found), default=0)


def _corpora(data_dir: str | Mapping[str, float]) -> dict[str, float]:
    """The corpora of a config, each with its share."""
    return {data_dir: 1.0} if isinstance(data_dir, str) else dict(data_dir)


def saved_adapter(folder: Path) -> dict[str, Any]:
    """The adapter_config.json of a saved adapter.

    Raises:
        InputError: it is not there, or says no rank.
    """
    found = adapter_config(
        folder,
        "The adapter's size is not known without it: it appears when the stage that trains it has ended; until then "
        "plan with --model.adapter null --model.lora.r RANK.",
    )
    if not isinstance(found.get("r"), int):
        raise InputError(f"{folder / ADAPTER_CONFIG} says no rank r: only LoRA adapters can be planned.")
    return found


def count_devices(devices: Any) -> int | None:
    """How many devices `trainer.devices` names; None where that is left to Lightning.

    >>> count_devices(2), count_devices("2"), count_devices([0, 3]), count_devices("0,3"), count_devices("auto")
    (2, 2, 2, 2, None)
    """
    if isinstance(devices, str):
        devices = [part for part in devices.split(",") if part] if "," in devices else devices
        devices = int(devices) if isinstance(devices, str) and devices.isdigit() else devices
    if isinstance(devices, list):
        return len(devices)
    return devices if isinstance(devices, int) and devices > 0 else None


SIZE = r"(?=.*[1-9])(\d+(?:\.\d+)?)\s*([GgMm])(i?)B?"
MemorySize = restricted_string_type("MemorySize", f"^{SIZE}$")
Capability = restricted_string_type("Capability", r"^[1-9]\d?\.\d$")
LinkSpeed = restricted_string_type("LinkSpeed", f"^{SIZE}/s$")


def parse_size(text: str) -> int:
    """Bytes of a size that is a `MemorySize`.

    >>> parse_size("16GiB") == 16 * 2**30, parse_size("24GB"), parse_size("1.5 GiB") == 3 * 2**29
    (True, 24000000000, True)
    """
    match = re.fullmatch(SIZE, text)
    assert match
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** (3 if match[2] in "Gg" else 2))


def parse_speed(text: str) -> int:
    """Bytes a second of a speed that is a `LinkSpeed`.

    >>> parse_speed("12GB/s"), parse_speed("500 MB/s")
    (12000000000, 500000000)
    """
    return parse_size(text.removesuffix("/s"))


def past_speed(settings: Settings) -> float | None:
    """Median tokens per second of an earlier run in the same folder, over all its resumes."""
    folder = Path(settings.folder)
    if not any(folder.glob("logs/**/metrics.csv")):
        return None
    speeds = [value for _, value in read_run_log(folder).metrics.get("train/tokens_per_second", [])]
    return statistics.median(speeds) if speeds else None


def epoch_characters(corpora: Mapping[str, float]) -> int | None:
    """Characters of an epoch: of the first corpus, and of the others in proportion; None where it is not there yet."""
    first = next(iter(corpora), None)
    characters = None if first is None else corpus_characters(first)
    if first is None or characters is None:
        return None
    return round(characters * sum(corpora.values()) / corpora[first])


def corpus_characters(folder: str) -> int | None:
    """Characters of a corpus's training split, read from its Parquet files; None where there is none yet.

    `corpus_tools clean` writes each document's `characters`; of other corpora the texts are counted.
    """
    files = sorted(Path(folder).glob("train-*.parquet"))
    if not files:
        return None
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    total = 0
    for path in files:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            counted = (Path(folder) / "manifest.json").is_file() and "characters" in names
            if not counted and "text" not in names:
                return None  # `fit` says what is wrong with it
            for batch in file.iter_batches(columns=["characters" if counted else "text"]):
                column = batch.column(0) if counted else pc.utf8_length(batch.column(0))
                total += pc.sum(column).as_py() or 0
    return total
