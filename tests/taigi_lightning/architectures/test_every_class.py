"""Every class that transformers lets one make small: as right as `outcomes.csv` says, or refused as it says."""

from pathlib import Path

import pytest

from tests.taigi_lightning.architectures.small_configs import text_model_types
from tests.taigi_lightning.architectures.walk import Outcome, read_outcomes, walk

# In CI: each kind of difference once.
QUICK = {
    "llama": "the plain one",
    "qwen3": "norms of heads",
    "gemma3": "a wrapper with a tower, tied",
    "mistral3": "a wrapper whose text model says nothing of its tied head",
    "gemma2": "caps on scores and logits, windows by turns",
    "granite": "a scale on logits",
    "cohere2": "another scale, layers without rotation",
    "phi": "partial rotation, a bias in the head",
    "gpt2": "Conv1D, learned positions",
    "bloom": "ALiBi",
    "falcon": "a mask that knows no documents",
    "deepseek_v3": "latent attention, stacked experts",
    "qwen3_moe": "experts alone",
    "gpt_oss": "sinks in the attention",
    "mamba": "a state-space model",
    "lfm2": "convolutions",
    "modernbert-decoder": "a layer between decoder and head",
    "bert": "refused, looks ahead",
    "whisper": "refused, an encoder",
}


def test_the_table_has_a_row_for_every_class_and_none_is_wrong() -> None:
    outcomes = read_outcomes()
    assert sorted(outcomes) == text_model_types()
    assert {kind: found for kind, found in outcomes.items() if found.path == "wrong"} == {}


@pytest.mark.parametrize(
    "model_type",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in read_outcomes()],
)
def test_a_class_trains_merges_and_answers_as_the_table_says(model_type: str, tmp_path: Path) -> None:
    assert walk(model_type, tmp_path) == read_outcomes()[model_type]


def test_refusals_do_not_take_the_weights() -> None:
    late = {
        kind: found.why for kind, found in read_outcomes().items() if found.why.startswith("with its weights")
    }
    assert not late


def test_an_encoder_that_was_told_to_look_back_trains(tmp_path: Path) -> None:
    assert walk("bert", tmp_path, is_decoder=True).path == "general"


def test_outcomes_name_paths() -> None:
    assert {found.path for found in read_outcomes().values()} == {"fast", "general", "refused", "untried"}
    assert read_outcomes()["llama"] == Outcome("fast", "packed", "shared")
