"""Packed weights that wait on the host, held once for all ranks of a machine.

The first rank of each machine makes a file in memory for each layer, packs the weights into it, and the others map the
same pages. These files have no name (memfd_create): nothing of them is left behind however the ranks end, SIGKILL
included, since the system takes the pages back with the last mapping, and no rank can meet those of an earlier run.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor, distributed, nn

from taigi_lightning.errors import InputError
from taigi_lightning.kernels.host_memory import mapped_tensor, to_host

FILE = "taigi-lightning-weights"  # what /proc/PID/maps shows
ALIGNMENT = 256  # bytes from one weight to the next: the kernels that dequantise read whole vectors
Blocks = Mapping[str, Mapping[str, tuple[int, int]]]


def blocks_of(model: nn.Module) -> dict[str, dict[str, tuple[int, int]]]:
    """Where each packed weight lies: by layer, then by the parameter's name, its first byte and the one past its last.

    Args:
        model: whose 4-bit projections are there already, their weights not yet.
    """
    blocks: dict[str, dict[str, tuple[int, int]]] = {}
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            layer = re.match(r".*?\.\d+(?=\.)", name)
            block = blocks.setdefault(layer[0] if layer else name, {})
            start = -(-max((end for _, end in block.values()), default=0) // ALIGNMENT) * ALIGNMENT
            block[f"{name}.weight"] = (start, start + -(-module.in_features * module.out_features // 2))
    return blocks


class SharedWeights:
    """The memory of a model's packed weights that this machine's ranks share; every rank makes one at the same time.

    Where memory cannot be shared (another system than Linux, ranks in containers of their own) each rank holds its own
    copy, and a warning says so.
    """

    def __init__(self, blocks: Blocks) -> None:
        rank, machines = distributed.get_rank(), _gather(_this_machine())
        here = [r for r, machine in enumerate(machines) if machine == machines[rank]]
        self.leads, alone = rank == here[0], len(here) == 1
        files = _make_files(blocks) if self.leads and not alone else {}
        process, offered = _gather((os.getpid(), files))[here[0]]
        places = _map_files(blocks, process, offered)
        mapped = _gather(places is not None)  # whoever wants to has opened the files by now
        for descriptor in files.values():
            os.close(descriptor)
        self.places: dict[str, Tensor] = places if places is not None and mapped[here[0]] else {}
        self.sums: dict[str, int] = {}
        if not self.places and not alone:
            warnings.warn(
                "The ranks of this machine cannot share memory, so each holds all weights that wait on the host.",
                stacklevel=2,
            )

    def __deepcopy__(self, _: Any) -> SharedWeights:
        """Itself: transformers copies its quantizer, which holds this, for each packed weight that it reads."""
        return self

    def put(self, name: str, packed: Tensor) -> Tensor:
        """Where a packed weight waits from now on; the first rank of a machine writes it there."""
        self.sums[name] = _sum(packed)
        if name not in self.places:
            return to_host(packed)
        place = self.places.pop(name).view(packed.dtype).view(packed.shape)
        return place.copy_(packed) if self.leads else place

    def settle(self, base: str) -> None:
        """Wait until every weight is written, and compare what the ranks packed.

        Raises:
            InputError: one of them packed other weights than the first.
        """
        self.places = {}
        found = _gather(self.sums)
        for rank, sums in enumerate(found):
            if different := [name for name in sums if sums[name] != found[0].get(name)]:
                raise InputError(
                    f"Rank {rank} packed other weights than rank 0, such as {different[0]}, so they cannot train one "
                    f"model: {base} is not the same everywhere, or the GPUs differ. Give every rank the same files; "
                    "with GPUs of several kinds use one of them, --trainer.devices 1."
                )


def agreed(wanted: bool) -> bool:
    """Whether any rank wants something, so that all do the same."""
    return any(_gather(wanted))


def _gather(value: Any) -> list[Any]:
    """Every rank's value, in their order; all ranks call this together."""
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value)
    return found


def _this_machine() -> tuple[str, int]:
    """What tells this machine, and the processes that can be seen in it, from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return boot, Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return f"no Linux, process {os.getpid()}", distributed.get_rank()


def _make_files(blocks: Blocks) -> dict[str, int]:
    """A nameless file in memory for each block, by its descriptor; none if there cannot be all."""
    if sys.platform != "linux":
        return {}
    files: dict[str, int] = {}
    try:
        for name, block in blocks.items():
            files[name] = os.memfd_create(FILE)
            os.ftruncate(files[name], max(end for _, end in block.values()))
    except OSError:  # no memory, too many files
        for descriptor in files.values():
            os.close(descriptor)
        return {}
    return files


def _map_files(blocks: Blocks, process: int, files: Mapping[str, int]) -> dict[str, Tensor] | None:
    """Each weight's bytes in another process's files, or in this one's own; None if they cannot be opened."""
    places: dict[str, Tensor] = {}
    try:
        for name, descriptor in files.items():
            with Path(f"/proc/{process}/fd/{descriptor}").open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                whole = mapped_tensor(file.fileno(), size)
            places |= {weight: whole[start:end] for weight, (start, end) in blocks[name].items()}
    except OSError:
        return None
    return places


def _sum(packed: Tensor) -> int:
    """The sum of a tensor's bytes, eight at a time as one number: another where any one of them differs."""
    flat = packed.reshape(-1).view(torch.uint8)
    whole = flat.numel() // 8 * 8
    return int(flat[:whole].view(torch.int64).sum()) + int(flat[whole:].sum())
