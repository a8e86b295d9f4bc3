"""The bound of `predict_speed`: how long the matrix products take alone on the same card; and the clock of both."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from taigi_lightning.fast_path.apply import causal_lm
from taigi_lightning.fast_path.eight_bit_weights import FORMATS
from taigi_lightning.kernels.matmul import format_of
from tests.benchmarks.predict_workload import CUDA, DEVICE, DTYPE


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of work, with the device idle before and after."""
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def say(**figures: Any) -> None:
    """One JSON line."""
    rounded = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps(rounded), flush=True)


class Bound:
    """Seconds that the decoder's products alone would take.

    Args:
        model: whose products.
        tokens: M of the measured products.
    """

    def __init__(self, model: Any, tokens: int) -> None:
        config = causal_lm(model).config
        hidden, wide = config.hidden_size, config.intermediate_size
        self.layers = config.num_hidden_layers
        self.tokens = tokens
        shapes = self.shapes = [
            (hidden, 3 * hidden),
            (hidden, hidden),
            (hidden, 2 * wide),
            (wide, hidden),
        ]
        self.first = 2 * hidden * 3 * hidden  # flops of a token: q, k, v
        self.rest = sum(2 * rows * columns for rows, columns in shapes[1:])
        x = {size: torch.randn(tokens, size, device=DEVICE, dtype=DTYPE) for size in (hidden, wide)}
        weights = [torch.randn(n, k, device=DEVICE, dtype=DTYPE) * k**-0.5 for k, n in shapes]

        def products(times: int) -> None:
            for _ in range(times):
                for weight in weights:
                    torch.nn.functional.linear(x[weight.shape[1]], weight)

        seconds(lambda: products(2))
        time.sleep(1.0 if CUDA else 0.0)
        flops = tokens * (self.first + self.rest)
        short, long = (5, 150) if CUDA else (2, 2)
        self.burst = flops * short / seconds(lambda: products(short))
        self.sustained = flops * long / seconds(lambda: products(long))
        say(
            what="products alone",
            rows=tokens,
            burst_tflops=self.burst / 1e12,
            sustained_tflops=self.sustained / 1e12,
        )

    def in_8_bits(self, ways: Sequence[str]) -> None:
        """Say at what rate the same products run in the 8-bit formats of some ways, and what quantising rows takes."""
        flops, long = self.tokens * (self.first + self.rest), 150 if CUDA else 2
        for form in dict.fromkeys(filter(None, map(format_of, ways))):
            ops = FORMATS[form]
            rows = {k: torch.randn(self.tokens, k, device=DEVICE, dtype=DTYPE) for k, _ in self.shapes}
            inputs = {k: ops.quantise_rows(x, CUDA) for k, x in rows.items()}
            weights = [
                ops.quantise_rows(torch.randn(n, k, device=DEVICE, dtype=DTYPE), CUDA) for k, n in self.shapes
            ]

            def products(times: int, ops: Any = ops, inputs: Any = inputs, weights: Any = weights) -> None:
                for _ in range(times):
                    for (k, _n), weight in zip(self.shapes, weights, strict=True):
                        ops.product(*inputs[k], *weight, DTYPE, None, CUDA)

            def quantised(times: int, ops: Any = ops, rows: Any = rows) -> None:
                for _ in range(times):
                    for k, _n in self.shapes:
                        ops.quantise_rows(rows[k], CUDA)

            for work in (products, quantised):
                work(2)
            took, quantising = (
                seconds(lambda run=products: run(long)),
                seconds(lambda run=quantised: run(long)),
            )
            say(
                what=f"products alone, {form}", rows=self.tokens, sustained_tops=flops * long / took / 1e12,
                quantising_ms_a_layer=quantising / long * 1e3,
            )  # fmt: skip

    def shares(self, tokens: int, answers: int, took: float) -> dict[str, float]:
        """Of the time that was taken, what the products need.

        Args:
            tokens: of all trees.
            answers: tokens after which an answer's probability is asked.
        """
        whole = tokens * self.layers * (self.first + self.rest)
        # The last layer's output is needed of the answers' tokens alone.
        needed = whole - (tokens - answers) * self.rest
        return {
            "share of bound": whole / self.sustained / took,
            "of burst bound": whole / self.burst / took,
            "only needed flops": needed / self.sustained / took,
        }
