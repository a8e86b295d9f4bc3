"""Which of Lightning's strategies train this project's module correctly, and how its processes add up numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, distributed

from taigi_lightning.errors import InputError
from taigi_lightning.model.lineage import COMPARED, describe

SHARDING = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


def check_strategy(strategy: str | Strategy) -> None:
    """Refuse strategies that divide the weights among processes.

    The training step reads whole weights itself (packed 4-bit ones, and the output embedding in the loss),
    not through the modules whose hooks would gather them. `ModelParallelStrategy` shards nothing that the
    module does not shard itself and would leave the gradients of the processes apart, without an error.

    Raises:
        InputError: it is FSDP, FSDP2 (`ModelParallelStrategy`) or DeepSpeed, by name or as an object.
    """
    named = isinstance(strategy, str) and strategy.startswith(("fsdp", "deepspeed"))
    if not named and not isinstance(strategy, SHARDING):
        return
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    raise InputError(
        f"trainer.strategy is {name}, which divides the weights among GPUs; the training step here reads "
        "whole weights itself, where nothing would gather them. "
        "Use --trainer.strategy ddp, where each GPU holds the whole base."
    )


def check_same_base(identity: Mapping[str, str]) -> None:
    """Refuse ranks whose bases differ, as on two machines with two versions of a folder; all ranks call this together.

    Raises:
        InputError: a rank has another base than rank 0.
    """
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, dict(identity))
    for rank, other in enumerate(found[1:], start=1):
        if keys := [key for key in COMPARED if other.get(key) != found[0].get(key)]:
            raise InputError(
                f"Rank {rank} has another base than rank 0: {' and '.join(keys)} differ. Found {describe(other)}; "
                f"wanted {describe(found[0])}. Give every machine the same files."
            )


def over_ranks(tensor: Tensor, operation: Literal["sum", "max"]) -> Tensor:
    """The sum or the maximum of all processes' tensors, in place; alone, the tensor itself.

    Lightning's `strategy.reduce` does so behind a barrier, at which NCCL lets the host wait for the device: what
    follows in a training step would be launched too late. Here it is only queued.
    """
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(tensor, getattr(distributed.ReduceOp, operation.upper()))
    return tensor


def sum_over_ranks(values: Sequence[Tensor | float], device: torch.device) -> Tensor:
    """Each value summed over all processes: float64 [N] on the device."""
    # Without waiting for the device: what follows would reach it late.
    here = [torch.as_tensor(v, dtype=torch.float64).to(device, non_blocking=True) for v in values]
    return over_ranks(torch.stack(here), "sum")
