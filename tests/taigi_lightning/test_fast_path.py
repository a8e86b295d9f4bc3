"""The fast path computes what PEFT over transformers computes, whatever it saves, moves or recomputes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    BitsAndBytesConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from taigi_lightning import elementwise
from taigi_lightning.activation_plan import (
    EVERYTHING,
    INPUT_ONLY,
    RESIDUAL,
    layer_bytes,
    small_bytes,
    unpacked_bytes,
)
from taigi_lightning.fast_path import apply_fast_path, causal_lm, forward_hidden, unsupported
from taigi_lightning.loss import linear_cross_entropy_sum
from taigi_lightning.memory import PROJECTIONS

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
TOKENS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(0))
PACKED = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1]])


def with_lora(base: Any, dropout: float = 0.0, targets: list[str] = PROJECTIONS, r: int = 4) -> Any:
    torch.manual_seed(1)
    lora = LoraConfig(
        r=r, lora_alpha=2 * r, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, lora).train()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).requires_grad_(False)


@pytest.fixture(scope="module")
def nf4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    llama().save_pretrained(folder)
    return folder


def nf4_llama(folder: Path, architecture: Any = LlamaForCausalLM) -> Any:
    options = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = architecture.from_pretrained(folder, quantization_config=options, dtype=torch.float32)
    return model.requires_grad_(False)


def loss_of(model: Any, tokens: Tensor = TOKENS, positions: Tensor = PACKED) -> Tensor:
    hidden = forward_hidden(model, tokens, positions)
    return linear_cross_entropy_sum(hidden, model.get_output_embeddings().weight, tokens)


def gradients(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def worst(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert found.keys() == wanted.keys()
    return max(float((found[n] - wanted[n]).norm() / wanted[n].norm()) for n in wanted)


@pytest.mark.parametrize("saving", [EVERYTHING, INPUT_ONLY, RESIDUAL])
def test_gradients_equal_pefts_over_a_4_bit_base(nf4_folder: Path, saving: Any) -> None:
    model = with_lora(nf4_llama(nf4_folder))
    wanted = gradients(model)
    apply_fast_path(model)
    causal_lm(model).fast_decoder.plans[(2, 12)] = [saving] * 2
    assert len(wanted) == 28
    assert worst(gradients(model), wanted) < 1e-5


@pytest.mark.parametrize(
    "r, targets", [(3, PROJECTIONS), (8, ["q_proj", "v_proj", "down_proj"]), (4, ["o_proj"])]
)
def test_odd_ranks_and_unadapted_projections_work_too(r: int, targets: list[str]) -> None:
    model = with_lora(llama(), targets=targets, r=r)
    wanted = gradients(model)
    assert unsupported(model) is None
    assert worst(gradients(apply_fast_path(model)), wanted) < 1e-5


def test_qwen_with_its_biases_is_llama_shaped() -> None:
    torch.manual_seed(0)
    base = Qwen2ForCausalLM(Qwen2Config(**SIZES)).requires_grad_(False)
    for name, parameter in base.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    model = with_lora(base)
    wanted = gradients(model)
    apply_fast_path(model)
    assert hasattr(causal_lm(model), "fast_decoder")
    assert worst(gradients(model), wanted) < 1e-5


def test_other_architectures_keep_transformers_own_pass() -> None:
    torch.manual_seed(0)
    model = with_lora(GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=16)).requires_grad_(False))
    wanted = gradients(model)
    apply_fast_path(model, activation_budget=0.0)
    assert "GemmaForCausalLM" in causal_lm(model).slow_path_reason
    assert worst(gradients(model), wanted) < 1e-5


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_their_4_bit_projections_take_the_joined_product(tmp_path: Path, dropout: float) -> None:
    torch.manual_seed(0)
    GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=16)).save_pretrained(tmp_path)
    model = with_lora(nf4_llama(tmp_path, GemmaForCausalLM), dropout=dropout)
    wanted = gradients(model)
    apply_fast_path(model, activation_budget=0.0)
    torch.manual_seed(7)
    recomputed = gradients(model)
    causal_lm(model).gradient_checkpointing_disable()
    torch.manual_seed(7)
    assert worst(recomputed, gradients(model)) < 1e-6
    assert (worst(recomputed, wanted) < 1e-5) == (dropout == 0.0)


@pytest.mark.parametrize("fast", [True, False])
def test_a_packed_documents_loss_is_its_loss_alone(fast: bool) -> None:
    model = with_lora(llama())
    if fast:
        apply_fast_path(model)
    together = TOKENS[:1].clone()
    labels = together.clone()
    labels[0, [0, 5]] = -100  # a document's first token is predicted from nothing
    weight = model.get_output_embeddings().weight
    packed = linear_cross_entropy_sum(forward_hidden(model, together, PACKED[:1]), weight, labels)
    alone = sum(
        loss_of(model, together[:, part], torch.arange(part.stop - part.start)[None])
        for part in (slice(0, 5), slice(5, 12))
    )
    torch.testing.assert_close(packed, alone, rtol=1e-6, atol=1e-5)


def test_recomputing_drops_what_the_forward_pass_dropped() -> None:
    model = apply_fast_path(with_lora(llama(), dropout=0.3))
    found = []
    for saving in (EVERYTHING, INPUT_ONLY):
        causal_lm(model).fast_decoder.plans[(2, 12)] = [saving] * 2
        torch.manual_seed(7)
        found.append(gradients(model))
    assert worst(found[1], found[0]) < 1e-6


def add_rms_norm_in_place(x: Tensor, delta: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    delta.add_(x)
    return delta, elementwise.rms_norm(delta, *rest)


def rms_norm_backward_in_place(
    grad: Tensor, lora_grad: Tensor | None, x: Tensor, weight: Tensor, eps: float, residual: Any, dropout: Any
) -> tuple[Tensor, Tensor]:
    dx, dropped = elementwise.rms_norm_backward(grad, lora_grad, x, weight, eps, residual, dropout)
    return (
        dx if residual is None else residual.copy_(dx),
        dropped if lora_grad is None else lora_grad.copy_(dropped),
    )


@pytest.mark.parametrize("saving", [EVERYTHING, INPUT_ONLY, RESIDUAL])
def test_operations_may_take_the_memory_they_are_offered(saving: Any) -> None:
    model = with_lora(llama(num_hidden_layers=3))
    wanted = gradients(model)
    decoder = causal_lm(apply_fast_path(model)).fast_decoder
    decoder.plans[(2, 12)] = [saving] * 3
    decoder.ops = SimpleNamespace(
        **{
            **vars(elementwise),
            "add_rms_norm": add_rms_norm_in_place,
            "rms_norm_backward": rms_norm_backward_in_place,
        }
    )
    assert worst(gradients(model), wanted) < 1e-5


def test_dropout_is_drawn_anew_each_time_and_stops_in_eval() -> None:
    model = apply_fast_path(with_lora(llama(), dropout=0.2))
    with torch.no_grad():
        first, second = (forward_hidden(model, TOKENS, PACKED) for _ in range(2))
        clean, again = (forward_hidden(model.eval(), TOKENS, PACKED) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(clean, again)


def test_bfloat16_is_as_near_to_float32_as_pefts_own_pass() -> None:
    exact = gradients(with_lora(llama()))
    errors = []
    for fast in (False, True):
        model = with_lora(llama().to(torch.bfloat16))
        if fast:
            apply_fast_path(model)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            errors.append(worst(gradients(model), exact))
    assert errors[1] < 1.3 * errors[0]


def test_names_saved_adapter_and_generation_are_pefts(tmp_path: Path) -> None:
    model = with_lora(llama())
    names = list(model.state_dict())
    prompt = {"input_ids": TOKENS[:, :5], "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    wanted = model.eval().generate(**prompt, max_new_tokens=4, do_sample=False)
    apply_fast_path(model)
    gradients(model.train())
    assert list(model.state_dict()) == names
    assert torch.equal(model.eval().generate(**prompt, max_new_tokens=4, do_sample=False), wanted)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()


def test_switched_off_adapters_are_left_out() -> None:
    model = apply_fast_path(with_lora(llama())).eval()
    with torch.no_grad():
        with model.disable_adapter():
            off = forward_hidden(model, TOKENS, PACKED)
        torch.testing.assert_close(off, forward_hidden(llama(), TOKENS, PACKED))
        assert not torch.allclose(off, forward_hidden(model, TOKENS, PACKED))


def test_an_embedding_on_the_host_reads_the_same_rows() -> None:
    model = with_lora(llama())
    names = list(model.state_dict())
    wanted = gradients(model)
    apply_fast_path(model, embedding_on_host=True)
    embedding = causal_lm(model).get_input_embeddings()
    with torch.no_grad():
        loss_of(model)
    # Whoever sets the training up moves the whole model to the device first: it would come back.
    assert "forward" not in embedding.__dict__
    assert worst(gradients(model), wanted) < 1e-5
    assert "forward" in embedding.__dict__
    assert list(model.state_dict()) == names
    apply_fast_path(model, embedding_on_host=False)
    assert "forward" not in embedding.__dict__


def test_weights_held_unpacked_give_the_same_gradients(nf4_folder: Path) -> None:
    model = with_lora(nf4_llama(nf4_folder))
    wanted = gradients(model)
    apply_fast_path(model, unpacked_layers=1)
    assert worst(gradients(model), wanted) < 1e-5
    nn.init.zeros_(model.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight)
    changed = gradients(model)  # the adapter's part is read anew each time
    assert not changed["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"].any()


def test_transformers_own_pass_finds_packed_weights_again(nf4_folder: Path) -> None:
    model = with_lora(nf4_llama(nf4_folder))
    positions = torch.arange(12).expand(2, -1)
    wanted = model(input_ids=TOKENS, position_ids=positions).logits
    apply_fast_path(model, unpacked_layers=2)
    decoder = causal_lm(model).fast_decoder
    assert [layer.unpacked for layer in decoder.layers] == [True, True]
    torch.testing.assert_close(model(input_ids=TOKENS, position_ids=positions).logits, wanted)
    assert [layer.unpacked for layer in decoder.layers] == [False, False]


def test_a_larger_shape_takes_the_memory_of_unpacked_weights_back(
    nf4_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_lora(nf4_llama(nf4_folder))
    wanted = gradients(model)
    apply_fast_path(model)
    decoder = causal_lm(model).fast_decoder
    decoder.fill = True  # as on a GPU
    each = unpacked_bytes(decoder.shape, 4, 4)
    kept = 2 * sum(layer_bytes(decoder.shape, 24, 4).values()) + small_bytes(decoder.shape, 24, 4, 4)
    monkeypatch.setattr(decoder, "_room", lambda tokens: kept * tokens / 24 + (2 - tokens / 24) * 1.5 * each)
    assert worst(gradients(model), wanted) < 1e-5
    assert decoder.unpacked == 1
    loss_of(model, TOKENS.repeat(2, 1), PACKED.repeat(2, 1)).backward()
    assert decoder.unpacked == 0
    loss_of(model, TOKENS[:1], PACKED[:1]).backward()
    assert decoder.unpacked == 0  # a smaller one comes and goes
    assert worst(gradients(model), wanted) < 1e-5
