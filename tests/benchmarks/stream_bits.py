"""Whether weights that wait on the host change a gradient's bits, and what else does, on one CUDA GPU.

python tests/benchmarks/stream_bits.py

Gradients of one batch of the 13B's shape, several times each: weights on the card, on the card while other copies cross
the link, and on the host. Once as PyTorch is set up, once told to be deterministic (`trainer.deterministic`). Then the
backward pass of attention alone, its inputs never touched, with and without such copies. If resident weights differ
from themselves beside copies that they do not need, and streamed ones do not where sums have one order, the order of
sums is what differs, not the weights.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as Lightning sets it with deterministic

import torch
from random_base import TAIGI_13B, llama_config, random_base
from stream_base import CUDA, DEVICE, NARROW
from stream_points import sync, with_adapter
from torch import Tensor

from taigi_lightning.fast_path.apply import apply_fast_path, forward_hidden
from taigi_lightning.fast_path.attention import Scores, attend, attend_backward, find_documents
from taigi_lightning.fast_path.cross_entropy import linear_cross_entropy_sum
from taigi_lightning.fast_path.output_head import output_head
from taigi_lightning.kernels.host_memory import host_tensor


def say(**found: Any) -> None:
    print("RESULT " + json.dumps(found), flush=True)


@contextmanager
def traffic(copies: int) -> Iterator[None]:
    """Copies over the link that nothing reads, on a stream of their own, while something else is computed."""
    if not CUDA:
        yield
        return
    host = host_tensor((2**26,), torch.uint8)
    there, stream = torch.empty(2**26, dtype=torch.uint8, device=DEVICE), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(copies):
            there.copy_(host, non_blocking=True)
    yield
    stream.synchronize()


def gradients(model: Any, seq: int) -> list[Tensor]:
    """The hidden states and every gradient of one batch, dropout and all."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(3, model.config.vocab_size, (2, seq), generator=generator).to(DEVICE)
    positions = torch.arange(seq, device=DEVICE).repeat(2, 1)
    model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    hidden = forward_hidden(model, tokens, positions)
    linear_cross_entropy_sum(hidden, output_head(model), tokens).backward()
    sync()
    return [hidden.detach().cpu(), *(p.grad.cpu() for p in model.parameters() if p.grad is not None)]


def compare(model: Any, seq: int, fixed: bool, passes: int) -> None:
    """Say how many gradients are the bits of the first pass."""
    first: list[Tensor] = []
    for host, beside in (("none", 0), ("none", 400), ("all", 0), ("all", 400)):
        apply_fast_path(model, compile=CUDA, activation_budget=0.0, weights_on_host=host)
        for _ in range(passes):
            with traffic(beside) if beside else nullcontext():
                found = gradients(model, seq)
            first = first or found
            same = [torch.equal(x, y) for x, y in zip(found, first, strict=True)]
            apart = max(
                float((x - y).norm() / y.norm().clamp(min=1e-30)) for x, y in zip(found, first, strict=True)
            )
            say(deterministic=fixed, host=host, copies_beside=beside, hidden_same=same[0],
                gradients_same=sum(same[1:]), of=len(same) - 1, apart=apart)  # fmt: skip


def attention_alone(seq: int, heads: int, size: int, times: int, fixed: bool) -> None:
    """How many different results one backward pass of attention has."""
    torch.manual_seed(3)
    q, k, v, grad = (torch.randn(2, seq, heads, size, device=DEVICE).bfloat16() for _ in range(4))
    documents = find_documents(torch.arange(seq, device=DEVICE).repeat(2, 1))
    scores = Scores(size**-0.5)
    out, extra = attend(q, k, v, documents, scores)

    def again() -> tuple[Tensor, ...]:
        return attend_backward(grad, q, k, v, out, extra, documents, scores)

    def different(run: Callable[[], tuple[Tensor, ...]]) -> list[int]:
        results = [[t.clone() for t in run()] for _ in range(times)]
        sync()
        return [sum(not torch.equal(one[n], results[0][n]) for one in results) for n in range(3)]

    for beside in (0, 400):
        with traffic(beside):
            found = different(again)
        say(attention=True, deterministic=fixed, copies_beside=beside, times=times,
            differ=dict(zip(("q", "k", "v"), found, strict=True)))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="narrow layers: a rehearsal without a GPU")
    args = parser.parse_args()
    shape = replace(TAIGI_13B, **NARROW, layers=6) if args.tiny else TAIGI_13B
    base = random_base(llama_config(shape), DEVICE)
    model = with_adapter(base if CUDA else base.float(), 64)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    for fixed in (True, False):
        torch.use_deterministic_algorithms(fixed)
        for seq in (args.seq, 4 * args.seq):
            attention_alone(seq, shape.heads, shape.head_size, 20, fixed)
        compare(model, args.seq, fixed, args.passes)
    torch.use_deterministic_algorithms(False)


if __name__ == "__main__":
    main()
