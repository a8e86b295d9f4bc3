"""The check at a run's start finds what an architecture cannot do here, by asking it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation import self_check as self_check_module
from taigi_lightning.evaluation.answers import answer_log_probabilities
from taigi_lightning.evaluation.greedy_answers import generate_tokens
from taigi_lightning.evaluation.self_check import self_check
from taigi_lightning.fast_path.apply import apply_fast_path
from taigi_lightning.tasks.question_batches import EncodedQuestion, QuestionBatch
from tests.taigi_lightning.architectures.small_bases import TINY, small_model
from tests.taigi_lightning.architectures.small_configs import small_config

DRAWN = torch.randint(4, 1280, (90,), generator=torch.Generator().manual_seed(5)).tolist()


def asked(number: int) -> EncodedQuestion:
    """A question of 8 tokens on a passage of 40, with answers of two tokens of which the first may be shared."""
    prompt = DRAWN[:40] + DRAWN[40 + 8 * number : 48 + 8 * number]
    return EncodedQuestion(number, str(number), prompt, ([7, 11], [7, 12], [8, 11], [8, 12]))


@pytest.mark.parametrize("fast", [False, True])
def test_nothing_is_found_where_all_is_right(fast: bool) -> None:
    model: Any = small_model(small_config("llama"))
    if fast:
        apply_fast_path(model)
    assert str(self_check(model, answers=True, generating=AutoTokenizer.from_pretrained(TINY))) == ""


@pytest.mark.parametrize(
    ("name", "packing", "sharing"),
    [
        ("qwen3_5_text", True, True),
        ("qwen3_next", True, True),
        ("falcon", True, False),
        ("mamba", True, True),
    ],
)
def test_what_an_architecture_cannot_do_is_said_and_answers_stay_those_alone(
    name: str, packing: bool, sharing: bool
) -> None:
    model = small_model(small_config(name))
    found = self_check(model, answers=True)
    assert ("one document a row" in str(found.packing)) == packing
    assert ("read alone" in str(found.sharing)) == sharing
    questions = [asked(number) for number in range(3)]
    shared = answer_log_probabilities(model, QuestionBatch([questions]))
    alone = [answer_log_probabilities(model, QuestionBatch([[question]])) for question in questions]
    torch.testing.assert_close(shared, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "cohere2"])
def test_a_passage_longer_than_a_window_is_read_alone(name: str) -> None:
    model = small_model(small_config(name, sliding_window=24))
    self_check(model, answers=True)
    questions = [asked(number) for number in range(3)]
    shared = answer_log_probabilities(model, QuestionBatch([questions]))
    for question, row in zip(questions, shared, strict=True):
        for answer, found in zip(question.answers, row, strict=True):
            ids = torch.tensor([question.prompt + answer])
            logs = model(ids).logits[0].log_softmax(-1)
            wanted = sum(logs[len(question.prompt) - 1 + place, token] for place, token in enumerate(answer))
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_prompts_are_continued_alone_where_padding_counts_as_text() -> None:
    model, tokenizer = small_model(small_config("rwkv")), AutoTokenizer.from_pretrained(TINY)
    assert "continued alone" in str(self_check(model, answers=False, generating=tokenizer).padding)
    prompts = [DRAWN[:9], DRAWN[9:24], DRAWN[24:33]]
    together = generate_tokens(model, tokenizer, prompts)
    assert together == [generate_tokens(model, tokenizer, [prompt])[0] for prompt in prompts]


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="sees those after it"):
        self_check(small_model(small_config("bert")), answers=False)


def test_numbers_that_are_not_finite_are_refused() -> None:
    model: Any = small_model(small_config("llama"))
    model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.inf
    with pytest.raises(InputError, match="not finite"):
        self_check(model, answers=False)


class Favouring(LlamaForCausalLM):
    """A head that does more than scale or cap."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.logits[..., 5] += 3.0
        return output


class Failing(LlamaForCausalLM):
    """A model that wants more than text."""

    def forward(self, *args: Any, pixel_values: Any = None, **options: Any) -> Any:
        raise ValueError("pixel_values are missing")


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Favouring, "more between its last layer and its logits"), (Failing, "pixel_values are missing")],
)
def test_a_class_that_nobody_has_seen_is_refused_if_it_would_be_wrong(kind: Any, words: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=words):
        self_check(kind(small_config("llama")).eval(), answers=False)


def deep(dtype: torch.dtype = torch.bfloat16) -> Any:
    """A deep, narrow model in 16 bits, whose layers pass on rounding: with random weights as much as any."""
    model: Any = small_model(
        small_config("gemma3_text", num_hidden_layers=16, layer_types=["full_attention"] * 16)
    )
    return apply_fast_path(model.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_in_16_bits_is_no_fault(dtype: torch.dtype) -> None:
    model = deep(dtype)
    with torch.autocast(
        "cpu", dtype
    ):  # as every stage computes in 16 bits: a float32 residual stream needs it
        assert str(self_check(model, answers=True)) == ""


def test_layers_that_give_32_bits_of_what_they_computed_in_16_round_too() -> None:
    model: Any = small_model(small_config("mamba")).to(torch.bfloat16)
    assert "one document a row" in str(self_check(model, answers=False).packing)


def test_a_state_too_faint_for_16_bits_still_has_each_question_read_alone() -> None:
    model: Any = small_model(small_config("bamba")).to(torch.bfloat16)
    assert "read alone" in str(self_check(model, answers=True).sharing)


def test_a_scaled_head_is_noticed_in_16_bits_though_the_loss_hardly_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = self_check_module.output_head
    monkeypatch.setattr(self_check_module, "output_head", lambda model: replace(real(model), scale=1.05))
    with pytest.raises(InputError, match="the logits differ by 5"):
        self_check(deep(), answers=False)


def test_other_hidden_states_than_the_models_own_are_refused_in_16_bits() -> None:
    model = deep()
    model.fast_decoder.layers[3].scores = model.fast_decoder.layers[3].scores._replace(scale=5.0)
    with pytest.raises(InputError, match="other hidden states by itself"):
        self_check(model, answers=False)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1, 0.4])
def test_what_rounding_was_seen_to_do_is_allowed_thrice_and_never_all(noise: float) -> None:
    half = self_check_module.Limits.of(torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16))
    assert half.after(noise).other_shape == pytest.approx(max(0.05, min(3 * noise, 0.5)))
    exact = self_check_module.Limits.of(torch.zeros(1), torch.zeros(1))
    assert exact.after(noise) == exact
