"""Answers that a tokenizer spells in several tokens, behind a space, or together with what stands before them."""

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from taigi_lightning.data.predict import encode_questions
from taigi_lightning.evaluation.answers import answer_log_probabilities
from taigi_lightning.tasks.question_batches import QuestionBatch
from tests.taigi_lightning.evaluation.test_answers import PASSAGES, make_questions, one_by_one, random_llama


def tokenizer_from(
    vocabulary: str, normalizer: normalizers.Normalizer, *longer: str
) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each character and for each longer piece."""
    pieces = ["<unk>", "<s>", "</s>", "<pad>", *longer, *dict.fromkeys(vocabulary)]
    tokenizer = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizer
    pattern = Regex("|".join([*longer, r"[\s\S]"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


LETTERS = (
    "".join(PASSAGES)
    + "根據前文內容回答問題：\n從以下四個選項出正確的編號(-)第个？市仔學校厝海邊案0123456789abc▁"
)


def test_a_digit_of_two_tokens_is_compared_whole() -> None:
    """1, 2, 3, 4 are `ab`, `ac`, `ba`, `bc`: neither the first token nor the last alone tells them apart."""
    spelled = [
        normalizers.Replace(digit, pair) for digit, pair in zip("1234", ["ab", "ac", "ba", "bc"], strict=True)
    ]
    tokenizer = tokenizer_from(LETTERS, normalizers.Sequence(spelled))
    questions = encode_questions(tokenizer, make_questions(), max_length=2048)
    assert [tokenizer.convert_ids_to_tokens(answer) for answer in questions[0].answers] == [
        [*"ab"],
        [*"ac"],
        [*"ba"],
        [*"bc"],
    ]
    model = random_llama(len(tokenizer))
    for groups in ([[q] for q in questions], [questions[0::3], questions[1::3], questions[2::3]]):
        found = answer_log_probabilities(model, QuestionBatch(groups))
        wanted = torch.tensor([one_by_one(model, q) for group in groups for q in group])
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)
    assert len(set(found.argmax(-1).tolist())) > 1


def test_a_tokenizer_that_puts_a_space_piece_before_the_digit() -> None:
    """`▁` before each digit is common to the four answers; the digit behind it decides."""
    tokenizer = tokenizer_from(LETTERS, normalizers.Replace(Regex("(?=[1-4]$)"), "▁"))
    question = encode_questions(tokenizer, make_questions(), max_length=2048)[0]
    assert tokenizer.convert_ids_to_tokens(question.prompt)[-2:] == ["：", "▁"]
    assert [tokenizer.convert_ids_to_tokens(answer) for answer in question.answers] == [[d] for d in "1234"]
    model = random_llama(len(tokenizer))
    found = answer_log_probabilities(model, QuestionBatch([[question]]))
    torch.testing.assert_close(found, torch.tensor([one_by_one(model, question)]), rtol=0, atol=2e-5)


def test_a_digit_that_joins_the_colon() -> None:
    """`：1` is one piece, so the prompt's own last token is not part of what the answers share."""
    tokenizer = tokenizer_from(LETTERS, normalizers.NFC(), "：1", "：2", "：3", "：4")
    question = encode_questions(tokenizer, make_questions(), max_length=2048)[0]
    assert [tokenizer.convert_ids_to_tokens(answer) for answer in question.answers] == [
        [f"：{d}"] for d in "1234"
    ]
    model = random_llama(len(tokenizer))
    found = answer_log_probabilities(model, QuestionBatch([[question]]))
    torch.testing.assert_close(found, torch.tensor([one_by_one(model, question)]), rtol=0, atol=2e-5)
