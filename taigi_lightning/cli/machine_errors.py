"""Failures of the machine rather than of the program, each explained in one paragraph with what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path

from taigi_lightning.errors import InputError
from taigi_lightning.windows import explain_windows

OUT_OF_MEMORY = (
    "The GPU's memory is full ({reason}). See what needs how much with `python -m taigi_lightning plan` and the "
    "same options as this run. What saves most: --model.activation_budget 0, then half the data.batch_size with "
    "twice the trainer.accumulate_grad_batches (the same training), then --model.optimizer "
    "bitsandbytes.optim.PagedAdamW8bit. A run that was saving checkpoints goes on with --ckpt_path last."
)
NO_CUDA = (
    "A GPU was asked for, and PyTorch sees none ({reason}). If `nvidia-smi` fails, install the NVIDIA driver; if it "
    "works, this PyTorch was built without CUDA or for a newer driver: install the build that pytorch.org names for "
    "your driver. To try things out without a GPU: --trainer.accelerator cpu, with a small model."
)
NO_KERNELS = (
    "bitsandbytes or PyTorch has no code for this GPU ({reason}). 4-bit training needs an NVIDIA card of the Turing "
    "generation or newer (T4, RTX 20) for tested speed, Maxwell at least, and builds made for it. "
    "`python -m bitsandbytes` says which CUDA it was built for; `pip install --upgrade bitsandbytes torch` is the "
    "usual cure. --model.quantization none runs without bitsandbytes if the 16-bit model fits."
)
NO_BITSANDBYTES = (
    "bitsandbytes, which holds the 4-bit weights, cannot be used here ({reason}). Install it with `pip install "
    "--upgrade bitsandbytes`, or give --model.quantization none, which needs about four times the memory."
)
DISK_FULL = (
    "The disk is full ({reason}). `python -m taigi_lightning plan` says what a run leaves on disk; "
    "--checkpoint.save_top_k 1 and --export.merge false save most. Files are written aside and renamed, so what "
    "was finished before is whole, and --ckpt_path last goes on from it."
)
NO_PLACE = (
    "A file or folder cannot be used ({reason}). Give a place in a folder that exists or can be made, and in which "
    "you may write."
)
HOST_MEMORY = (
    "This machine's own memory, not the GPU's, is full ({reason}). Close other programs, or lower "
    "--data.num_workers; a base model in safetensors shards is loaded shard by shard and needs little. What waits "
    "there for want of memory on the card, `python -m taigi_lightning plan` counts; --host_memory says what is free."
)
NO_WANDB = (
    "The config logs to Weights & Biases, and the package wandb is not installed ({reason}). `pip install wandb`, "
    "or run without it: --trainer.logger null. The CSV log and report.html are written either way."
)
NO_NETWORK = (
    "The network cannot be reached ({reason}). A model that was fetched before is used without it when "
    "HF_HUB_OFFLINE=1 is set; else fetch it once with `hf download NAME` where there is a network, and give the "
    "folder as --model.base."
)
GATED = (
    "The Hub does not give this model to you ({reason}). Accept its terms on its page, then `hf auth login`; if it "
    "has no such page, check the name after --model.base."
)


def explain(error: BaseException) -> str | None:
    """One paragraph about a failure of the machine, or None where it is a mistake of the program.

    Args:
        error: what was raised; its causes are looked at too.
    """
    for one in _causes(error):
        if isinstance(one, InputError):  # a library put an error of its own around it
            return str(one)
        paragraph = _paragraph(one)
        if (meaning := explain_windows(one)) is not None and paragraph in (None, NO_PLACE):
            paragraph = f"Windows refuses ({{reason}}): {meaning}."
        if paragraph is not None:
            lines = str(one).strip().splitlines() or [type(one).__name__]
            reason = lines[0].strip().rstrip(".")
            return paragraph.format(reason=reason if len(reason) < 160 else reason[:157] + "...")
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


# Names instead of classes: importing torch only to describe an error would be the slowest part of it.
def _paragraph(error: BaseException) -> str | None:
    kind = type(error).__name__
    text = str(error).lower()
    told_apart = [
        (kind == "OutOfMemoryError" or "cuda out of memory" in text, OUT_OF_MEMORY),
        ("no kernel image" in text or "named symbol not found" in text, NO_KERNELS),
        (
            kind in ("ImportError", "PackageNotFoundError", "ModuleNotFoundError") and "bitsandbytes" in text,
            NO_BITSANDBYTES,
        ),
        (kind == "ModuleNotFoundError" and "wandb" in text, NO_WANDB),
        (_asks_for_cuda(kind, text), NO_CUDA),
        (_disk_is_full(error), DISK_FULL),
        (_no_place(error), NO_PLACE),
        (isinstance(error, MemoryError) or "can't allocate memory" in text, HOST_MEMORY),
        (kind in ("GatedRepoError", "RepositoryNotFoundError"), GATED),
        (kind in ("ConnectError", "ConnectionError", "LocalEntryNotFoundError", "MaxRetryError"), NO_NETWORK),
    ]
    return next((paragraph for applies, paragraph in told_apart if applies), None)


def _disk_is_full(error: BaseException) -> bool:
    if type(error).__name__ == "SafetensorError":  # no OSError, but its number is in the text
        return re.search(r"\(os error (28|112)\)", str(error)) is not None
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return full or getattr(error, "winerror", None) in (39, 112)


def _no_place(error: BaseException) -> bool:
    """Whether a path that was asked for cannot be written or entered; a file that is not there may be a bug."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return not Path(str(error.filename)).absolute().parent.is_dir()
    return isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError | FileExistsError)


def _asks_for_cuda(kind: str, text: str) -> bool:
    lightning = kind == "MisconfigurationException" and ("gpu" in text or "cuda" in text)
    torch = "no nvidia driver" in text or "not compiled with cuda" in text or "no cuda gpus" in text
    return lightning or torch
