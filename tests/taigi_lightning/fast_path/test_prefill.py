"""Trees end to end through the written-out layers give what transformers gives for each sequence alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from taigi_lightning.fast_path.apply import apply_fast_path, causal_lm, compute_in, fast_decoder
from taigi_lightning.fast_path.prefill import last_hidden, unpack_what_fits
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.tasks.prefix_tree import pack_trees, token_tree
from tests.taigi_lightning.fast_path.small_decoders import with_lora
from tests.taigi_lightning.fast_path.small_families import BASES, family_base, lora_targets

# Two sequences that part, one alone, and a tree that branches twice and whose root branches.
GROUPS = [
    [[5, 6, 7, 8], [5, 6, 9]],
    [[11, 12, 13, 14, 15, 16]],
    [[20, 21, 22, 23], [20, 21, 22, 24, 25], [20, 26], [30, 31]],
]


@pytest.fixture(params=BASES)
def model(request: pytest.FixtureRequest) -> Any:
    """Windows of three tokens, where a family has windows: shorter than the sequences."""
    return with_lora(family_base(request.param), targets=lora_targets(request.param)).eval()


def alone(model: Any, sequence: list[int]) -> torch.Tensor:
    states = causal_lm(model).get_decoder()(torch.tensor([sequence])).last_hidden_state
    return states[0].detach()  # [T, H], after the final norm


@pytest.mark.parametrize("groups", [GROUPS, GROUPS[1:2] * 2], ids=["branching", "plain"])
def test_every_token_has_the_hidden_state_it_would_have_alone(
    model: Any, groups: list[list[list[int]]]
) -> None:
    wanted = [alone(model, sequence) for group in groups for sequence in group]
    apply_fast_path(model, activation_budget=1.0)
    decoder = fast_decoder(model)
    assert decoder is not None
    trees = [token_tree(group) for group in groups]
    packed = pack_trees(trees)
    places = [
        [packed.offsets[row] + node for node in path] for row, tree in enumerate(trees) for path in tree.paths
    ]
    for place, states in zip(places, wanted, strict=True):
        found = last_hidden(decoder, packed, torch.tensor(place))
        torch.testing.assert_close(found, states, rtol=0, atol=2e-5)


def test_only_a_gpu_holds_weights_unpacked_for_it(model: Any) -> None:
    assert unpack_what_fits(model, tokens=100) == 0
    apply_fast_path(model, activation_budget=1.0)
    assert unpack_what_fits(model, tokens=100) == 0


@pytest.mark.parametrize("form", ["int8", "fp8"])
@pytest.mark.parametrize(
    "family", ["Phi 3", "Qwen 2", "Gemma 3"]
)  # joined weights; biases; norms after products
def test_answering_rounds_to_8_bits_as_training_does(tmp_path: Path, family: str, form: Any) -> None:
    """With weights on the host, whatever part of the products their widths leave in 16 bits."""
    family_base(family).save_pretrained(tmp_path)
    cpu = torch.device("cpu")
    base = load_base_model(str(tmp_path), quantization="nf4", compute_dtype=torch.float32, device=cpu)
    model = apply_fast_path(with_lora(base, targets=lora_targets(family)).eval(), weights_on_host="all")
    compute_in(model, form)
    decoder = fast_decoder(model)
    assert decoder is not None and any(group.forward_in_8_bits for group in decoder.layers[0].groups())
    sequence = [5, 6, 7, 8, 9]
    wanted = decoder.hidden(torch.tensor([sequence]), torch.arange(5)[None])[0].detach()
    for places in (torch.arange(5), torch.tensor([4])):
        found = last_hidden(decoder, pack_trees([token_tree([sequence])]), places)
        torch.testing.assert_close(found, wanted[places], rtol=1e-3, atol=1e-4)
