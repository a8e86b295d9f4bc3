"""Load a base whose 4-bit weights wait on the host: packed on the card one by one, never there together.

transformers reads, renames and places the tensors as for any 4-bit base, one after the other; here each packed weight
leaves the card before the next is read. Its scales stay. So the card holds one 16-bit tensor at a time, the host
the packed weights and what the system keeps of the file. The same counts for weights that were packed before and are
read from a cache, and for ranks that share one copy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from torch import Tensor
from transformers import BitsAndBytesConfig
from transformers.integrations.bitsandbytes import Bnb4bitDeserialize, Bnb4bitQuantize
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from taigi_lightning.kernels.host_memory import hold_in_place, to_host
from taigi_lightning.model.shared_weights import SharedWeights, blocks_of

METHOD = "nf4_on_host"
SEQUENTIAL = "HF_DEACTIVATE_ASYNC_LOAD"
_shared: ContextVar[bool] = ContextVar("shared", default=False)


@contextmanager
def loading(shared: bool) -> Iterator[None]:
    """Let transformers read one tensor after the other, and if `shared`, this machine's ranks share what waits."""
    token, before = _shared.set(shared), os.environ.get(SEQUENTIAL)
    os.environ[SEQUENTIAL] = "1"
    try:
        yield
    finally:
        _shared.reset(token)
        os.environ.pop(SEQUENTIAL)
        if before is not None:
            os.environ[SEQUENTIAL] = before


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
            self.hf_quantizer.send_to_host(model, name, weight)
        return packed


class _Read(Bnb4bitDeserialize):  # type: ignore[misc]
    """Read one weight that was packed before, then send it to the host."""

    def convert(
        self,
        input_dict: dict[str, Any],
        model: Any = None,
        full_layer_name: str | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        read: dict[str, Any] = super().convert(
            input_dict, model=model, full_layer_name=full_layer_name, **options
        )
        for weight in read.values():
            if hasattr(weight, "quant_state"):
                self.hf_quantizer.send_to_host(model, full_layer_name, weight)
        return read


@register_quantizer(METHOD)
class _OnHost(Bnb4BitHfQuantizer):  # type: ignore[misc]
    shared: SharedWeights | None = None

    def _process_model_before_weight_loading(self, model: Any, device_map: Any, **options: Any) -> None:
        super()._process_model_before_weight_loading(model, device_map, **options)
        if _shared.get():
            self.shared = SharedWeights(blocks_of(model))

    def send_to_host(self, model: Any, name: str, weight: Any) -> None:
        """Let the packed weight of that name wait on the host."""
        if self.shared is not None:
            weight.data = self.shared.put(name, weight.data)
        elif weight.is_cuda:
            weight.data = to_host(weight.data)
        hold_in_place(get_module_from_name(model, name)[0])

    def get_quantize_ops(self) -> _Pack:
        return _Pack(self)

    def get_load_operations(self) -> dict[str, type[_Read]]:
        return {"deserialize": _Read}

    def get_weight_conversions(self) -> Any:
        """What transformers before `get_load_operations` (5.17) asks instead."""
        conversions = super().get_weight_conversions()
        for conversion in conversions if self.pre_quantized else ():
            replaced = [_Read(self) if type(op) is Bnb4bitDeserialize else op for op in conversion.operations]
            conversion.operations = replaced
        return conversions

    def param_element_size(self, model: Any, param_name: str, param: Tensor) -> float:
        """Bytes an element takes of the card for good: transformers reserves the sum of these before it loads."""
        packed = isinstance(get_module_from_name(model, param_name)[0], Linear4bit)
        return 0.0 if packed else float(super().param_element_size(model, param_name, param))


@register_quantization_config(METHOD)
class OnHostConfig(BitsAndBytesConfig):  # type: ignore[misc]
    """The settings of a 4-bit base whose packed weights wait on the host."""

    def post_init(self) -> None:
        super().post_init()
        self.quant_method = METHOD

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **options: Any) -> Any:
        return super().from_dict({**config_dict, "load_in_4bit": True}, **options)


def of_packed_files(config: BitsAndBytesConfig) -> dict[str, Any]:
    """What a base's own config says whose files hold packed weights, so that transformers reads them by `config`."""
    found: dict[str, Any] = config.to_dict()
    if config.quant_method == METHOD:
        for name in ("load_in_4bit", "_load_in_4bit"):  # they would count more than the method
            found.pop(name, None)
    return found


def settle(model: Any, base: str) -> None:
    """Let a loaded base call itself what it is to everyone else: one that bitsandbytes packed.

    Raises:
        InputError: ranks that share its weights packed different ones.
    """
    shared = model.hf_quantizer.shared
    if shared is not None:
        shared.settle(base)
    model.config.quantization_config = BitsAndBytesConfig.from_dict(
        {**model.config.quantization_config.to_dict(), "quant_method": "bitsandbytes"}
    )
    torch.cuda.empty_cache()
