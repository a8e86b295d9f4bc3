"""From the decoder's last hidden states to logits, as the model itself does it: found by asking, not by name.

Most heads are one product with a weight. Some scale or cap its result (Cohere, Granite, Gemma 2), some have a bias.
Instead of knowing which setting of which class says so, the model's own forward pass is run once with numbers of
our choice in place of the product, and what it makes of them is read off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taigi_lightning.errors import InputError
from taigi_lightning.fast_path.apply import causal_lm, device_of
from taigi_lightning.fast_path.own_pass import between_decoder_and_head, in_eval_mode, own_decoder
from taigi_lightning.fast_path.vocabulary import parts_of
from taigi_lightning.fast_path.watched_modules import hooks_of
from taigi_lightning.kernels.host_memory import held_in_place
from taigi_lightning.planning.memory import HEAD_CHUNK

SMALLEST, LARGEST = 2.0**-14, 1e9  # products far below any cap, and far above
FEW = 64  # rows of a head's weight that are multiplied again
STEPS = (1e-2, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


@dataclass(frozen=True)
class OutputHead:
    """logits = cap(scale * (W h + bias)), where cap(x) = cap * tanh(x / cap), or x without a cap.

    weight: (V, H). bias: (V,) or None. on_host: the weight waits in host memory, and passes by part by part.
    rows: float32 (n, H) that train in place of the weight's rows `ids` (n,), whose values the weight holds; or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    on_host: bool = False
    rows: Tensor | None = None
    ids: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether the logits are the product with the weight and nothing more."""
        return self.bias is None and self.scale == 1.0 and self.cap is None

    def logits(self, hidden: Tensor) -> list[Tensor]:
        """Logits of hidden states (P, H) in float32, each (P, part of V), one slice of the vocabulary after another.

        In 16 bits a logit of 10 moves in steps of 0.06, and answers would often tie.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            x = hidden.float()
            slices = []
            for part, weight in parts_of(self.weight, x.device, HEAD_CHUNK):
                logits = x @ weight.float().T
                if self.bias is not None:
                    logits += self.bias[part].float()
                slices.append(self.finish_(logits))
        return slices

    def finish_(self, logits: Tensor) -> Tensor:
        """Scale and cap products with the weight, in their own memory."""
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.cap is not None:
            logits.div_(self.cap).tanh_().mul_(self.cap)
        return logits


def output_head(model: Any) -> OutputHead:
    """The head of a causal language model, or of a PEFT model over one; asked once a model, then remembered.

    Raises:
        InputError: its logits are not a scaled or capped product of the decoder's last hidden states, or those are no
            numbers; or a hook waits for its own forward pass, or its head's.
    """
    base = causal_lm(model)
    head = _product(base)
    _expect_no_hooks(model, head)
    # What decides on it: asked again where a user has changed that.
    asked = (head, *((type(module).forward, vars(module).get("forward")) for module in (base, head)))
    known: tuple[Any, tuple[float, float | None]] | None = base.__dict__.get("head_form")
    if known is None or known[0] != asked:
        known = base.__dict__["head_form"] = asked, _ask(base, head)
    form = known[1]
    trained: Any = getattr(head, "token_rows", None)
    rows, ids = (None, None) if trained is None else (trained.rows, trained.ids.to(head.weight.device))
    return OutputHead(head.weight, head.bias, *form, on_host=held_in_place(head), rows=rows, ids=ids)


def _product(base: Any) -> nn.Linear:
    head = base.get_output_embeddings()
    if hasattr(head, "modules_to_save"):
        raise InputError(
            f"The adapter brings an output layer of its own for {type(base).__name__} (PEFT's modules_to_save), and "
            "loss and answers are computed from the base's. Merge it into its base with PEFT's merge_and_unload "
            "and give that, or take an adapter without."
        )
    if not isinstance(head, nn.Linear) or not head.weight.is_floating_point():
        found = f"is {type(head).__name__}" if head is not None else "cannot be found"
        raise InputError(
            f"The output layer of {type(base).__name__} {found}; a plain Linear in 16 or 32 bits was wanted, from "
            "which the loss and the answers are computed. Use another base."
        )
    return head


