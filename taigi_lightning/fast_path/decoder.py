"""The backbone of a Llama-shaped model, run through `decoder_layer` as the device's memory allows."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import bitsandbytes as bnb
import torch
from torch import Tensor

from taigi_lightning.fast_path import nf4_linear
from taigi_lightning.fast_path.activation_offload import HostStash, host_bytes
from taigi_lightning.fast_path.attention import Documents, find_documents
from taigi_lightning.fast_path.decoder_layer import DecoderLayer
from taigi_lightning.fast_path.micro_batch import Step
from taigi_lightning.kernels.elementwise import Dropout
from taigi_lightning.planning import activation_plan
from taigi_lightning.planning.activation_plan import Saving
from taigi_lightning.planning.memory import Shape

Budget = float | Literal["auto"]


class FastDecoder:
    """The backbone of one model. Holds no parameters of its own.

    Args:
        base: the transformers causal language model.
        ops: `elementwise`, or `elementwise_triton`.
        budget: the share of all activations kept on the device, or "auto".
        offload: move what layers without a share save to the host, if the device is a GPU.
        embedding_on_host: where the input embedding stays; None: as `activation_plan.decide` says.
        unpacked_layers: how many layers hold their weights unpacked; None: as `activation_plan.decide` says.
    """

    def __init__(
        self,
        base: Any,
        ops: ModuleType,
        budget: Budget,
        *,
        fused: bool,
        offload: bool | float,
        embedding_on_host: bool | None,
        unpacked_layers: int | None,
    ) -> None:
        self.backbone, self.ops, self.budget = base.get_decoder(), ops, budget
        self.shape = Shape.from_config(base.config.to_dict())
        self.layers = [
            DecoderLayer(layer, index, self.shape.heads, self.shape.kv_heads, fused)
            for index, layer in enumerate(self.backbone.layers)
        ]
        self.packed = isinstance(self.layers[0].members()[0].base.weight, bnb.nn.Params4bit)
        self.rank = max(m.rank for layer in self.layers for m in layer.members())
        self.stash = HostStash(self.device) if offload and self.device.type == "cuda" else None
        self.host_room = host_bytes(offload) if self.stash is not None else 0.0
        self.embedding_on_host = False if self.shape.tied else embedding_on_host
        self.fill = unpacked_layers is None and self.device.type == "cuda"
        self.unpacked = 0
        self.keep_unpacked(unpacked_layers or 0)
        self.plans: dict[tuple[int, int], list[Saving]] = {}
        self.optimizer_state = 0  # bytes that the optimizer will take, but has not yet
        # Should transformers' own pass run, as for `generate`, it finds the packed weights where they were.
        self._hook = self.backbone.register_forward_pre_hook(lambda *_: self.keep_unpacked(0))

    @property
    def device(self) -> torch.device:
        """Where the layers are; the embedding may be elsewhere."""
        return self.backbone.norm.weight.device  # type: ignore[no-any-return]

    @property
    def element_size(self) -> int:
        """Bytes of one element of the hidden states."""
        return self.backbone.norm.weight.element_size()  # type: ignore[no-any-return]

    def ready(self) -> bool:
        """Whether the adapters are still as the layers were built for: PEFT switches and merges all together."""
        return all(nf4_linear.refusal(m.module) is None for m in self.layers[0].members())

    # ---- memory ------------------------------------------------------------------------------------

    def keep_unpacked(self, layers: int, packed_on_host: bool = True) -> None:
        """Hold the base weights of just the first layers unpacked; packed, they wait on the host or stay."""
        for index, layer in enumerate(self.layers):
            if index < layers and not layer.unpacked:
                layer.keep_unpacked(self.backbone.norm.weight.dtype, packed_on_host)
            elif index >= layers and layer.unpacked:
                layer.drop_unpacked()
        self.unpacked = layers

    def release(self) -> None:
        """Undo what was done to the model."""
        self.keep_unpacked(0)
        self._hook.remove()
        embedding = self.backbone.embed_tokens
        if embedding.__dict__.pop("forward", None) is not None:
            embedding.weight.data = embedding.weight.data.to(self.device)

    def move_embedding_to_host(self) -> None:
        """Keep the input embedding in pinned host memory; only a block's rows travel."""
        embedding, ops = self.backbone.embed_tokens, self.ops
        host = embedding.weight.data.cpu()
        embedding.weight.data = host.pin_memory() if torch.cuda.is_available() else host

        def look_up(input_ids: Tensor) -> Tensor:
            rows = ops.gather_rows(embedding.weight, input_ids.reshape(-1))
            return rows.view(*input_ids.shape, -1)  # type: ignore[no-any-return]

        embedding.forward = look_up

    def savings(self, shape: tuple[int, int]) -> list[Saving]:
        """What each layer saves of a micro-batch (B, T), decided when that shape first comes.

        Only now, when whoever set up the training has done so: the memory found free is what there will be, and
        nobody moves the embedding back. Unpacked weights count as free, so that a larger shape drops them.
        """
        if shape not in self.plans:
            embedding = self.backbone.embed_tokens.weight
            movable = embedding.nbytes if embedding.is_cuda and self.embedding_on_host is None else 0
            plan = activation_plan.decide(
                self.shape,
                math.prod(shape),
                self.rank,
                budget=self.budget,
                room=self._room(math.prod(shape)),
                host_room=self.host_room,
                embedding=movable,
                element_size=self.element_size,
                packed=self.packed,
            )
            if plan.embedding_on_host or self.embedding_on_host:
                self.move_embedding_to_host()
                self.embedding_on_host = False  # done
            if self.fill:
                self.keep_unpacked(min(plan.unpacked, self.unpacked) if self.plans else plan.unpacked)
            self.plans[shape] = plan.savings
        return self.plans[shape]

    def _room(self, tokens: int) -> float:
        """`activation_plan.room_left` on this device, now."""
        if self.device.type != "cuda":
            return math.inf
        free, total = torch.cuda.mem_get_info(self.device)
        held, used = torch.cuda.memory_reserved(self.device), torch.cuda.memory_allocated(self.device)
        limit = torch.cuda.get_per_process_memory_fraction(self.device) * total
        available = min(free + held, limit) - used
        if self.fill:
            each = activation_plan.unpacked_bytes(self.shape, self.rank, self.element_size, self.packed)
            available += self.unpacked * each
        trained = (p for layer in self.layers for p in layer.parameters())
        missing = sum(p.nbytes for p in trained if p.grad is None) + self.optimizer_state
        # The setting that makes it so may be absent, and is not heeded on every system.
        segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
        expandable = any(segment.get("is_expandable") for segment in segments)
        margin = activation_plan.MARGIN if expandable else activation_plan.LOOSE_MARGIN
        taken = limit - available + missing
        return activation_plan.room_left(limit, taken, self.shape, tokens, self.element_size, margin)

    # ---- the pass ----------------------------------------------------------------------------------

    def hidden(self, input_ids: Tensor, position_ids: Tensor, documents: Documents | None = None) -> Tensor:
        """Last hidden states (B, T, H); documents are found in position_ids if they are not given."""
        rows, columns = input_ids.shape
        savings = self.savings((rows, columns)) if torch.is_grad_enabled() else []
        with torch.autocast(input_ids.device.type, enabled=False):
            embedded = self.backbone.embed_tokens(input_ids)
            cos, sin = self.backbone.rotary_emb(embedded, position_ids)
            step = Step(
                documents=documents or find_documents(position_ids),
                cos=cos.expand(rows, -1, -1).flatten(0, 1).contiguous(),
                sin=sin.expand(rows, -1, -1).flatten(0, 1).contiguous(),
                shape=(rows, columns),
                # The host's generator: asking the device's would wait for it.
                seed=int(torch.randint(2**31 - 1, ())),
                training=self.backbone.training,
                ops=self.ops,
                savings=savings,
                stash=self.stash,
            )
            x, delta = embedded.flatten(0, 1), None
            for layer in self.layers:
                x, delta = apply_layer(x, delta, layer, step, *layer.parameters())
            norm = self.backbone.norm
            x = apply_norm(x, delta, norm.weight.detach(), norm.variance_epsilon, self.ops)
        return x.view(rows, columns, -1)


