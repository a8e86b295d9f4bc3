"""Make a PEFT model over a frozen base train fast, without changing its names, files or results.

Llama-shaped decoders run layer by layer through `decoder_layer`; any other architecture keeps transformers'
own forward pass with activation checkpointing, each of its 4-bit projections with LoRA as one product. Either
way parameters, and `generate`, stay untouched.
"""

import math
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from taigi_lightning import activation_plan, elementwise, nf4_linear
from taigi_lightning.attention import find_documents
from taigi_lightning.decoder_layer import DecoderLayer, Step, apply_layer, apply_norm
from taigi_lightning.offload import HostStash

LLAMA_SHAPED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
PROJECTIONS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


def apply_fast_path(
    model: nn.Module,
    *,
    compile: bool = False,
    activation_budget: float | Literal["auto"] = "auto",
    offload: bool | float = True,
    embedding_on_host: bool | None = None,
    unpacked_layers: int | None = None,
    optimizer_bytes: float = 8.0,
) -> nn.Module:
    """Prepare a PEFT causal language model for training, in place.

    Args:
        model: what `get_peft_model` returned, over a transformers causal language model.
        compile: on CUDA, compute the row-wise operations in fused kernels; off, in plain torch.
        activation_budget: the share of all activations kept on the device: 0 recomputes or moves out every
            layer's, 1 keeps everything, "auto" keeps what the device's free memory holds.
        offload: on CUDA, move what layers without a share save to pinned host memory: at most half of what
            is available there, or so many GiB.
        embedding_on_host: keep the input embedding in host memory; None: on CUDA with a budget of 0.
        unpacked_layers: how many layers hold their base weights unpacked to 16 bits, for speed; None: none, but
            with a budget of "auto" on CUDA as many as fit when every activation is kept.
        optimizer_bytes: per trainable parameter, optimizer state that "auto" must leave room for.

    Returns:
        The same model; its parameter names and saved files are PEFT's own.
    """
    base = causal_lm(model)
    base.config.use_cache = False
    reason = unsupported(model)
    if reason is not None:
        if activation_budget != 1.0:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        fused = compile and next(base.parameters()).is_cuda
        for module in base.modules():
            nf4_linear.speed_up(module, _operations(fused), fused)
        base.slow_path_reason = reason
        return model
    base.fast_decoder = FastDecoder(
        base, compile and _device(base).type == "cuda", activation_budget, offload, optimizer_bytes
    )
    if embedding_on_host is None:
        embedding_on_host = activation_budget == 0.0 and _device(base).type == "cuda"
    if embedding_on_host and not base.config.tie_word_embeddings:
        base.fast_decoder.move_embedding_to_host()
    base.fast_decoder.fill = unpacked_layers is None and activation_budget == "auto"
    base.fast_decoder.keep_unpacked(unpacked_layers or 0)
    return model


def causal_lm(model: Any) -> Any:
    """The transformers causal language model inside a PEFT model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _operations(fused: bool) -> ModuleType:
    if not fused:
        return elementwise
    from taigi_lightning import elementwise_triton

    return elementwise_triton


def _device(base: Any) -> torch.device:
    return base.get_decoder().norm.weight.device  # type: ignore[no-any-return]  # the embedding may be elsewhere


def forward_hidden(model: nn.Module, input_ids: Tensor, position_ids: Tensor) -> Tensor:
    """Last hidden states (B, T, H) of packed blocks; each document attends only to itself.

    Args:
        model: the PEFT model, or a bare transformers causal language model.
        input_ids: (B, T) int64.
        position_ids: (B, T) int64, restarting at 0 at each document: boundaries come from it.
    """
    base = causal_lm(model)
    decoder: FastDecoder | None = getattr(base, "fast_decoder", None)
    if decoder is not None and decoder.ready():
        return decoder.hidden(input_ids, position_ids)
    # Without an attention mask transformers finds the restarts itself and masks across documents.
    out = base.get_decoder()(input_ids=input_ids, position_ids=position_ids, use_cache=False)
    hidden: Tensor = out.last_hidden_state
    return hidden


def unsupported(model: nn.Module) -> str | None:
    """Why the layers of a model cannot be written out as Llama's, or None if they can."""
    base = causal_lm(model)
    config = base.config
    if type(base).__name__ not in LLAMA_SHAPED:
        return f"{type(base).__name__} is not one of {', '.join(LLAMA_SHAPED)}"
    if config.hidden_act != "silu" or getattr(config, "attention_dropout", 0.0):
        return "its activation is not SiLU, or its attention has dropout"
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if windowed and config.sliding_window < config.max_position_embeddings:
        return "its attention looks through a sliding window"
    trained = [n for n, p in base.named_parameters() if p.requires_grad and "lora_" not in n]
    if trained:
        return f"{trained[0]} trains, beside LoRA"
    for layer in base.get_decoder().layers:
        for block, names in PROJECTIONS.items():
            for name in names:
                reason = nf4_linear.refusal(getattr(getattr(layer, block), name))
                if reason is not None:
                    return f"{block}.{name}: {reason}"
    return None


