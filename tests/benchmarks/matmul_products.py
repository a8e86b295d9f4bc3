"""Which products of the forward pass cost an 8-bit format its fidelity, on a real model, emulated on a CPU.

    python -m tests.benchmarks.matmul_products BASE TEXTS --adapter FILE

BASE and TEXTS are as for `matmul_fidelity.py`. An adapter trains for some steps in 16 bits, or comes from FILE, which
is written if it is not there. Then its gradients are computed with some products in 8 bits, the backward pass being
exact, and compared with those that nothing rounds: by kind of projection, by depth, by side; at last in each way as it
is. Beside each line is the share of the forward products' operations that stays in 16 bits. All is in float32; with
--bf16 some ways are computed in bf16 as well, and compared with float32 too: how exact is what they are compared with?
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from taigi_lightning.fast_path.apply import causal_lm, compute_in
from taigi_lightning.fast_path.nf4_linear import ProjectionGroup
from taigi_lightning.kernels import int8
from tests.benchmarks.matmul_fidelity import Grads, blocks, compare, fit, gradients_of, held_out, make_model

KINDS = ("q, k, v", "o", "gate, up", "down")
Chosen = Callable[[float, str], bool]  # by depth, from 0 to 1, and kind
Forward = Callable[..., Tensor]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def train_or_load(model: Any, ids: Tensor, args: argparse.Namespace) -> None:
    """Bring the adapter under way: with B still zero A would have no gradients."""
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if args.adapter.exists():
        for name, values in torch.load(args.adapter).items():
            trained[name].data.copy_(values)
        return
    fit(model, ids, args, args.steps)
    torch.save({n: p.data for n, p in trained.items()}, args.adapter)


def points() -> dict[str, tuple[str, Chosen]]:
    """Name: the way and what is computed in it."""
    found: dict[str, tuple[str, Chosen]] = {"everything": ("int8", lambda depth, kind: True)}
    for one in KINDS:
        found[f"{one} alone"] = "int8", lambda depth, kind, one=one: kind == one  # type: ignore[misc]
        found[f"all but {one}"] = "int8", lambda depth, kind, one=one: kind != one  # type: ignore[misc]
    for low, name in ((0.0, "first"), (0.25, "second"), (0.5, "third"), (0.75, "last")):
        inside: Chosen = lambda depth, kind, low=low: low <= depth < low + 0.25  # type: ignore[misc]  # noqa: E731
        found[f"{name} quarter of the layers alone"] = "int8", inside
    found["all but the first quarter"] = "int8", lambda depth, kind: depth >= 0.25
    found["all but the first half"] = "int8", lambda depth, kind: depth >= 0.5
    found["all but the first quarter and down"] = "int8", lambda depth, kind: depth >= 0.25 and kind != "down"
    found["everything, mixed"] = "int8_mixed", lambda depth, kind: True
    found["all but the first quarter, mixed"] = "int8_mixed", lambda depth, kind: depth >= 0.25
    return found


def in_8_bits(groups: list[tuple[float, str, ProjectionGroup]], way: str, chosen: Chosen) -> float:
    """Compute some groups' forward products so, the others' in 16 bits; returns these' share of the operations."""
    kept = whole = 0
    for depth, kind, group in groups:
        operations = group.in_features * group.out_features
        whole += operations
        if not chosen(depth, kind):
            group.compute_in("bf16")
            kept += operations
            continue
        group.compute_in(way)  # type: ignore[arg-type]
        weights: Any = group.eight_bit
        weights.backward = partial(exact_backward, group)
    return kept / whole


def exact_backward(group: ProjectionGroup, grad: Tensor) -> Tensor:
    return grad @ group._unpacked(grad.dtype)[:, : group.in_features]


def turned_back(x: Tensor) -> Tensor:
    """What int8 makes of the rows of x (M, K), in float32."""
    rounded, scale = int8.quantise_rows(x)
    return int8.transformed(rounded.float() * scale) / int8.EIGHT


def one_side(group: ProjectionGroup, activations: bool, x: Tensor, beside: tuple[Tensor, Tensor]) -> Tensor:
    """The product with only its activations in 8 bits, or only its weights."""
    weight = group._unpacked(x.dtype)[:, : group.in_features]
    y = turned_back(x) @ weight.t() if activations else x @ turned_back(weight).t()
    return y.addmm_(beside[0], beside[1].t())


def report(name: str, kept: float, model: Any, ids: Tensor, wanted: tuple[float, Grads]) -> None:
    loss, found = gradients_of(model, ids)
    cosines = compare(found, wanted[1])
    line = {
        "name": name, "kept": round(kept, 3), "median": cosines["median"], "least": cosines["least"],
        "whole": cosines["whole"], "loss": round(loss - wanted[0], 4),
    }  # fmt: skip
    print("PRODUCTS", json.dumps(line), flush=True)


def in_bf16(args: argparse.Namespace, wanted: tuple[float, Grads]) -> None:
    """What bf16 itself makes of the gradients, which is what a card's are compared with."""
    model = make_model(args, torch.bfloat16)
    ids = blocks(args, "train")
    train_or_load(model, ids, args)
    for way in ("bf16", "int8_mixed", "int8"):
        compute_in(model, way)
        if way == "int8_mixed":
            gradients_of(model, ids[10 : 10 + args.rows])
        report(f"{way}, in bf16", float(way == "bf16"), model, ids[: args.rows], wanted)


def main() -> None:
    args = parse_arguments()
    torch.manual_seed(args.seed)
    model = make_model(args)
    ids = blocks(args, "train")
    train_or_load(model, ids, args)
    here, others = ids[: args.rows], ids[10 : 10 + args.rows]
    layers = causal_lm(model).fast_decoder.layers
    groups = [
        (layer.index / len(layers), kind, group)
        for layer in layers
        for kind, group in zip(KINDS, layer.groups(), strict=True)
    ]
    compute_in(model, "int8_mixed")
    gradients_of(model, others)  # directions are those of other rows
    compute_in(model, "bf16")
    wanted = gradients_of(model, here)
    for name, (way, chosen) in points().items():
        report(name, in_8_bits(groups, way, chosen), model, here, wanted)
    for activations in (True, False):
        in_8_bits(groups, "int8", lambda depth, kind: True)
        for *_, group in groups:
            weights: Any = group.eight_bit
            weights.forward = partial(one_side, group, activations)
        report("activations alone" if activations else "weights alone", 0.0, model, here, wanted)
    answer(model, here, blocks(args, "validation")[: 2 * args.rows], wanted)
    if args.bf16:
        in_bf16(args, wanted)


def answer(model: Any, here: Tensor, held: Tensor, wanted: tuple[float, Grads]) -> None:
    """The ways as they are, with their backward pass; and in how many next tokens they agree with 16 bits."""
    model.eval()
    compute_in(model, "bf16")
    _, likeliest = held_out(model, held)
    for way in ("int8_backward", "int8_mixed", "int8"):
        compute_in(model, way)
        model.train()
        report(f"{way}, as it is", float(way == "int8_backward"), model, here, wanted)
        model.eval()
        agree = (held_out(model, held)[1] == likeliest).float().mean()
        print("NEXT TOKENS", way, f"{float(agree):.4f} of {likeliest.numel():,}", flush=True)


if __name__ == "__main__":
    main()
