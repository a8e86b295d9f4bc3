"""The backbone of a model of a known family, run layer by layer as the device's memory allows."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from taigi_lightning.fast_path.activation_offload import HostStash
from taigi_lightning.fast_path.attention import Documents, find_documents
from taigi_lightning.fast_path.decoder_layer import DecoderLayer, read_norm
from taigi_lightning.fast_path.device_memory import allowed_bytes, margin
from taigi_lightning.fast_path.families import UNTURNED, Family
from taigi_lightning.fast_path.frozen_columns import frozen_rank
from taigi_lightning.fast_path.layer_functions import apply_layer, apply_norm
from taigi_lightning.fast_path.memory_decision import decide_memory, in_words, moving
from taigi_lightning.fast_path.micro_batch import Step
from taigi_lightning.fast_path.vocabulary import Tables
from taigi_lightning.fast_path.watched_modules import WatchedModules
from taigi_lightning.fast_path.weight_stream import WeightStream
from taigi_lightning.kernels.elementwise import Norm
from taigi_lightning.kernels.matmul import Matmul
from taigi_lightning.planning import activation_plan, placement
from taigi_lightning.planning.activation_plan import Saving
from taigi_lightning.planning.layer_mix import spread
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.placement import WeightsOnHost

Budget = float | Literal["auto"]


class FastDecoder:
    """The backbone of one model. Holds no parameters of its own.

    Args:
        base: the transformers causal language model.
        family: how its layers are put together.
        ops: `elementwise`, or `elementwise_triton`.
        budget: the share of all activations kept on the device, or "auto".
        offload: move what layers without a share save to the host, if the device is a GPU.
        embedding_on_host: where the input embedding stays; None: as `activation_plan.decide` says.
        unpacked_layers: how many layers hold their weights unpacked; None: as `activation_plan.decide` says.
        weights_on_host: how many layers' packed weights wait on the host; "auto": as `placement.place` says.
    """

    def __init__(
        self,
        base: Any,
        family: Family,
        ops: ModuleType,
        budget: Budget,
        *,
        fused: bool,
        offload: bool | float,
        embedding_on_host: bool | None,
        unpacked_layers: int | None,
        weights_on_host: WeightsOnHost,
    ) -> None:
        self.backbone, self.family, self.ops, self.budget = base.get_decoder(), family, ops, budget
        config = self.backbone.config
        # The modules say it: files may hold a head of its own where the config calls it tied.
        tied = base.get_output_embeddings().weight is self.backbone.embed_tokens.weight
        self.shape = replace(Shape.from_config(config.to_dict()), tied=tied)
        self.layers: list[DecoderLayer] = []
        for index, layer in enumerate(self.backbone.layers):
            previous = self.layers[-1] if self.layers else None
            self.layers.append(DecoderLayer(layer, index, self.shape, family, config, previous, fused))
        self.tables = Tables(self.backbone.embed_tokens, base.get_output_embeddings(), self.shape.tied, ops)
        self.packed = self.layers[0].members()[0].packed
        self.rank = max(m.rank + frozen_rank(m.base) for layer in self.layers for m in layer.members())
        self.stash = HostStash(self.device) if offload and self.device.type == "cuda" else None
        self.offload = offload
        self.embedding_on_host = False if self.shape.tied or self.tables.rows_train else embedding_on_host
        self.stream = WeightStream(self.device)
        self.weights_on_host = weights_on_host
        self.fill = unpacked_layers is None and self.device.type == "cuda"
        self.compared = (
            False  # products in 8 bits are, with 16: no layer holds its weights dequantised meanwhile
        )
        self.unpacked = 0
        self.matmul: Matmul = "bf16"
        self.keep_unpacked(unpacked_layers or 0)
        self.plans: dict[tuple[int, int], list[Saving]] = {}
        self._last: tuple[int, int] | None = None  # B and T of the last micro-batch
        self.host_limit = math.inf  # bytes of the host for activations, beside all else that waits there
        # tokens of the micro-batch of which something was said, and what
        self._most, self._said, self._news = 0, "", ""
        self.optimizer_state = 0  # bytes that the optimizer will take, but has not yet
        # Should transformers' own pass run, as for `generate`, it finds the packed weights where they were.
        self._hooks = [self.backbone.register_forward_pre_hook(lambda *_: self.keep_unpacked(0))]
        for module in self.backbone.layers:
            self._hooks.append(module.register_forward_pre_hook(self.stream.before_own_pass))
        self.wide = family.wide and self.layers[0].dtype == torch.float16
        if self.wide:
            self.shape = replace(self.shape, wide=True)
            self._hooks += widen(self.backbone, family)
        self.keep_on_host({layer.index for layer in self.layers if layer.members()[0].on_host})
        if weights_on_host != "auto":
            (count,) = placement.counts(weights_on_host, len(self.layers), self.packed)
            self.keep_on_host(set(spread(len(self.layers), count)))
        read = (self.backbone.layers, self.backbone.norm)
        called = [child for child in self.backbone.children() if child not in read]
        self.told: str | None = None  # the last change that was warned of
        self.stood_aside = False  # transformers' own layers have trained, and know of the budget
        self.watched = WatchedModules("model", self.backbone, called)

    @property
    def device(self) -> torch.device:
        """Where the layers are; the embedding may be elsewhere."""
        return self.backbone.norm.weight.device  # type: ignore[no-any-return]

    @property
    def element_size(self) -> int:
        """Bytes of one element of the hidden states."""
        return self.backbone.norm.weight.element_size()  # type: ignore[no-any-return]

    def ready(self) -> bool:
        """Whether the adapters are still as the layers were built for: all of the first layer, and of each other
        projection what may be changed by itself."""
        first = all(m.unchanged() for m in self.layers[0].members())
        return first and all(m.in_use() for layer in self.layers[1:] for m in layer.members())

    def changed(self) -> str | None:
        """What else of the layers is another by now than they were built for, in words; None if nothing is."""
        return self.watched.change(self.backbone.training)

    # ---- memory ------------------------------------------------------------------------------------

    def keep_unpacked(self, layers: int, packed_on_host: bool = True, backward: bool = True) -> None:
        """Hold the base weights of just the first layers unpacked; packed, they wait on the host or stay.

        Args:
            backward: there will be backward passes; without them, weights in 8 bits are held with LoRA added.
        """
        for index, layer in enumerate(self.layers):
            if index < layers and not layer.unpacked:
                layer.keep_unpacked(self.backbone.norm.weight.dtype, packed_on_host, backward)
            elif index >= layers and layer.unpacked:
                layer.drop_unpacked()
        self.unpacked = layers

    def compute_in(self, matmul: Matmul) -> None:
        """Make the products with frozen weights in 8 or in 16 bits; what memory they may take is decided anew."""
        self.keep_unpacked(0)
        for layer in self.layers:
            for group in layer.groups():
                group.compute_in(matmul)
        self.matmul, self.plans = matmul, {}

    def keep_on_host(self, chosen: set[int]) -> None:
        """Let the packed weights of some layers, and only theirs, wait on the host."""
        for layer in self.layers:
            if layer.index in chosen:
                self.stream.add(layer.index, layer.members())
        for layer in self.layers:
            layer.stream = self.stream if layer.index in chosen else None
            if layer.stream is None:
                self.stream.remove(layer.index)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # what left is for others, and for larger pieces

    def release(self) -> None:
        """Undo what was done to the model."""
        self.keep_unpacked(0)
        for hook in self._hooks:
            hook.remove()
        self.tables.bring_back(self.device)

    def savings(self, shape: tuple[int, int]) -> list[Saving]:
        """What each layer saves of a micro-batch (B, T), decided when that shape first comes.

        It is decided this late because by then the optimizer and everything else is set up: the memory that is free
        is what training will have, and Lightning no longer moves the embedding back to the device. Dequantised
        weights count as free memory, so that a larger shape drops them. Where a larger micro-batch keeps everything,
        so does a smaller one, and nothing is asked of the device.
        """
        tokens = math.prod(shape)
        if shape not in self.plans:
            for other, saving in self.plans.items():
                if math.prod(other) >= tokens and all(map(activation_plan.keeps_everything, saving)):
                    self.plans[shape] = saving
                    break
        if shape not in self.plans:
            choice = decide_memory(self, shape)
            plan = choice.decision
            if plan.embedding_on_host or self.embedding_on_host:
                self.tables.embedding_to_host()
                self.embedding_on_host = False  # done
            if choice.head_on_host:
                self.tables.head_to_host()
            # First what waited comes back: afterwards it would bring the 4 bits of dequantised layers as well.
            if choice.on_host > len(self.stream.hosts) or not self.plans:
                self.keep_on_host(set(spread(len(self.layers), choice.on_host)))
            if self.fill and not self.compared:
                self.keep_unpacked(min(plan.unpacked, self.unpacked) if self.plans else plan.unpacked)
            if self.stash is not None and tokens > self._most and (said := in_words(choice)) != self._said:
                self._most, self._said = tokens, said
                self._news = f"activations of {shape[0]} x {shape[1]} tokens: {said}"
            self.plans[shape] = plan.savings
        elif self.stash is not None and shape != self._last:
            self.stash.reserve(moving(self, shape, self.plans[shape]), self.host_limit)
        self._last = shape
        return self.plans[shape]

    def news(self) -> str | None:
        """What was decided since this was last asked, in words: of the first micro-batch on a GPU, and of larger ones
        for which it is something else."""
        news, self._news = self._news, ""
        return news or None

    def headroom(self, tokens: int) -> float:
        """`activation_plan.headroom_left` on this device, now."""
        if self.device.type != "cuda":
            return math.inf
        limit, available = allowed_bytes(self.device)
        if self.fill:
            size = activation_plan.held_size(self.matmul, self.element_size)
            each = activation_plan.unpacked_bytes(self.shape, self.rank, self.element_size, self.packed, size)
            available += self.unpacked * each
        trained = (p for layer in self.layers for p in layer.parameters())
        missing = sum(p.nbytes for p in trained if p.grad is None) + self.optimizer_state
        missing += sum(g.missing_bytes(self.element_size) for layer in self.layers for g in layer.groups())
        taken = limit - available + missing
        return activation_plan.headroom_left(
            limit, taken, self.shape, tokens, self.element_size, margin(), self.tables.head_on_host
        )

    # ---- the pass ----------------------------------------------------------------------------------

    def hidden(self, input_ids: Tensor, position_ids: Tensor, documents: Documents | None = None) -> Tensor:
        """Last hidden states (B, T, H); documents are found in position_ids if they are not given."""
        if any(group.folded for layer in self.layers for group in layer.groups()):
            self.keep_unpacked(0)  # here LoRA may train
        rows, columns = input_ids.shape
        savings = self.savings((rows, columns)) if torch.is_grad_enabled() else []
        with torch.autocast(input_ids.device.type, enabled=False):
            embedded = self.backbone.embed_tokens(input_ids)
            step = Step(
                documents=documents or find_documents(position_ids),
                tables=self.rotary_tables(position_ids.expand(rows, -1)),
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
            x = apply_norm(x, delta, self.final_norm, self.layers[-1].post_norm(1), self.ops)
        return x.view(rows, columns, -1)

    @property
    def final_norm(self) -> Norm:
        """Of the last layer's result."""
        norm = read_norm(self.backbone.norm, self.family)
        assert norm is not None
        return norm

    def rotary_tables(self, position_ids: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """cos and sin (M, D), in the layers' dtype, of every kind of layer; position_ids: (B, T)."""
        tables, like = {}, self.backbone.norm.weight
        for kind in {layer.table for layer in self.layers}:
            if kind == UNTURNED:
                cos = like.new_ones(*position_ids.shape, self.layers[0].head_size)
                sin = torch.zeros_like(cos)
            else:
                names = (kind,) if self.family.rotary_by_type else ()
                cos, sin = self.backbone.rotary_emb(like, position_ids, *names)
            tables[kind] = (cos.flatten(0, 1).contiguous(), sin.flatten(0, 1).contiguous())
        return tables


def widen(backbone: Any, family: Family) -> list[Any]:
    """Let every pass through a backbone, transformers' own among them, add up the residual stream in float32.

    What is added first decides its dtype, as does what a norm after a projection gives. Returns hooks to remove.
    """
    after = [getattr(layer, name) for layer in backbone.layers for name in family.after if name is not None]
    hooks = [norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),)) for norm in after]
    return [*hooks, backbone.embed_tokens.register_forward_hook(lambda _, __, embedded: embedded.float())]
