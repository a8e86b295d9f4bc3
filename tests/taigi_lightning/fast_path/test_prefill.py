"""Trees end to end through the written-out layers give what transformers gives for each sequence alone."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from taigi_lightning.fast_path.apply import apply_fast_path, fast_decoder
from taigi_lightning.fast_path.prefill import last_hidden, unpack_what_fits
from taigi_lightning.tasks.prefix_tree import pack_trees, token_tree

SHAPE = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2,
}  # fmt: skip
# Two sequences that part, one alone, and a tree that branches twice and whose root branches.
GROUPS = [
    [[5, 6, 7, 8], [5, 6, 9]],
    [[11, 12, 13, 14, 15, 16]],
    [[20, 21, 22, 23], [20, 21, 22, 24, 25], [20, 26], [30, 31]],
]


def adapted(base: Any) -> Any:
    base.requires_grad_(False)
    targets = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    return model.eval()


@pytest.fixture(params=["llama", "qwen2"])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(9527)
    if request.param == "llama":  # fewer k and v heads than q heads
        return adapted(LlamaForCausalLM(LlamaConfig(**SHAPE)))
    base = Qwen2ForCausalLM(Qwen2Config(**SHAPE))
    for name, bias in base.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(bias)
    return adapted(base)


def alone(model: Any, sequence: list[int]) -> torch.Tensor:
    output = model(torch.tensor([sequence]), output_hidden_states=True)
    return output.hidden_states[-1][0].detach()  # [T, H], after the final norm


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
        torch.testing.assert_close(found, states, rtol=0, atol=1e-5)


def test_only_a_gpu_holds_weights_unpacked_for_it(model: Any) -> None:
    assert unpack_what_fits(model, tokens=100) == 0
    apply_fast_path(model, activation_budget=1.0)
    assert unpack_what_fits(model, tokens=100) == 0
