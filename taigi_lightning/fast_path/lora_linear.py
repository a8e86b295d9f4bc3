"""One frozen projection, in 4 bits or not, with its LoRA: what the fast path reads of it, and whether it can."""

from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor, nn

from taigi_lightning.kernels.host_memory import held_in_place, hold_in_place, let_move, to_host


class LoraLinear:
    """What the fast path reads of one projection: a frozen Linear, alone or inside a PEFT LoRA layer."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.base: Any = module.get_base_layer() if hasattr(module, "get_base_layer") else module
        self.out_features: int = self.base.out_features
        self.in_features: int = self.base.in_features
        self.lora: tuple[nn.Parameter, nn.Parameter] | None = None
        self.scale, self.dropout = 1.0, 0.0
        if self.base is not module:
            self.lora, self.scale, self.dropout = _read(module)
            self._active, self._a, self._b = list(module.active_adapters), module.lora_A, module.lora_B

    @property
    def rank(self) -> int:
        return 0 if self.lora is None else self.lora[0].shape[0]

    @property
    def packed(self) -> bool:
        """Whether its frozen weight is in 4 bits."""
        return isinstance(self.base.weight, bnb.nn.Params4bit)

    @property
    def device(self) -> torch.device:
        """Where it computes: the scales are there while the packed weight waits elsewhere."""
        weight = self.base.weight
        return weight.quant_state.absmax.device if self.packed else weight.device  # type: ignore[no-any-return]

    @property
    def on_host(self) -> bool:
        """Whether its packed weight was told to stay where it is when the model moves: on the host."""
        return held_in_place(self.base)

    def send_to_host(self) -> Tensor:
        """Keep the packed weight in host memory, wherever the model moves; return it."""
        weight = self.base.weight
        if weight.is_cuda:
            weight.data = to_host(weight.data)
        hold_in_place(self.base)
        return weight.data  # type: ignore[no-any-return]

    def send_to_device(self, device: torch.device) -> None:
        """Keep the packed weight on the device again."""
        let_move(self.base)
        self.send_packed(device)

    def send_packed(self, device: torch.device | str) -> None:
        """Move the packed weight, without its scales, which are small."""
        if self.packed:
            self.base.weight.data = self.base.weight.data.to(device)

    def unchanged(self) -> bool:
        """Whether the fast path can still stand in for it, and would compute with the adapter that is active now."""
        if refusal(self.module) is not None:
            return False
        if self.lora is None:
            return True
        (a, b), *settings = _read(self.module)
        return a is self.lora[0] and b is self.lora[1] and settings == [self.scale, self.dropout]

    def in_use(self) -> bool:
        """As much of `unchanged` as is asked of every projection in every pass: a thousandth of a millisecond."""
        if self.lora is None:
            return True
        module, name = self.module, self._active[0]
        return bool(
            module.active_adapters == self._active
            and module.scaling[name] == self.scale
            and getattr(self._a[name], "weight", None) is self.lora[0]
            and getattr(self._b[name], "weight", None) is self.lora[1]
            and not module.merged_adapters
            and not module.disable_adapters
        )

    def unpack(self, out: Tensor, fused: bool) -> None:
        """Write the frozen weight into out (out_features, in_features)."""
        weight = self.base.weight
        if not self.packed:
            out.copy_(weight)
            return
        state = weight.quant_state
        if fused and out.is_cuda and state.blocksize == 64 and self.in_features % 64 == 0:
            from taigi_lightning.kernels.nf4_triton import unpack

            unpack(weight.data, state, out)
        else:
            out.copy_(bnb.functional.dequantize_4bit(weight.data, state))


def _read(module: Any) -> tuple[tuple[nn.Parameter, nn.Parameter], float, float]:
    """A and B of a LoRA layer's one active adapter, its scale, and its dropout."""
    (name,) = module.active_adapters
    matrices = module.lora_A[name].weight, module.lora_B[name].weight
    return matrices, float(module.scaling[name]), float(getattr(module.lora_dropout[name], "p", 0.0))


def refusal(module: Any) -> str | None:  # noqa: PLR0911
    """Why the fast path cannot stand in for this projection, or None if it can."""
    base = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    if not isinstance(base, nn.Linear) or isinstance(base.weight, bnb.nn.Int8Params):
        return f"{type(base).__name__} is neither a 4-bit nor a plain Linear"
    if any(p.requires_grad for p in base.parameters()):
        return "its base weight trains"
    if base is module:
        return None
    adapters = list(module.active_adapters)
    if len(adapters) != 1 or adapters[0] not in module.lora_A:
        return f"it has the active adapters {adapters}; one LoRA adapter was wanted"
    name = adapters[0]
    if module.merged or module.disable_adapters:
        return "its adapter is merged or disabled"
    plain = all(isinstance(matrix[name], nn.Linear) for matrix in (module.lora_A, module.lora_B))
    if not plain or getattr(module, "lora_variant", {}).get(name) or module.lora_B[name].bias is not None:
        return "its adapter is more than plain LoRA"
    if not isinstance(module.lora_dropout[name], nn.Dropout | nn.Identity):
        return "its adapter's dropout is not nn.Dropout"
    return None
