"""Projections of one module that read the same tensor, such as q, k and v, computed when the first of them is called.

One product with all of LoRA's A, one mask, and in the backward pass one gradient of the input instead of a sum. Which
projections these are is taken from no list: as a model is prepared, four tokens pass through it, and it is seen which
tensor each projection is given. What is handed out later is nevertheless checked each time: a projection that is called
with another tensor computes alone. Nothing is held beyond one call of the module that the projections belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from types import ModuleType
from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor

from taigi_lightning.fast_path.fallback import is_joinable, project
from taigi_lightning.fast_path.lora_linear import LoraLinear
from taigi_lightning.fast_path.nf4_linear import ProjectionGroup
from taigi_lightning.fast_path.own_pass import in_eval_mode, own_hidden
from taigi_lightning.fast_path.watched_modules import WatchedModules

Seen = dict[Any, list[tuple[Tensor, int]]]  # of each projection: the tensors it was given, and their versions


class _Siblings:
    """Projections that read one tensor, in the order in which they are called."""

    def __init__(self, members: Sequence[Any], ops: ModuleType, fused: bool) -> None:
        self.members, self.ops = members, ops
        self.group = ProjectionGroup(members, fused)
        self.watched = [WatchedModules("projection", member, inside=True) for member in members]
        # Results that are still to be asked for, and the tensor that they are of; None outside their module's call.
        self.ready: dict[Any, tuple[Tensor, int, Tensor]] | None = None

    def join(self, parent: Any) -> None:
        """Let the module that they belong to, and each of them, go through this, in place."""
        parent.forward = self._around(parent.forward)
        for member in self.members:
            member.forward = self._instead(member, member.forward)

    def _around(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(plain)
        def forward(*args: Any, **options: Any) -> Any:
            before, self.ready = self.ready, {}
            try:
                return plain(*args, **options)
            finally:
                self.ready = before

        return forward

    def _instead(self, member: Any, alone: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(alone)
        def forward(x: Tensor, *args: Any, **options: Any) -> Tensor:
            found = None
            if not args and not options and self.ready is not None and torch.is_grad_enabled():
                if member is self.members[0]:
                    self.ready = self._computed(x)
                found = self._taken(member, x)
            return alone(x, *args, **options) if found is None else found

        return forward

    def _computed(self, x: Tensor) -> dict[Any, tuple[Tensor, int, Tensor]]:
        """What each makes of x (..., K), unless one of them has to go through PEFT's own forward by now."""
        training = {member.training for member in self.members}
        if len(training) != 1 or not all(member.unchanged() for member in self.group.members):
            return {}
        if any(watched.change(*training) is not None for watched in self.watched):
            return {}
        results = project(self.group, x, training.pop(), self.ops)
        return {member: (x, x._version, y) for member, y in zip(self.members, results, strict=True)}

    def _taken(self, member: Any, x: Tensor) -> Tensor | None:
        """What is ready for a projection that is called with x, if it was computed from just that."""
        found = (self.ready or {}).pop(member, None)
        if found is None or found[0] is not x or found[1] != x._version:
            return None
        return found[2]


def join_siblings(base: Any, parents: Sequence[Any], ops: ModuleType, fused: bool) -> int:
    """Let 4-bit projections with LoRA train together with those that read the same tensor, in place.

    Args:
        base: the transformers causal language model, in training mode: in any other nothing is done.
        parents: modules of it whose projections may be siblings.
        ops: `elementwise`, or `elementwise_triton`.

    Returns:
        how many groups were found.
    """
    found = {parent: [child for child in parent.children() if is_joinable(child)] for parent in parents}
    found = {parent: children for parent, children in found.items() if len(children) > 1}
    if not base.training or not found:
        return 0
    seen = _seen(base, {child for children in found.values() for child in children})
    count = 0
    for parent, children in found.items():
        for members in _alike(children, seen):
            _Siblings(members, ops, fused).join(parent)
            count += 1
            for member in members:
                del seen[member]  # another parent may hold it as well
    return count


@torch.no_grad()
def _seen(base: Any, projections: set[Any]) -> Seen:
    """What each projection is given while four tokens pass through a model; nothing if that is not enough for it."""
    seen: Seen = {}

    def note(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        known = len(args) == 1 and not options and isinstance(args[0], Tensor)
        x = args[0] if known else torch.empty(0)  # its own, so that it has no siblings
        seen.setdefault(module, []).append((x, x._version))

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in projections]
    embedding = base.get_input_embeddings().weight
    device, mixed = embedding.device, embedding.dtype in (torch.bfloat16, torch.float16)
    ids, places = torch.arange(4, 8, device=device)[None], torch.arange(4, device=device)[None]
    precision = torch.autocast(device.type, embedding.dtype if mixed else None, enabled=mixed)
    try:
        with in_eval_mode(base), precision, _no_products(base):
            own_hidden(base, input_ids=ids, position_ids=places)
    except Exception:  # it wants other arguments
        return {}
    finally:
        for handle in handles:
            handle.remove()
    return seen


@contextmanager
def _no_products(base: Any) -> Iterator[None]:
    """4-bit weights are not read, only zeros made: on a CPU bitsandbytes would repack them in eval mode, for good."""
    linears = [module for module in base.modules() if isinstance(module, bnb.nn.Linear4bit)]
    before = [vars(linear).get("forward") for linear in linears]
    for linear in linears:
        linear.forward = partial(_zeros, linear.out_features)
    try:
        yield
    finally:
        for linear, own in zip(linears, before, strict=True):
            del linear.forward
            if own is not None:
                linear.forward = own


def _zeros(columns: int, x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], columns)


def _alike(children: Sequence[Any], seen: Seen) -> Iterator[list[Any]]:
    """Of one module's projections those that were always given the same tensors, each once, in the order of calls."""
    by_input: dict[tuple[Any, ...], list[Any]] = {}
    for child in (module for module in seen if module in children):
        given, read = {id(x): version for x, version in seen[child]}, LoraLinear(child)
        if len(given) == len(seen[child]):
            by_input.setdefault((*given.items(), read.device, read.dropout), []).append(child)
    return (members for members in by_input.values() if len(members) > 1)
