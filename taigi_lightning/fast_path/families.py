"""How each architecture's decoder layer differs from Llama's: all that the written-out layer has to be told.

Which configs take the fast path at all, `planning.decoder_path` says. What the modules themselves say is read from
them: sizes, biases, the attention's scale, each layer's window.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """The names of a layer's parts, and how they are put together.

    Attributes:
        qkv: the attention's projections of its input; together they give q, k, v, in this order.
        gate_up: the MLP's projections of its input; together they give gate, then up.
        before: norms of the attention's and of the MLP's input; None where there is none.
        after: norms of the attention's and of the MLP's output, before it joins the residual stream.
        head_norm: the RMS norm of q and k before the rotation: of each head, of all heads together, or none.
        one_plus: norms keep their weights as w - 1, and multiply by them in float32.
        window: who knows the sliding window: the config, each layer's attention, or nobody, as there is none.
        rotary_by_type: the rotary embedding has a base for each of the config's `layer_types`.
        wide: the residual stream exceeds float16's largest number, 65,504: it stays in float32 where layers compute in
            float16, as on cards without bfloat16.
    """

    qkv: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    before: tuple[str | None, str | None] = ("input_layernorm", "post_attention_layernorm")
    after: tuple[str | None, str | None] = (None, None)
    head_norm: Literal["none", "head", "whole"] = "none"
    one_plus: bool = False
    window: Literal["none", "config", "layer"] = "none"
    rotary_by_type: bool = False
    wide: bool = False

    def window_of(self, attention: Any, config: Any) -> int | None:
        """How many keys a query of one layer sees, itself included; None: all of its document so far."""
        if self.window == "none":
            return None
        found: int | None = (attention if self.window == "layer" else config).sliding_window
        return found

    def table_of(self, attention: Any, config: Any) -> str:
        """Which rotary table a layer reads: of its type, the only one (""), or none at all (UNTURNED)."""
        if not getattr(attention, "use_rope", True):
            return UNTURNED
        return config.layer_types[attention.layer_idx] if self.rotary_by_type else ""


UNTURNED = "unturned"  # the table of layers whose q and k are not rotated
FOUR_NORMS = Family(
    before=("input_layernorm", "pre_feedforward_layernorm"),
    after=("post_attention_layernorm", "post_feedforward_layernorm"),
    head_norm="head",
    one_plus=True,
    window="layer",
    rotary_by_type=True,
    wide=True,
)
NORMS_AFTER = Family(
    before=(None, None),
    after=("post_attention_layernorm", "post_feedforward_layernorm"),
    head_norm="whole",
)

FAMILIES = {
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(window="config"),
    "Qwen2ForCausalLM": Family(window="layer"),
    "Qwen3ForCausalLM": Family(head_norm="head", window="layer"),
    "SmolLM3ForCausalLM": Family(window="layer"),
    "Phi3ForCausalLM": Family(qkv=("qkv_proj",), gate_up=("gate_up_proj",), window="config"),
    "GemmaForCausalLM": Family(one_plus=True, wide=True),
    "Gemma3ForCausalLM": FOUR_NORMS,
    "Gemma3ForConditionalGeneration": FOUR_NORMS,
    "Olmo2ForCausalLM": NORMS_AFTER,
    "Olmo3ForCausalLM": replace(NORMS_AFTER, window="layer", rotary_by_type=True),
}
