"""Rows longer than a base computes each document alone in are refused, by its configuration."""

from pathlib import Path
from typing import Any

import pytest
import torch

from taigi_lightning.errors import InputError
from taigi_lightning.evaluation.answers import answer_log_probabilities
from taigi_lightning.model.longest_row import check_row_length
from taigi_lightning.tasks.question_batches import EncodedQuestion, QuestionBatch
from tests.taigi_lightning.architectures.small_bases import gemma3_wrapper, small_model
from tests.taigi_lightning.architectures.small_configs import small_config

FACTORS = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, **FACTORS}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}


def rotated(model_type: str, **rope: Any) -> Any:
    return small_config(model_type, rope_parameters=rope)


# Each with the longest row that it takes; None: any.
BASES: dict[str, tuple[Any, int | None]] = {
    "rotation by length": (
        small_config(
            "phi3", original_max_position_embeddings=64, rope_scaling={"type": "longrope", **FACTORS}
        ),
        64,
    ),
    "of any type": (rotated("llama", **LONGROPE, original_max_position_embeddings=64), 64),
    "grown as it passes": (rotated("llama", **DYNAMIC), 2048),
    "a fixed one": (rotated("llama", rope_type="linear", rope_theta=1e4, factor=4.0), None),
    "a table": (small_config("gpt2", max_position_embeddings=48), 48),
    "a table with rows for padding": (small_config("opt", max_position_embeddings=48), 48),
    "a table of sines": (small_config("gptj", max_position_embeddings=48), 48),
    "a table that is no weight": (small_config("ctrl", max_position_embeddings=48), 48),
    "biases for so many": (small_config("mpt", max_seq_len=48), 48),
    "biases for any": (small_config("bloom"), None),
    "a number that its class never reads": (small_config("llama", max_seq_len=48, index_topk=16), None),
    "no places": (small_config("mamba"), None),
    "a number without a table": (small_config("jamba", max_position_embeddings=64), None),
    "chosen keys": (small_config("deepseek_v32", index_topk=16), 16),
    "a wrapper": (gemma3_wrapper(), None),
}


@pytest.mark.parametrize("name", BASES)
def test_rows_beyond_what_a_base_reads_are_refused(name: str, tmp_path: Path) -> None:
    config, most = BASES[name]
    config.save_pretrained(tmp_path)
    longest = most or 1 << 20
    check_row_length(str(tmp_path), longest, "--max_length")
    if most is not None:
        with pytest.raises(InputError, match=f"rows may have {most + 1}. Set --max_length {most}."):
            check_row_length(str(tmp_path), most + 1, "--max_length")


def test_a_row_of_questions_may_have_more_tokens_than_a_base_has_places() -> None:
    model = small_model(small_config("gpt2", max_position_embeddings=32))
    ids = torch.randint(4, 1000, (200,), generator=torch.Generator().manual_seed(0)).tolist()
    answers = ([5], [6], [7], [8])
    wide = [EncodedQuestion(n, str(n), ids[:8] + ids[20 * n : 20 * n + 20], answers) for n in range(1, 5)]
    batch = QuestionBatch([wide, [EncodedQuestion(5, "5", ids[100:120], answers)]])
    found = answer_log_probabilities(model, batch)
    alone = [answer_log_probabilities(model, QuestionBatch([[question]])) for question in batch.questions]
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-4, atol=1e-4)
