"""Which of Lightning's strategies train this project's module rightly, and which are refused."""

from __future__ import annotations

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

from taigi_lightning.errors import InputError

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
