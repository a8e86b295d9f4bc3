"""On one CUDA GPU: are the kernels and the attention right there, and how fast is each?

python tests/benchmarks/family_check.py kernels attention

kernels: Triton's against plain torch at Gemma-3-12B's and Qwen3-8B's sizes, bfloat16; milliseconds, and bytes read and
    written a second.
attention: every kernel that can compute a layer's attention against float32, rows and packed, with a window or none;
    milliseconds forward and backward, and of a first call with a new length.
"""

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from triton.testing import do_bench

from taigi_lightning.fast_path import attention
from taigi_lightning.fast_path.attention import Scores, find_documents
from taigi_lightning.kernels import elementwise, elementwise_triton
from taigi_lightning.kernels.elementwise import Dropout, HeadNorms, Norm

M, DROPOUT = 8192, Dropout(0.05, 11)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


# ---- kernels ----------------------------------------------------------------------------------------


def norm_cases(hidden: int, one_plus: bool) -> Iterator[tuple[str, int, Callable[[Any], Any]]]:
    """(name, tensors (M, H) read and written, what to call)."""
    norm, post = Norm(normal(hidden), 1e-6, one_plus), Norm(normal(hidden), 1e-6, one_plus)
    x, delta, grad, residual = (normal(M, hidden) for _ in range(4))
    lora = normal(M, 64), normal(64, hidden) / 8
    out = torch.empty_like(x)
    yield "rms_norm", 3, lambda o: o.rms_norm(x, norm, out, DROPOUT)
    yield "add_rms_norm", 5, lambda o: o.add_rms_norm(x, delta.clone(), norm, out, DROPOUT)[1]
    yield "add_rms_norm post", 5, lambda o: o.add_rms_norm(x, delta, norm, out, DROPOUT, post)
    yield "norm_gradient", 3, lambda o: o.norm_gradient(grad, x, norm)
    yield (
        "rms_norm_backward",
        6,
        lambda o: o.rms_norm_backward(grad, lora, x, norm, residual.clone(), DROPOUT),
    )
    yield (
        "add_rms_norm_backward",
        8,
        lambda o: o.add_rms_norm_backward(
            grad, lora, x, delta.clone(), post, norm, residual.clone(), DROPOUT
        ),
    )