class FastDecoder:
    """The backbone of one model, run through `decoder_layer`. Holds no parameters of its own."""

    def __init__(
        self,
        base: Any,
        fused: bool,
        activation_budget: float | Literal["auto"],
        offload: bool | float,
        optimizer_bytes: float,
    ) -> None:
        backbone, config = base.get_decoder(), base.config
        self.backbone, self.budget, self.optimizer_bytes = backbone, activation_budget, optimizer_bytes
        self.ops = _operations(fused)
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.layers = [
            DecoderLayer(layer, index, heads, kv_heads, fused) for index, layer in enumerate(backbone.layers)
        ]
        device = _device(base)
        self.stash = HostStash(device) if offload and device.type == "cuda" else None
        self.host_room = activation_plan.host_bytes(offload) if self.stash is not None else 0.0
        self.plans: dict[tuple[int, int], list[Any]] = {}
        self.fill = False  # whether room that activations leave goes to unpacked weights

    def ready(self) -> bool:
        """Whether the adapters are still as the layers were built for: PEFT switches and merges all together."""
        return all(nf4_linear.refusal(m.module) is None for m in self.layers[0].members())

    def keep_unpacked(self, layers: int) -> None:
        """Hold the base weights of the first layers unpacked."""
        for layer in self.layers[:layers]:
            layer.keep_unpacked(self.backbone.norm.weight.dtype)

    def move_embedding_to_host(self) -> None:
        """Keep the input embedding in pinned host memory; only a block's rows travel."""
        embedding = self.backbone.embed_tokens
        host = embedding.weight.data.cpu()
        embedding.weight.data = host.pin_memory() if torch.cuda.is_available() else host

        def look_up(input_ids: Tensor) -> Tensor:
            rows = self.ops.gather_rows(embedding.weight, input_ids.reshape(-1))
            return rows.view(*input_ids.shape, -1)  # type: ignore[no-any-return]

        embedding.forward = look_up

    def _savings(self, shape: tuple[int, int]) -> list[Any]:
        if shape not in self.plans:
            sizes = activation_plan.layer_bytes(self.backbone.config, math.prod(shape), self.element_size())
            room: float
            if self.budget == "auto":
                room = activation_plan.free_bytes(self, math.prod(shape))
            else:
                room = self.budget * sum(sizes.values()) * len(self.layers)
            self.plans[shape] = activation_plan.plan_savings(len(self.layers), sizes, room, self.host_room)
            spare = room - sum(sizes.values()) * len(self.layers)
            if self.fill and spare > 0 and self.backbone.norm.weight.is_cuda:
                cost = sum(g.out_features * g.width for g in self.layers[0].groups()) * self.element_size()
                self.keep_unpacked(int(spare / cost))
                self.fill = False
        return self.plans[shape]

    def element_size(self) -> int:
        """Bytes of one element of the hidden states."""
        return self.backbone.norm.weight.element_size()  # type: ignore[no-any-return]

    def hidden(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Last hidden states (B, T, H)."""
        rows, columns = input_ids.shape
        with torch.autocast(input_ids.device.type, enabled=False):
            embedded = self.backbone.embed_tokens(input_ids)
            cos, sin = self.backbone.rotary_emb(embedded, position_ids)
            step = Step(
                documents=find_documents(position_ids),
                cos=cos.expand(rows, -1, -1).flatten(0, 1).contiguous(),
                sin=sin.expand(rows, -1, -1).flatten(0, 1).contiguous(),
                shape=(rows, columns),
                # The host's generator: asking the device's would wait for it.
                seed=int(torch.randint(2**31 - 1, ())),
                training=self.backbone.training,
                ops=self.ops,
                savings=self._savings((rows, columns)) if torch.is_grad_enabled() else [],
                stash=self.stash,
            )
            x = embedded.flatten(0, 1)
            for layer in self.layers:
                x = apply_layer(x, layer, step, *layer.parameters())
            norm = self.backbone.norm
            x = apply_norm(x, norm.weight.detach(), norm.variance_epsilon, self.ops)
        return x.view(rows, columns, -1)
