"""The first lines of a run: what is trained on what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from transformers import PreTrainedTokenizerBase

from taigi_lightning.atomic_write import write_json
from taigi_lightning.data.cpt import CPTDataModule
from taigi_lightning.fast_path.apply import causal_lm, checkpointed_layers, fast_decoder
from taigi_lightning.fast_path.checkpointed_layers import checkpointable
from taigi_lightning.model.base_model import load_tokenizer
from taigi_lightning.model.hand_off import Start
from taigi_lightning.model.linear_targets import without_lora
from taigi_lightning.model.wrapper_logits import left_out_by_wrapper
from taigi_lightning.planning.pieces import count_pieces, sample_texts
from taigi_lightning.planning.run_files import HOW_TRAINED, read_json
from taigi_lightning.terminal import joined
from taigi_lightning.training.machine_notes import machine_notes


class Announcement(Callback):
    """Say first what is trained on what, then how much of the base that is, and on which data."""

    def __init__(self) -> None:
        self.pieces: list[str] = []  # what tokens the corpus's characters take, counted once

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Print one line before anything is loaded, which may take minutes."""
        module: Any = pl_module
        data: Any = getattr(trainer, "datamodule", None)
        what = f"LoRA r {module.lora.r} on" if module.lora else "every parameter of"
        how = "from random weights" if module.from_scratch else f"weights {module.quantization}"
        module.print(
            f"Training {what} {module.base} ({how}) with {getattr(data, 'source', type(data).__name__)}"
        )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print sizes, once, on rank zero, before the first step, and leave what the report says of the model."""
        module: Any = pl_module
        data: Any = getattr(trainer, "datamodule", None)
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        frozen = sum(weights(p) for p in module.parameters() if not p.requires_grad)
        size = sum(stored_bytes(p) for p in module.parameters())
        steps = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
        cuda = module.device.type == "cuda"
        self.pieces = pieces_of(module, data)
        device = torch.cuda.get_device_name(module.device) if cuda else f"a {module.device.type.upper()}"
        lines = [
            f"model: {trained:,} parameters trained, {frozen:,} frozen, {in_words(size)} in all",
            *what_stays(module.start),
            *how_it_trains(module.model),
            *machine_notes(module.device, module.compile_layers),
            *(data.summary().splitlines() if hasattr(data, "summary") else []),
            *self.pieces,
            *offered_template(module.tokenizer, data),
            f"{steps:,} optimizer steps on {device}, {trainer.precision}, into {trainer.default_root_dir}",
        ]
        module.print(joined(*lines))
        leave_how_it_trains(trainer, module, self.pieces)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say how many layers keep their activations, when that was measured and decided."""
        module: Any = pl_module
        decoder = fast_decoder(module.model)
        if decoder is not None and (decided := decoder.news()):
            module.print(decided)
            add_to_how_it_trains(trainer, decided)
        layers = checkpointed_layers(module.model)
        if layers is not None and (decided := layers.news()):
            module.print(f"general path: {decided}")
            leave_how_it_trains(trainer, module, self.pieces)


def leave_how_it_trains(trainer: pl.Trainer, module: Any, pieces: list[str]) -> None:
    """Write what the run's report says of the model."""
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return
    folder = Path(trainer.default_root_dir)
    folder.mkdir(parents=True, exist_ok=True)
    found = str(getattr(causal_lm(module.model), "findings", "") or "").splitlines()
    said = [*what_stays(module.start), *how_it_trains(module.model), *found, *pieces]
    write_json(folder / HOW_TRAINED, said)


def add_to_how_it_trains(trainer: pl.Trainer, sentence: str) -> None:
    """Let the run's report, if it says anything of the model, say this too."""
    file = Path(trainer.default_root_dir) / HOW_TRAINED
    if trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False) and file.is_file():
        write_json(file, [*read_json(file), sentence])