# A layer's result is x + delta, and whoever takes the two adds them before anything else, once: here and only here
# are they used. So both have the gradient of the sum: it goes back as one tensor in both places, and is read, and
# overwritten, in one. Where nothing was added, the place of delta has none.


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor | None, layer: DecoderLayer, step: Step, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.layer, ctx.step, ctx.added = layer, step, delta is not None
        return layer.forward(x, delta, step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
        layer, step = ctx.layer, ctx.step
        grad_x, gradients = layer.backward(grad.contiguous(), step, ctx.needs_input_grad[0])
        wanted = [g.to(p.dtype) for g, p in zip(gradients, layer.parameters(), strict=True)]
        return (grad_x, grad_x if ctx.added else None, None, None, *wanted)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, weight: Tensor, eps: float, ops: ModuleType) -> Tensor:
        out = torch.empty_like(x)
        total, _ = ops.add_rms_norm(x, delta, weight, eps, out, Dropout(0.0, 0))
        ctx.save_for_backward(total.detach(), weight)
        ctx.eps, ctx.ops = eps, ops
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        total, weight = ctx.saved_tensors
        grad_x, _ = ctx.ops.rms_norm_backward(
            grad.contiguous(), None, total, weight, ctx.eps, None, Dropout(0.0, 0)
        )
        return grad_x, grad_x, None, None, None


apply_layer: Callable[..., tuple[Tensor, Tensor]] = _Layer.apply
apply_norm: Callable[..., Tensor] = _Norm.apply
