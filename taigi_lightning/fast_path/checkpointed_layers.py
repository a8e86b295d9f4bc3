"""Which layers of transformers' own pass keep their activations, and which compute them again.

Any architecture comes here: layers of unequal size, experts, recurrent ones. So nothing is counted from shapes. The
first micro-batch of a shape runs with every layer checkpointed; meanwhile it is measured what each layer would keep
otherwise and what memory is taken at the peak, and from then on as many layers as fit keep everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle
from transformers.modeling_layers import GradientCheckpointingLayer

from taigi_lightning.fast_path.device_memory import CardMemory
from taigi_lightning.fast_path.own_pass import own_decoder, own_hidden
from taigi_lightning.planning import general_path
from taigi_lightning.planning.general_path import Measured


@dataclass
class Run:
    """One call of a layer, and the bytes that it would keep beside its input if it was not checkpointed."""

    layer: nn.Module
    size: int


class CheckpointedLayers:
    """The layers of one model whose activations transformers can compute again. Holds no parameters of its own.

    Args:
        base: the transformers causal language model, every layer checkpointed.
        budget: the share of all activations kept, between 0 and 1, or "auto": what `memory` has.
        memory: of the device that the model is on; counts with "auto" alone.
    """

    def __init__(self, base: Any, budget: float | Literal["auto"], memory: CardMemory) -> None:
        self.base, self.budget, self.memory = base, budget, memory
        self.layers = checkpointable(base)
        self.optimizer_state = 0  # bytes that the optimizer will take, but has not yet
        self.measured: list[Measured] = []
        self.counts: dict[tuple[int, int], int] = {}  # of layers that keep everything, by B and T
        self.decided: str | None = None  # last, in words
        self._told: str | None = None
        self._runs: list[Run] = []
        self._order: list[nn.Module] = []  # the layers as they first ran
        self._measuring = False
        self._hooks: list[RemovableHandle] = []  # on the backward pass that is watched
        for layer in self.layers:
            layer._gradient_checkpointing_func = partial(self._run, layer)
            for inner in layer.modules():
                if inner is not layer and isinstance(inner, GradientCheckpointingLayer):
                    inner.gradient_checkpointing = False  # the outer one's pass holds what is inside

    def hidden(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Hidden states (B, T, H) by transformers' own pass, each layer as was decided for micro-batches (B, T)."""
        rows, columns = input_ids.shape
        trains = torch.is_grad_enabled() and self.base.training
        if trains:
            self._prepare(rows, columns)
        hidden = own_hidden(self.base, input_ids=input_ids, position_ids=position_ids)
        if trains and self._measuring:
            self._measuring = False
            if hidden.requires_grad:
                self._watch(hidden, rows, columns)
        return hidden

    def news(self) -> str | None:
        """What was decided since this was last asked, in words."""
        news = self.decided if self.decided != self._told else None
        self._told = self.decided
        return news

    # ---- deciding ----------------------------------------------------------------------------------

    def _prepare(self, rows: int, columns: int) -> None:
        """Let as many layers keep everything as a measured micro-batch no smaller says, else measure this one."""
        if (rows, columns) not in self.counts:
            counts = [
                self._count(measured, rows, columns)
                for measured in self.measured
                if self.budget != "auto" or measured.covers(rows, columns)
            ]
            if counts:
                self.counts[rows, columns] = max(counts)
        self._measuring, self._runs = (rows, columns) not in self.counts, []
        self._forget()  # a backward pass that was expected and did not come to its end
        self._keep(self.counts.get((rows, columns), 0))

    def _count(self, measured: Measured, rows: int, columns: int) -> int:
        if self.budget != "auto":
            return general_path.layers_within(measured.layers, self.budget * sum(measured.layers))
        return general_path.layers_kept(measured, rows * columns, self.memory.usable())

    def _keep(self, count: int) -> None:
        """Let the last so many layers keep everything."""
        order = self._order or self.layers
        for index, layer in enumerate(order):
            layer.gradient_checkpointing = index < len(order) - count

    def _watch(self, hidden: Tensor, rows: int, columns: int) -> None:
        """Read the peak of memory when the loss is through, and when the last gradient is there."""
        self._order = list(dict.fromkeys(run.layer for run in self._runs))
        layers = tuple(sum(run.size for run in self._runs if run.layer is layer) for layer in self._order)
        last = self._runs[-1].size if self._runs else 0
        if self.budget != "auto":
            self._decide(Measured(rows, columns, layers, last))
            return
        trained = [parameter for parameter in self.base.parameters() if parameter.requires_grad]
        coming = self.optimizer_state + sum(p.nbytes for p in trained if p.grad is None)
        vocabulary = self.base.get_output_embeddings().weight.shape[0]
        loss = general_path.loss_bytes(rows, columns, hidden.shape[-1], vocabulary, hidden.element_size())
        least = self.memory.held() + loss  # even if few of these tokens are learnt
        self.memory.forget_peak()
        at_loss: list[int] = []

        def after_loss(_: Tensor) -> None:
            at_loss.append(max(least, self.memory.peak()))
            self.memory.forget_peak()

        def at_end(_: Any) -> None:
            self._forget()
            if at_loss:
                peaks = at_loss[0], self.memory.peak()
                self._decide(Measured(rows, columns, layers, last, *peaks, coming))

        self._hooks = [
            hidden.register_hook(after_loss),  # type: ignore[no-untyped-call]
            register_multi_grad_hook(trained, at_end),
        ]

    def _forget(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _decide(self, measured: Measured) -> None:
        self.measured.append(measured)
        shape, layers = (measured.rows, measured.columns), len(self.layers)
        count = self.counts[shape] = self._count(measured, *shape)
        self.decided = (
            f"activations of {shape[0]} x {shape[1]} tokens: {count} of {layers} layers keep theirs"
            + (", the others compute them again" if count < layers else "")
        )

    # ---- measuring ---------------------------------------------------------------------------------

    def _run(self, layer: nn.Module, function: Callable[..., Any], *args: Any) -> Any:
        """What transformers calls for a layer that is checkpointed: function is its pass, with its keywords."""
        out = checkpoint(function, *args, use_reentrant=False)
        if self._measuring:
            self._runs.append(Run(layer, self._kept_bytes(layer, function, args)))
        return out

    def _kept_bytes(self, layer: nn.Module, function: Callable[..., Any], args: tuple[Any, ...]) -> int:
        """Bytes that autograd keeps of one pass through a layer, beside what is there without it.

        What autograd functions keep by themselves shows in the memory taken alone.
        """
        given = tensors_in((args, getattr(function, "keywords", {})))
        known = {_address(t) for t in (*given, *layer.parameters(), *layer.buffers())}
        kept: dict[int, Tensor] = {}  # the tensor itself, so that no address comes twice

        def note(tensor: Tensor) -> Tensor:
            # Not the tensor itself: one that its own function saves would keep that alive, which keeps the tensor.
            bare = tensor.detach()
            if _address(bare) not in known:
                kept[_address(bare)] = bare
            return bare

        devices = {t.device for t in (*given, *layer.parameters()) if t.is_cuda}
        held = self.memory.held()
        with torch.random.fork_rng(list(devices)), saved_tensors_hooks(note, lambda tensor: tensor):
            out = function(*args)
        made = sum(t.untyped_storage().nbytes() for t in tensors_in(out) if _address(t) not in kept)
        counted = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        return max(counted, self.memory.held() - held - made)


def checkpoint_layers(base: Any, budget: float | Literal["auto"]) -> None:
    """Let transformers compute layers' activations again, as far as a budget wants it and the model's class can.

    On a CPU "auto" keeps everything, as on the fast path. Where it is decided later how many layers do, what decides
    is put beside the model as `checkpointed_layers`.
    """
    base.__dict__.pop("checkpointed_layers", None)
    device = next(base.parameters()).device
    if budget == "auto" and device.type != "cuda":
        budget = 1.0
    if budget == 1.0 or not base.supports_gradient_checkpointing:
        return
    base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    base.disable_input_require_grads()  # only reentrant checkpointing needs them, and some add to them in place
    if budget != 0.0 and checkpointable(base):
        base.checkpointed_layers = CheckpointedLayers(base, budget, CardMemory(device, general_path.MARGIN))


def checkpointable(base: Any) -> list[Any]:
    """The layers of a causal language model that transformers can checkpoint, of those in each other the outermost."""
    return list(dict.fromkeys(_outermost(own_decoder(base))))


def _outermost(module: nn.Module) -> Iterator[Any]:
    for child in module.children():
        if isinstance(child, GradientCheckpointingLayer):
            yield child
        else:
            yield from _outermost(child)


def tensors_in(given: Any) -> list[Tensor]:
    """The tensors in arguments or results of a layer, which may be nested."""
    if isinstance(given, Tensor):
        return [given]
    parts = given.values() if isinstance(given, dict) else given if isinstance(given, tuple | list) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
