"""Bases too large for any disk here, whose packed weights wait on the host, and a host link made to seem slower."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import bitsandbytes as bnb
import torch
from random_base import gemma3, llama_config, random_base
from torch import Tensor, nn

from taigi_lightning.fast_path import memory_decision
from taigi_lightning.fast_path.activation_offload import HostStash
from taigi_lightning.fast_path.machine_speed import measure_machine
from taigi_lightning.fast_path.weight_stream import WeightStream
from taigi_lightning.kernels.host_memory import hold_in_place, to_host
from taigi_lightning.planning.memory import Shape

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
LLAMA_70B = Shape(80, 8192, 28672, 64, 8, 128, 128256)
NARROW: dict[str, Any] = {
    "hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "head_size": 16, "vocabulary": 97
}  # fmt: skip


def gemma_27b(tiny: bool = False) -> Any:
    """Gemma 3 27B's config: heads of 128, and a scale that is not theirs."""
    config = gemma3(*((64, 128, 6, 4, 2, 16) if tiny else (5376, 21504, 62, 32, 16, 1024)))
    config.head_dim, config.query_pre_attn_scalar = (16, 16) if tiny else (128, 168)
    config.vocab_size = 97 if tiny else config.vocab_size
    return config


def llama_70b(tiny: bool = False) -> Any:
    """Llama 3 70B's config."""
    return llama_config(replace(LLAMA_70B, **NARROW, layers=6) if tiny else LLAMA_70B)


def base_on_host(config: Any) -> Any:
    """A base of random packed weights, each layer's in host memory of its own.

    The bytes are those of one layer, made on the card once: so a base of 34 GiB is there in seconds.
    """
    layers, config.num_hidden_layers = config.num_hidden_layers, 1
    model = random_base(config, DEVICE)
    first = model.model.layers[0]
    for index in range(1, layers):
        layer = copy.deepcopy(first, {id(m.weight): _another(m) for m in _packed(first)})
        layer.self_attn.layer_idx = index
        model.model.layers.append(layer)
        for module in _packed(layer):
            hold_in_place(module)
    for module in _packed(first):
        _wait_on_host(module)
    config.num_hidden_layers = layers
    for layer, kind in zip(model.model.layers, getattr(config, "layer_types", None) or (), strict=False):
        attention = layer.self_attn
        attention.is_sliding = kind == "sliding_attention"
        attention.sliding_window = config.sliding_window if attention.is_sliding else None
    return model.requires_grad_(False)


def _packed(layer: nn.Module) -> list[Any]:
    return [m for m in layer.modules() if isinstance(m, bnb.nn.Linear4bit)]


def _wait_on_host(module: Any) -> None:
    if CUDA:
        module.weight.data = to_host(module.weight.data)
    hold_in_place(module)


def _another(module: Any) -> Any:
    """A weight of its own with the same packed bytes, on the host; its scales are on the card."""
    weight = module.weight
    data: Tensor = to_host(weight.data) if CUDA else weight.data.clone()
    return bnb.nn.Params4bit(
        data, requires_grad=False, quant_state=copy.deepcopy(weight.quant_state), blocksize=64,
        compress_statistics=True, quant_type="nf4", bnb_quantized=True,
    )  # fmt: skip


@contextmanager
def slow_link(gigabytes: float | None) -> Iterator[None]:
    """Make the link seem that slow, or faster by less than one copy: whatever crosses it is copied several times.

    The speed that a run measures is then what it would be.
    """
    if gigabytes is None:
        yield
        return
    measured = measure_machine(torch.device(DEVICE, 0), torch.bfloat16) if CUDA else None
    times = round(measured.link / 1e9 / gigabytes) if measured else 2
    fetch, put, prefetch, measure = (
        WeightStream._fetch,
        HostStash.put,
        HostStash.prefetch,
        memory_decision.measure_machine,
    )

    def slow_fetch(self: WeightStream, slot: Any, layer: int) -> None:
        for _ in range(times):
            fetch(self, slot, layer)

    def slow_put(self: HostStash, key: object, tensor: Tensor) -> None:
        for _ in range(times):
            put(self, key, tensor)
        self.leaving[-times:] = self.leaving[-1:]

    def slow_prefetch(self: HostStash, key: object) -> None:
        if key in self.coming:
            return
        for _ in range(times):
            self.coming.pop(key, None)
            prefetch(self, key)

    patched: list[tuple[Any, str, Any]] = [
        (WeightStream, "_fetch", slow_fetch), (HostStash, "put", slow_put), (HostStash, "prefetch", slow_prefetch),
    ]  # fmt: skip
    if measured:
        slower = replace(measured, link=measured.link / times)
        patched.append((memory_decision, "measure_machine", lambda *_: slower))
    try:
        for place, name, new in patched:
            setattr(place, name, new)
        yield
    finally:
        for place, name, old in zip(
            [p for p, *_ in patched],
            [n for _, n, _ in patched],
            [fetch, put, prefetch, measure],
            strict=False,
        ):
            setattr(place, name, old)
