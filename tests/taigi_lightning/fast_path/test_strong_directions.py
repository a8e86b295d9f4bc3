"""What lies along an input's strongest directions is multiplied in 16 bits, the rest in int8: emulated on a CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, compute_in
from taigi_lightning.fast_path.strong_directions import FEWEST, StrongDirections, strongest
from taigi_lightning.kernels.matmul import STRONG
from taigi_lightning.planning.memory import Shape
from taigi_lightning.planning.strong_part import strong_part
from tests.taigi_lightning.fast_path.small_decoders import SIZES as SMALL
from tests.taigi_lightning.fast_path.small_decoders import llama, loss_of, nf4_llama, with_lora

SIZES = {**SMALL, "hidden_size": 128, "num_key_value_heads": 4, "intermediate_size": 192}
TOKENS = torch.randint(3, 97, (2, FEWEST // 2), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.arange(FEWEST // 2).expand(2, -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    llama(**SIZES).save_pretrained(folder)
    return folder


def group_of(folder: Path) -> Any:
    return causal_lm(apply_fast_path(with_lora(nf4_llama(folder)))).fast_decoder.layers[0].qkv


def like_a_models(rows: int, columns: int) -> Tensor:
    """Rows that share some directions, as real activations do, and one value that is larger by far."""
    shared = torch.randn(rows, 20) @ torch.randn(20, columns) + 5 * torch.randn(columns)
    x = shared + 0.3 * torch.randn(rows, columns)
    x[3, 7] = 300.0
    return x


def gradients(model: Any) -> Tensor:
    trained = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss_of(model, TOKENS, POSITIONS), trained)
    return torch.cat([gradient.flatten() for gradient in found])


def test_the_strongest_directions_hold_most_of_the_squares() -> None:
    torch.manual_seed(0)
    x = like_a_models(300, 160)
    found = strongest(x, 32)
    torch.testing.assert_close(found @ found.t(), torch.eye(32), rtol=0, atol=1e-5)
    most = torch.linalg.svdvals(x).square()[:32].sum()
    assert 0.99 * most < (x @ found.t()).square().sum() <= most * 1.00001
    assert torch.equal(found, strongest(x, 32))


@pytest.mark.parametrize("beside", [False, True])
def test_a_product_is_split_and_nothing_is_lost(folder: Path, beside: bool) -> None:
    torch.manual_seed(0)
    group, x = group_of(folder), like_a_models(FEWEST, 128)
    weight = group._unpacked(torch.float32)[:, :128]
    more = (torch.randn(FEWEST, 8), torch.randn(len(weight), 8)) if beside else None
    strong = StrongDirections(group.members, False)
    packed = [m.base.weight.data_ptr() for m in group.members]
    rest, sides = strong.split(x, more)
    assert sides is not None
    wanted = x @ weight.t() + (more[0] @ more[1].t() if more else 0.0)
    torch.testing.assert_close(rest @ weight.t() + sides[0] @ sides[1].t(), wanted, rtol=1e-4, atol=1e-3)
    assert rest.norm() < 0.1 * x.norm() and rest.abs().max() < 100
    assert [m.base.weight.data_ptr() for m in group.members] == packed
    # Few rows are split along what was found in many.
    few, again = strong.split(x[:2], None)
    torch.testing.assert_close(few, rest[:2])
    assert again is not None and again[1] is strong.split(x, None)[1][1]  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:(Merge|Unmerge) lora module to 4-bit")
def test_what_directions_make_of_weights_is_of_those_that_merging_made(folder: Path) -> None:
    model = apply_fast_path(with_lora(nf4_llama(folder)))
    group, x = causal_lm(model).fast_decoder.layers[0].qkv, torch.randn(FEWEST, 128)
    strong = StrongDirections(group.members, False)
    strong.split(x, None)
    before = group._unpacked(torch.float32)[:, :128].clone()
    model.merge_adapter()
    model.unmerge_adapter()
    weight = group._unpacked(torch.float32)[:, :128]
    assert (weight - before).norm() > 0.01 * before.norm()
    rest, sides = strong.split(x, None)
    assert sides is not None
    torch.testing.assert_close(
        rest @ weight.t() + sides[0] @ sides[1].t(), x @ weight.t(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("spoilt", [False, True])
def test_nothing_is_found_in_few_rows_or_in_what_is_not_finite(folder: Path, spoilt: bool) -> None:
    group, x = group_of(folder), torch.randn(FEWEST, 128)
    strong = StrongDirections(group.members, False)
    first = x.clone()
    first[5, 5] = float("inf")
    rest, sides = strong.split(first if spoilt else x[1:], None)
    assert sides is None and rest.shape[1] == 128
    assert strong.split(x, None)[1] is not None


def test_gradients_are_nearer_to_those_in_16_bits(folder: Path) -> None:
    model = apply_fast_path(with_lora(nf4_llama(folder)))
    decoder = causal_lm(model).fast_decoder
    wanted, away = gradients(model), {}
    coming = strong_part("int8_mixed", Shape.from_config(SIZES), 4).bytes
    for matmul in ("int8_backward", "int8", "int8_mixed"):
        compute_in(model, matmul)
        missing = sum(g.missing_bytes(4) for layer in decoder.layers for g in layer.groups())
        assert missing == (coming if matmul == "int8_mixed" else 0)
        away[matmul] = float((gradients(model) - wanted).norm() / wanted.norm())
    assert 0.001 < away["int8_mixed"] < 0.7 * away["int8"], away
    groups = decoder.layers[0].groups()
    held = [t for g in groups for t in g.strong._found]
    assert 2 * sum(t.nbytes for t in held) == coming and {t.shape[1] for t in held} > {STRONG}
    assert not any(g.missing_bytes(4) for g in groups)
    # What was found stays through other kinds of products, and through weights that are held.
    found = gradients(model)
    for matmul in ("bf16", "int8_mixed"):
        compute_in(model, matmul)  # type: ignore[arg-type]
    assert groups[0].strong._found[0] is held[0]
    decoder.keep_unpacked(1)
    torch.testing.assert_close(gradients(model), found)


def test_directions_are_found_where_dequantised_weights_sent_the_packed_away(folder: Path) -> None:
    model = apply_fast_path(with_lora(nf4_llama(folder)))
    compute_in(model, "int8_mixed")
    wanted = gradients(model)
    again = apply_fast_path(with_lora(nf4_llama(folder)))
    compute_in(again, "int8_mixed")
    causal_lm(again).fast_decoder.keep_unpacked(2)
    torch.testing.assert_close(gradients(again), wanted)
