"""Four log-probabilities, or generated text, into an answer."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from taigi_lightning.data.predict import encode_questions
from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import (
    answer_log_probabilities,
    choice_accuracy_batch,
    predict_batch,
)
from taigi_lightning.evaluation.greedy_answers import generate_tokens
from taigi_lightning.fast_path.apply import apply_fast_path
from taigi_lightning.model.base_model import load_base_model
from taigi_lightning.planning.memory import PROJECTIONS
from taigi_lightning.tasks.question_batches import EncodedQuestion, QuestionBatch
from taigi_lightning.tasks.questions import Question

PASSAGES = ["阿明下晡欲去市仔買菜。", "早起時仔，阿母佇灶跤煮糜，囡仔攏閣咧睏。" * 3, "阮兜蹛佇台南。"]


def make_questions() -> list[Question]:
    """Nine questions on three passages of very different lengths."""
    return [
        Question(
            f"q{row}",
            PASSAGES[row % 3],
            f"第{row}个問題？",
            ("市仔", "學校", f"厝{row}", "海邊"),
            row % 4 + 1,
            row + 1,
        )
        for row in range(9)
    ]


def random_llama(vocabulary: int) -> LlamaForCausalLM:
    """Large random weights, so that answers differ from one question to the next."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(9527)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model(tiny_tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    return random_llama(len(tiny_tokenizer))


@pytest.fixture(scope="module")
def encoded(tiny_tokenizer: PreTrainedTokenizerBase) -> list[EncodedQuestion]:
    return encode_questions(tiny_tokenizer, make_questions(), max_length=2048)


def one_by_one(model: LlamaForCausalLM, question: EncodedQuestion) -> list[float]:
    """The plainest way: each whole answer through the whole model, no sharing, no padding."""
    sums = []
    for answer in question.answers:
        whole = question.prompt + answer
        logits = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1).detach()
        sums.append(sum(float(logits[i - 1, whole[i]]) for i in range(len(question.prompt), len(whole))))
    return sums


def test_choice_gives_what_the_whole_model_gives(
    model: LlamaForCausalLM, encoded: list[EncodedQuestion]
) -> None:
    found = answer_log_probabilities(model, QuestionBatch([[question] for question in encoded]))
    wanted = torch.tensor([one_by_one(model, question) for question in encoded])
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def test_the_answers_vary(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerBase, encoded: list[EncodedQuestion]
) -> None:
    """Otherwise the agreements tested here would prove little."""
    batch = QuestionBatch([[question] for question in encoded])
    assert len({p.answer for p in predict_batch(model, tiny_tokenizer, batch, "choice")}) > 1


@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_the_choice_is_the_same_in_any_batch(
    size: int,
    model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerBase,
    encoded: list[EncodedQuestion],
) -> None:
    whole = predict_batch(model, tiny_tokenizer, QuestionBatch([[q] for q in encoded]), "choice")
    parts = [
        prediction
        for start in range(0, 9, size)
        for prediction in predict_batch(
            model, tiny_tokenizer, QuestionBatch([[q] for q in encoded[start : start + size]]), "choice"
        )
    ]
    assert [(p.id, p.answer) for p in parts] == [(p.id, p.answer) for p in whole]


def test_sharing_a_passage_changes_nothing(model: LlamaForCausalLM, encoded: list[EncodedQuestion]) -> None:
    groups = [encoded[0::3], encoded[1::3], encoded[2::3]]
    found = answer_log_probabilities(model, QuestionBatch(groups))
    wanted = torch.tensor([one_by_one(model, question) for group in groups for question in group])
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
    assert found.argmax(-1).tolist() == wanted.argmax(-1).tolist()


def test_a_digit_alone_has_a_leading_space_piece_and_after_the_colon_has_none(
    tiny_tokenizer: PreTrainedTokenizerBase, encoded: list[EncodedQuestion]
) -> None:
    """What facts about the real tokenizer say: `1` alone is `▁ 1`; after `答案：` it is `1`."""
    alone = tiny_tokenizer.convert_ids_to_tokens(tiny_tokenizer("1", add_special_tokens=False)["input_ids"])
    assert "".join(alone).startswith("▁")
    assert tiny_tokenizer.convert_ids_to_tokens(encoded[0].prompt)[-1].endswith("：")
    assert [tiny_tokenizer.convert_ids_to_tokens(answer) for answer in encoded[0].answers] == [
        [d] for d in "1234"
    ]


def test_a_tie_goes_to_the_smaller_number(
    tiny_tokenizer: PreTrainedTokenizerBase, encoded: list[EncodedQuestion]
) -> None:
    model = random_llama(len(tiny_tokenizer))
    torch.nn.init.zeros_(model.lm_head.weight)
    predictions = predict_batch(model, tiny_tokenizer, QuestionBatch([encoded]), "choice")
    assert {p.answer for p in predictions} == {1}


