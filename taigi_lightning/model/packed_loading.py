"""Load a 16-bit base whose 4-bit weights wait on the host: packed on the card one by one, never there together.

transformers reads, renames and places the tensors as for any 4-bit base, one after the other; here each packed weight
leaves the card before the next is read. Its scales stay. So the card holds one 16-bit tensor at a time, the host
the packed weights and what the system keeps of the file.
"""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor
from transformers import BitsAndBytesConfig
from transformers.integrations.bitsandbytes import Bnb4bitQuantize
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from taigi_lightning.kernels.host_memory import hold_in_place, to_host

METHOD = "nf4_on_host"


class _Pack(Bnb4bitQuantize):  # type: ignore[misc]
    """Pack one weight where it was read to, then send it to the host."""

    def convert(
        self,
        input_dict: dict[str, Any],
        full_layer_name: str | None = None,
        model: Any = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        packed: dict[str, Tensor] = super().convert(
            input_dict, full_layer_name=full_layer_name, model=model, **options
        )
        for name, weight in packed.items():
            if weight.is_cuda:
                weight.data = to_host(weight.data)
            hold_in_place(get_module_from_name(model, name)[0])
        return packed


@register_quantizer(METHOD)
class _OnHost(Bnb4BitHfQuantizer):  # type: ignore[misc]
    def get_quantize_ops(self) -> _Pack:
        return _Pack(self)

    def param_element_size(self, model: Any, param_name: str, param: Tensor) -> float:
        """Bytes an element takes of the card for good: transformers reserves the sum of these before it loads."""
        packed = isinstance(get_module_from_name(model, param_name)[0], Linear4bit)
        return 0.0 if packed else float(super().param_element_size(model, param_name, param))


class OnHostConfig(BitsAndBytesConfig):  # type: ignore[misc]
    """The settings of a 4-bit base whose packed weights wait on the host."""

    def post_init(self) -> None:
        super().post_init()
        self.quant_method = METHOD


def settle(model: Any) -> None:
    """Let a loaded base call itself what it is to everyone else: one that bitsandbytes packed."""
    model.config.quantization_config = BitsAndBytesConfig.from_dict(
        {**model.config.quantization_config.to_dict(), "quant_method": "bitsandbytes"}
    )
    torch.cuda.empty_cache()