def _expect_no_hooks(model: Any, head: nn.Module) -> None:
    """Refuse hooks on what is not called: neither the whole model is, nor its head."""
    base = causal_lm(model)
    # A bare model's base_model is its decoder.
    wrappers = {} if model is base else {"the PEFT model": model, "its base_model": model.base_model}
    for name, module in {**wrappers, type(base).__name__: base, "its output layer": head}.items():
        if hooks_of(module):
            raise InputError(
                f"A hook on {name} would not be called: losses and answers are computed from the decoder's last hidden "
                "states, logits a part at a time. Remove it, or put it on model.get_decoder()."
            )


@torch.no_grad()
def _ask(base: Any, head: nn.Linear) -> tuple[float, float | None]:
    """Scale and cap of a head: what the model's forward pass makes of products that are put in its place."""
    name = type(base).__name__
    values = torch.tensor([SMALLEST, LARGEST, *STEPS, *(-step for step in STEPS)], device=device_of(base))
    seen: dict[str, Tensor] = {}

    def after_decoder(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen["hidden"] = output[0] if isinstance(output, tuple) else output.last_hidden_state

    def at_head(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["input"] = inputs[0]
        # A few of its rows, which may wait on the host: all would take a vocabulary's memory once more.
        weight = head.weight[:FEW].to(output.device)
        bias = None if head.bias is None else head.bias[:FEW].to(weight)
        seen["wanted"] = nn.functional.linear(inputs[0].to(weight.dtype), weight, bias)
        seen["output"] = output[..., :FEW]
        product = torch.zeros_like(output, dtype=torch.float32)
        product[..., : len(values)] = values
        return product

    between = between_decoder_and_head(base)
    hooks = [own_decoder(base).register_forward_hook(after_decoder), head.register_forward_hook(at_head)]
    try:
        with in_eval_mode(base):
            output = base(input_ids=torch.arange(4, 8, device=values.device)[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if "input" not in seen or "hidden" not in seen:
        raise InputError(f"{name} does not compute its logits with its output layer. Use another base.")
    if between is not None:
        seen["hidden"] = between(seen["hidden"])
    if not seen["hidden"].isfinite().all():
        raise InputError(
            f"{name} computes values that are no numbers from four plain tokens: its weights are damaged, or its "
            "adapter's are, as where training diverged. Take an earlier checkpoint, or fetch the base anew."
        )
    if (seen["output"] - seen["wanted"]).float().norm() > 0.05 * seen["wanted"].float().norm():
        raise InputError(
            f"The output layer of {name} makes something else of its input than the product with its weight, of which "
            "the loss and the answers are computed. Use another base."
        )
    inner = _factor(seen["hidden"][0], seen["input"].view_as(seen["hidden"])[0])
    got = output.logits[0, -1, : len(values)].float()
    slope, top = float(got[0]) / SMALLEST, float(got[1])
    cap = top if abs(top) < 0.1 * abs(slope) * LARGEST else None
    wanted = values * slope if cap is None else cap * torch.tanh(values * slope / cap)
    scaled = torch.allclose(got, wanted, rtol=1e-3, atol=1e-4)
    if inner is None or not scaled or (head.bias is not None and inner != 1.0):
        raise InputError(
            f"{name} does more between its last layer and its logits than scale or cap a product, so the loss and "
            "the answers here would not be its own. Use another base."
        )
    return _rounded(slope * inner), None if cap is None else _rounded(cap)


def _factor(hidden: Tensor, scaled: Tensor) -> float | None:
    """The number by which `scaled` is `hidden`, or None if there is none."""
    hidden, scaled = hidden.float(), scaled.float()
    if torch.equal(hidden, scaled):
        return 1.0
    factor = float((hidden * scaled).sum() / (hidden * hidden).sum())
    near = torch.allclose(hidden * factor, scaled, rtol=2e-2, atol=1e-2 * float(scaled.abs().max()))
    return factor if near and math.isfinite(factor) else None


def _rounded(value: float) -> float:
    """Without the last digits of float32; 1 where it is that but for the rounding of 16 bits."""
    return 1.0 if abs(value - 1.0) < 4e-3 else float(f"{value:.6g}")
