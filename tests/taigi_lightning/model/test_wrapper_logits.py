"""Wrappers that leave out what their text model's class does to logits."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from taigi_lightning.model.wrapper_logits import left_out_by_wrapper


def written(folder: Path, kind: str, architecture: str, **text: Any) -> Path:
    text_config = AutoConfig.for_model(**text).to_dict() | text
    config = AutoConfig.for_model(kind, text_config=text_config, architectures=[architecture])
    config.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (0.25, "logit_scale 0.25, as Cohere2ForCausalLM does; plain AyaVisionForConditionalGeneration"),
        (1.0, None),
    ],
)
def test_a_scale_that_the_wrapper_does_not_know_is_told(
    tmp_path: Path, scale: float, said: str | None
) -> None:
    wrapper = "AyaVisionForConditionalGeneration"
    base = written(tmp_path, "aya_vision", wrapper, model_type="cohere2", logit_scale=scale)
    found = left_out_by_wrapper(base)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_a_cap_that_the_wrapper_applies_too_is_not(tmp_path: Path) -> None:
    wrapper = "Gemma3nForConditionalGeneration"
    base = written(tmp_path, "gemma3n", wrapper, model_type="gemma3n_text", final_logit_softcapping=30.0)
    assert left_out_by_wrapper(base) == []


def test_a_base_that_is_no_wrapper_has_none(tmp_path: Path) -> None:
    AutoConfig.for_model("cohere2", logit_scale=0.25).save_pretrained(tmp_path)
    assert left_out_by_wrapper(tmp_path) == []
