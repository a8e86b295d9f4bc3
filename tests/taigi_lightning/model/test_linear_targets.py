"""LoRA's default targets are an architecture's own linear projections; what has none is known."""

import pytest

from taigi_lightning.kernels import host_memory
from taigi_lightning.model.linear_targets import default_targets, without_lora
from tests.taigi_lightning.architectures.small_bases import small_model
from tests.taigi_lightning.architectures.small_configs import small_config

ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.mark.parametrize(
    ("name", "targets", "rest"),
    [
        ("llama", sorted([*ATTENTION, "gate_proj", "up_proj", "down_proj"]), []),
        ("phi3", ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"], []),
        ("gpt2", ["c_attn", "c_fc", "c_proj"], []),
        ("mamba", ["in_proj", "x_proj"], ["A_log", "dt_proj", "out_proj"]),
        ("qwen3_moe", ATTENTION, ["mlp.gate", *EXPERTS]),
        ("bart", ["fc1", "fc2"], ["encoder_attn.q_proj"]),
    ],
)
def test_targets_are_asked_of_the_model(name: str, targets: list[str], rest: list[str]) -> None:
    model = small_model(small_config(name))
    found = default_targets(model)
    short = {target for target in found if "." not in target}
    assert short == set(targets)
    adapted = [n for n, _ in model.named_modules() if n in found or n.rpartition(".")[2] in short]
    listed = without_lora(model, adapted)
    assert all(any(name.endswith(wanted) for name in listed) for wanted in rest)
    if name == "bart":  # its names are those of a layer that text never reaches, so they are given in full
        assert "model.decoder.layers.0.self_attn.q_proj" in found
        assert not any("encoder_attn" in target for target in found)


def test_a_base_that_waits_on_the_host_is_asked_with_its_weights_at_hand() -> None:
    model = small_model(small_config("llama"))
    held = model.model.layers[0].mlp.down_proj
    host_memory.hold_in_place(held)
    before, during = held.weight.data_ptr(), []
    held.register_forward_hook(lambda *_: during.append(held.weight.data_ptr()))
    assert "down_proj" in default_targets(model)
    assert during[0] != before == held.weight.data_ptr()