def head_cases(
    heads: int, kv_heads: int, size: int, one_plus: bool
) -> Iterator[tuple[str, int, Callable[[Any], Any]]]:
    qkv, out = normal(M, heads + 2 * kv_heads, size), normal(M, heads + 2 * kv_heads, size)
    before, turned = qkv[:, : heads + kv_heads], normal(M, heads + kv_heads, size)
    norms = HeadNorms(Norm(normal(size), 1e-6, one_plus), Norm(normal(size), 1e-6, one_plus), False)
    cos, sin = normal(M, size // 2).repeat(1, 2), normal(M, size // 2).repeat(1, 2)
    q, k, v = normal(M, heads, size), normal(M, kv_heads, size), normal(M, kv_heads, size)

    def forward(o: Any) -> Tensor:
        o.norm_rotate(before, heads, norms, cos, sin, turned)
        return turned.clone()

    def backward(o: Any) -> Tensor:
        o.norm_rotate_back(q, k, v, before, norms, cos, sin, out)
        return out.clone()

    yield "norm_rotate", 2 * (heads + kv_heads) * size, forward
    yield "norm_rotate_back", (3 * (heads + kv_heads) + 2 * kv_heads) * size, backward


def glu_cases(wide: int, activation: Any) -> Iterator[tuple[str, int, Callable[[Any], Any]]]:
    gate_up, grad, out = normal(M, 2 * wide), normal(M, wide), normal(M, wide + 64)
    lora = normal(M, 64), normal(64, wide) / 8
    product, hidden = out[:, :wide], out[:, wide:]

    def projected(o: Any) -> tuple[Tensor, Tensor]:
        o.glu_project(gate_up, product, hidden, lora[1], DROPOUT, activation)
        return product.clone(), hidden.clone()

    yield "glu", 4, lambda o: o.glu(gate_up, product, DROPOUT, activation)
    yield "glu_project", 3, projected
    yield (
        "glu_backward",
        7,
        lambda o: o.glu_backward(grad, lora, gate_up.clone(), DROPOUT, activation),
    )


def kernels() -> None:
    for hidden, wide, heads, one_plus, activation in (
        (3840, 15360, (16, 8, 256), True, "gelu_tanh"),
        (4096, 12288, (32, 8, 128), False, "silu"),
    ):
        norms, of_heads = norm_cases(hidden, one_plus), head_cases(*heads, one_plus)
        for width, cases in ((hidden, norms), (1, of_heads), (wide, glu_cases(wide, activation))):
            for name, passes, call in cases:
                found, wanted = call(elementwise_triton), call(elementwise)
                pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
                errors = [f"{error(*pair):.1e}" for pair in pairs]
                spent = time_kernels(lambda call=call: call(elementwise_triton))
                rate = passes * width * M * 2 / spent / 1e9
                print(
                    f"KERNEL {activation} {name}: errors {errors}, {spent:.3f} ms, {rate:.2f} TB/s",
                    flush=True,
                )


def time_kernels(call: Callable[[], Any]) -> float:
    """Milliseconds of the Triton kernels of one call: clones and copies around them are left out."""
    from torch.profiler import ProfilerActivity, profile

    for _ in range(3):
        call()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        for _ in range(10):
            call()
        torch.cuda.synchronize()
    times = [
        e.self_device_time_total
        for e in recorded.key_averages()
        if "_kernel" in e.key and "at::" not in e.key
    ]
    return sum(times) / 10 / 1e3


# ---- attention --------------------------------------------------------------------------------------


def positions(rows: int, length: int, packed: bool) -> Tensor:
    if not packed:
        return torch.arange(length).repeat(rows, 1)
    cuts = torch.randint(100, 1500, (64,), generator=torch.Generator().manual_seed(1)).tolist()
    found = torch.cat([torch.arange(cut) for cut in cuts])[: rows * length]
    return found.view(rows, length)


def check_attention(heads: int, kv_heads: int, size: int, window: int | None, packed: bool) -> None:
    rows, length = 4, 2048
    documents = find_documents(positions(rows, length, packed)).to(torch.device("cuda"))
    qkv = normal(rows, length, heads + 2 * kv_heads, size)
    q, k, v = torch.split(qkv, [heads, kv_heads, kv_heads], 2)
    grad, scores = normal(rows, length, heads, size), Scores(size**-0.5, window)
    out, extra = attention.attend(q, k, v, documents, scores)
    found = attention.attend_backward(grad, q, k, v, out, extra, documents, scores)
    part = slice(0, 1)
    one = find_documents(positions(rows, length, packed)[part]).to(torch.device("cuda"))
    leaves = [t[part].float().requires_grad_() for t in (q, k, v)]
    exact = attention._masked(leaves[0], leaves[1], leaves[2], one, scores)
    gradients = torch.autograd.grad(exact, leaves, grad[part].float())
    whole = one.starts.numel() == int(
        (documents.starts <= length).sum()
    )  # the first row ends with a document
    errors = [error(out[part], exact)] + [error(f[part], g) for f, g in zip(found, gradients, strict=True)]
    forward = do_bench(lambda: attention.attend(q, k, v, documents, scores), return_mode="median")
    both = do_bench(
        lambda: attention.attend_backward(grad, q, k, v, out, extra, documents, scores), return_mode="median"
    )
    name = f"{heads}/{kv_heads} x {size}, window {window}, {'packed' if packed else 'rows'}"
    shown = [f"{e:.1e}" for e in errors] if whole or not packed else [f"{errors[0]:.1e}"]
    print(f"ATTENTION {name}: errors {shown}, forward {forward:.3f}, backward {both:.3f} ms", flush=True)


def cudnn(heads: int, kv_heads: int, size: int) -> None:
    """Can cuDNN's attention do this, as fast as flash attention, and what does a new length cost?"""
    for length in (2048, 384, 391):
        qkv = normal(4, length, heads + 2 * kv_heads, size)
        q, k, v = (t.transpose(1, 2) for t in torch.split(qkv, [heads, kv_heads, kv_heads], 2))
        grad = normal(4, length, heads, size).transpose(1, 2)
        options: dict[str, Any] = {"scale": size**-0.5}

        def forward(q: Tensor = q, k: Tensor = k, v: Tensor = v, options: Any = options) -> Any:
            return torch.ops.aten._scaled_dot_product_cudnn_attention(
                q, k, v, None, True, 0.0, True, False, **options
            )

        def backward(
            saved: Any, q: Any = q, k: Any = k, v: Any = v, grad: Any = grad, options: Any = options
        ) -> Any:
            out, lse, *_, seed, offset, _ = saved
            return torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
                grad,
                q,
                k,
                v,
                out,
                lse,
                seed,
                offset,
                None,
                None,
                None,
                q.shape[2],
                k.shape[2],
                0.0,
                True,
                **options,
            )

        try:
            torch.cuda.synchronize()
            started = time.perf_counter()
            saved = forward()
            torch.cuda.synchronize()
            middle = time.perf_counter()
            found = backward(saved)
            torch.cuda.synchronize()
            ended = time.perf_counter()
        except RuntimeError as failure:
            print(f"CUDNN {heads}/{kv_heads} x {size}, {length}: {str(failure)[:150]!r}", flush=True)
            continue
        leaves = [t[:1].float().requires_grad_() for t in (q, k, v)]
        exact = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True, enable_gqa=True)
        wanted = torch.autograd.grad(exact, leaves, grad[:1].float())
        errors = [error(saved[0][:1], exact)] + [error(f[:1], g) for f, g in zip(found, wanted, strict=True)]
        times = [do_bench(call, return_mode="median") for call in (forward, lambda s=saved: backward(s))]
        print(
            f"CUDNN {heads}/{kv_heads} x {size}, {length}: errors {[f'{e:.1e}' for e in errors]}, forward "
            f"{times[0]:.3f}, backward {times[1]:.3f} ms; first {middle - started:.3f} and {ended - middle:.3f} s",
            flush=True,
        )


def attentions() -> None:
    for shape in ((40, 40, 128), (32, 8, 128), (16, 8, 256), (4, 1, 256)):
        for window in (None, 512):
            for packed in (False, True):
                check_attention(*shape, window, packed)
        cudnn(*shape)


if __name__ == "__main__":
    parts: dict[str, Callable[[], None]] = {
        "kernels": kernels,
        "attention": attentions,
    }
    for chosen in sys.argv[1:] or parts:
        parts[chosen]()