def pieces_of(module: Any, data: Any) -> list[str]:
    """How many tokens the characters and syllables of a corpus take, before and with new tokens."""
    texts = sample_texts(data.sources[0]) if isinstance(data, CPTDataModule) else []
    if not texts or not module.tokenizer.is_fast:
        return []
    tokenizers = [module.tokenizer]
    if module.vocabulary.words:
        tokenizers.insert(0, load_tokenizer(module.base))
    counted = []
    for tokenizer in tokenizers:
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        counted.append(str(count_pieces(texts, encoded["offset_mapping"])))
    said = f"{data.labels[0]}: {counted[0]}"
    return [f"{said}; with the new tokens {counted[1]}" if len(counted) > 1 else said]


def what_stays(start: Start) -> list[str]:
    """Which earlier stages' adapters stay frozen beside whose 4-bit weights, and what a wrapper would do to logits."""
    lines = left_out_by_wrapper(start.weights)
    if start.updates:
        kept = " and ".join(map(str, start.updates))
        lines.insert(
            0, f"{start.base} in 4 bits: {start.weights} with {kept} frozen beside it, as it was trained"
        )
    return lines


def how_it_trains(model: Any) -> list[str]:
    """Which of a model's matrices have LoRA and which have none, what multiplies in 8 bits, and why the model is on the
    general path if it is."""
    base = causal_lm(model)
    lines = []
    adapted = [name for name, module in base.named_modules() if hasattr(module, "lora_A") and module.lora_A]
    if adapted:
        names = sorted({name.rpartition(".")[2] for name in adapted})
        rest = without_lora(base, adapted)
        lines.append(
            f"LoRA on {len(adapted)} projections: {', '.join(names)}; "
            + (f"none on {', '.join(rest)}" if rest else "all that the text model has")
        )
    decoder = fast_decoder(model)
    if decoder is not None and decoder.matmul != "bf16":
        lines.append(
            f"products with the 4-bit weights in {decoder.matmul}: the first steps compare it with 16 bits"
        )
    reason = getattr(base, "slow_path_reason", None)
    if reason:
        lines.append(f"general path, since {reason}: right, but slower than the fast path")
    if reason:
        lines.append(what_is_kept(base))
    packed = any(parameter.dtype is torch.uint8 for parameter in base.parameters())
    if packed and any(
        parameter.dim() == 3 and parameter.is_floating_point() for parameter in base.parameters()
    ):
        lines.append("its stacked experts stay in 16 bits: bitsandbytes packs layers, and they are none")
    return lines


def what_is_kept(base: Any) -> str:
    """How many layers of a model on the general path keep their activations."""
    if not base.supports_gradient_checkpointing:
        return "all activations are kept: transformers cannot compute this model's layers again"
    count, deciding = len(checkpointable(base)), checkpointed_layers(base)
    if deciding is not None:
        return deciding.decided or (
            f"activations: the first micro-batch shows how many of {count} layers can keep theirs"
        )
    if any(getattr(module, "gradient_checkpointing", False) for module in base.modules()):
        return f"activations: all of {count} layers compute theirs again"
    return "all activations are kept"


def offered_template(tokenizer: PreTrainedTokenizerBase, data: Any) -> list[str]:
    """A word on the chat template of a base that has one, where questions are asked without."""
    if getattr(data, "chat_template", True) or not getattr(tokenizer, "chat_template", None):
        return []
    return [
        "questions are asked as plain text; the tokenizer has a chat template, as -it and Instruct bases were trained "
        "with: --data.init_args.chat_template true, here and in predict"
    ]


def in_words(size: int) -> str:
    """Bytes in MiB or GiB.

    >>> in_words(5 * 2**20), in_words(7 * 2**30)
    ('5.0 MiB', '7.00 GiB')
    """
    return f"{size / 2**20:.1f} MiB" if size < 2**30 else f"{size / 2**30:.2f} GiB"


def weights(parameter: torch.nn.Parameter) -> int:
    """How many weights a parameter holds: two in each byte of a 4-bit one."""
    return parameter.numel() * (2 if parameter.dtype is torch.uint8 else 1)


def stored_bytes(parameter: torch.nn.Parameter) -> int:
    """Bytes a parameter takes; of a 4-bit one, with its blocks' scales, which its size in elements leaves out."""
    tensors: list[Any] = [parameter]
    state = getattr(parameter, "quant_state", None)
    while state is not None:  # double quantisation: the scales have scales
        tensors += [state.absmax, state.code, state.offset]
        state = state.state2
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
