"""The two tables as long as the vocabulary, input embedding and output head, and their ways from host memory.

Of the embedding a block's rows travel, of a head on the host all, part by part, while the part before is multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from taigi_lightning.kernels.host_memory import held_in_place, hold_in_place, let_move, to_host
from taigi_lightning.planning.activation_plan import HEAD_ROWS


def parts_of(weight: Tensor, device: torch.device, rows: int) -> Iterator[tuple[slice, Tensor]]:
    """A weight (V, H) in parts (rows, H) on a device, each while the next arrives.

    What is queued with a part must be queued before the next is asked for.
    """
    parts = [slice(start, start + rows) for start in range(0, len(weight), rows)]
    if weight.device == device:
        yield from ((part, weight[part]) for part in parts)
        return
    copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    main = torch.cuda.current_stream(device)
    slots = [torch.empty(rows, weight.shape[1], dtype=weight.dtype, device=device) for _ in range(2)]

    def fetch(number: int) -> tuple[Tensor, torch.cuda.Event]:
        source = weight[parts[number]]
        slot = slots[number % 2][: len(source)]
        copies.wait_stream(main)  # all that was queued with the part before last is through with its slot
        with torch.cuda.stream(copies):
            slot.copy_(source, non_blocking=True)
        return slot, copies.record_event()

    coming = fetch(0)
    for number, part in enumerate(parts):
        here, arrived = coming
        if number + 1 < len(parts):
            coming = fetch(number + 1)
        main.wait_event(arrived)
        yield part, here


class Tables:
    """A model's input embedding and output head, and where they are.

    Args:
        embedding: looked up in `ops.gather_rows`, which reads single rows from the host.
        head: anything but a frozen Linear stays, as does one rows of which train.
        tied: the two are one.
        ops: `elementwise`, or `elementwise_triton`.
    """

    def __init__(self, embedding: Any, head: Any, tied: bool, ops: ModuleType) -> None:
        self.embedding, self.head, self.tied, self.ops = embedding, head, tied, ops

    @property
    def rows_train(self) -> bool:
        """Whether rows of them do (`token_rows`), which then are written into both before every pass."""
        return hasattr(self.embedding, "token_rows")

    @property
    def head_on_host(self) -> bool:
        """Whether the head waits there."""
        return held_in_place(self.head)

    def movable_head(self) -> int:
        """Bytes of the head, if it may wait on the host and does not yet."""
        if not isinstance(self.head, nn.Linear) or self.head_on_host or self.rows_train:
            return 0
        return 0 if any(p.requires_grad for p in self.head.parameters()) else self.head.weight.nbytes

    def embedding_to_host(self) -> None:
        """Keep the embedding in pinned host memory; only a block's rows travel."""
        embedding, ops = self.embedding, self.ops
        embedding.weight.data = to_host(embedding.weight.data)

        def look_up(input_ids: Tensor) -> Tensor:
            rows = ops.gather_rows(embedding.weight, input_ids.reshape(-1))
            scale = getattr(
                embedding, "embed_scale", None
            )  # of Gemma's, which multiplies in the weight's dtype
            rows = rows if scale is None else rows * scale.to(rows)
            return rows.view(*input_ids.shape, -1)  # type: ignore[no-any-return]

        embedding.forward = look_up

    def head_to_host(self) -> None:
        """Keep the head there; tied, it is the embedding, which then waits there too."""
        if self.tied:
            self.embedding_to_host()
            hold_in_place(self.embedding)
        else:
            self.head.weight.data = to_host(self.head.weight.data)
        hold_in_place(self.head)
        self.head.forward = MethodType(_project, self.head)  # as `generate` calls it

    def bring_back(self, device: torch.device) -> None:
        """Have both on the device, as they were."""
        if self.head_on_host:
            self.head.__dict__.pop("forward", None)
            self.head.weight.data = self.head.weight.data.to(device)
            let_move(self.head)
        if self.embedding.__dict__.pop("forward", None) is not None:
            self.embedding.weight.data = self.embedding.weight.data.to(device)
            let_move(self.embedding)


def _project(head: Any, hidden: Tensor) -> Tensor:
    """hidden (..., H) times the weight on the host, (..., V)."""
    logits = [
        nn.functional.linear(hidden, weight) for _, weight in parts_of(head.weight, hidden.device, HEAD_ROWS)
    ]
    joined = torch.cat(logits, dim=-1)
    return joined if head.bias is None else joined + head.bias