def test_sixteen_bit_weights_do_not_tie_the_answers(
    encoded: list[EncodedQuestion], model: LlamaForCausalLM
) -> None:
    """bfloat16 logits would move in steps of a sixteenth; these are computed in float32."""
    half = random_llama(model.config.vocab_size).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = answer_log_probabilities(half, QuestionBatch([[q] for q in encoded]))
    assert found.dtype == torch.float32
    differences = (found[:, 1:] - found[:, :1]).flatten()
    assert (differences * 64 % 1 != 0).any()


def test_a_rotated_question_answers_in_the_inputs_numbering(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerBase
) -> None:
    turned = encode_questions(tiny_tokenizer, make_questions()[:1], max_length=2048, rotations=(0, 1))
    shown = answer_log_probabilities(model, QuestionBatch([turned]))[1].tolist()
    prediction = predict_batch(model, tiny_tokenizer, QuestionBatch([turned]), "choice")[1]
    assert prediction.rotation == 1
    assert prediction.log_probabilities == pytest.approx([shown[3], shown[0], shown[1], shown[2]])


def test_accuracy_counts_right_answers(model: LlamaForCausalLM, encoded: list[EncodedQuestion]) -> None:
    batch = QuestionBatch([[question] for question in encoded])
    best = answer_log_probabilities(model, batch).argmax(-1).tolist()
    right = sum(question.answer == place + 1 for question, place in zip(encoded, best, strict=True))
    assert choice_accuracy_batch(model, batch) == (right, 9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_answers_nothing(
    tiny_tokenizer: PreTrainedTokenizerBase, encoded: list[EncodedQuestion], value: float
) -> None:
    broken = random_llama(len(tiny_tokenizer))
    batch = QuestionBatch([encoded])
    choice_accuracy_batch(broken, batch)
    broken.model.norm.weight.data.fill_(value)
    with pytest.raises(InputError, match=rf"question {encoded[0].id}'s answers are no numbers"):
        predict_batch(broken, tiny_tokenizer, batch, "choice")
    assert choice_accuracy_batch(broken, batch) == (0, len(encoded))  # where training has diverged
    del broken.head_form  # as of a model that was never asked
    with pytest.raises(InputError, match="values that are no numbers from four plain tokens"):
        predict_batch(broken, tiny_tokenizer, batch, "choice")


def test_a_peft_model_uses_its_adapter(tiny_llama_dir: Path, encoded: list[EncodedQuestion]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32).eval()
    batch = QuestionBatch([[question] for question in encoded])
    before = answer_log_probabilities(model, batch)
    adapted = get_peft_model(
        model, LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    after = answer_log_probabilities(adapted.eval(), batch)
    wanted = torch.tensor([one_by_one(adapted, question) for question in encoded])
    torch.testing.assert_close(after, wanted, rtol=0, atol=2e-5)
    assert not torch.allclose(before, after, atol=1e-4)


def test_the_fast_path_of_training_gives_the_same_answers(
    tiny_llama_dir: Path, encoded: list[EncodedQuestion]
) -> None:
    """During `fit` the model has it; rows that branch go around it."""
    adapted = load_base_model(
        str(tiny_llama_dir), quantization="nf4", compute_dtype=torch.float32, device=torch.device("cpu")
    )
    adapted = get_peft_model(adapted, LoraConfig(target_modules=PROJECTIONS, init_lora_weights=False)).eval()
    for batch in (QuestionBatch([[q] for q in encoded]), QuestionBatch([encoded[0::3], encoded[1::3]])):
        before = answer_log_probabilities(adapted, batch)
        apply_fast_path(adapted, activation_budget=1.0)
        torch.testing.assert_close(answer_log_probabilities(adapted, batch), before, rtol=0, atol=1e-4)
        del adapted.get_base_model().fast_decoder


def test_batched_generation_equals_unbatched(
    model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerBase, encoded: list[EncodedQuestion]
) -> None:
    prompts = [question.prompt for question in encoded]
    assert len({len(prompt) for prompt in prompts}) > 2
    together = generate_tokens(model, tiny_tokenizer, prompts, max_new_tokens=8)
    for prompt, found in zip(prompts, together, strict=True):
        alone = generate_tokens(model, tiny_tokenizer, [prompt], max_new_tokens=8)[0]
        assert found[: len(alone)] == alone  # it stops at its own EOS, the batch at the last
    assert len(set(map(tuple, together))) > 1


def test_text_without_a_number_falls_back_to_one(
    model: LlamaForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerBase,
    encoded: list[EncodedQuestion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = ["3", "伊講", " 2 ", "", "14", "５", "4。", "答案：2", "1"]
    monkeypatch.setattr(
        "taigi_lightning.evaluation.answers.generate_tokens",
        lambda *_: [tiny_tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts],
    )
    predictions = predict_batch(model, tiny_tokenizer, QuestionBatch([[q] for q in encoded]), "generate")
    assert [p.answer for p in predictions] == [3, 1, 2, 1, 1, 1, 4, 1, 1]
    assert [p.row for p in predictions if p.fallback] == [2, 4, 6, 8]
    assert predictions[1].text == "伊講"
