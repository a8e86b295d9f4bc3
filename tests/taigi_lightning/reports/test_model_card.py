"""The model card: what came from where, under which terms."""

import json
from pathlib import Path

import pytest
import yaml

from taigi_lightning.errors import InputError
from taigi_lightning.reports.model_card import card_command, write_model_card

CPT = {
    "base": {"name": "Bohanlu/Taigi-Llama-2-13B", "weights": "a1", "quantization": "nf4", "lineage": None},
    "data": {"path": "data/cpt_corpus", "sha256": "c0ffee" * 10},
}
SFT = {
    "base": {"name": "models/cpt_model", "weights": "b2", "quantization": "nf4", "lineage": CPT},
    "data": {"path": "data/AI_conv.csv", "sha256": "beef" * 16},
}


def test_a_card_names_base_terms_data_settings_and_metrics(tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text(json.dumps(SFT))
    (tmp_path / "config.yaml").write_text((Path(__file__).parents[3] / "configs" / "sft.yaml").read_text())
    (tmp_path / "logs" / "version_0").mkdir(parents=True)
    (tmp_path / "logs" / "version_0" / "metrics.csv").write_text(
        "epoch,step,train/loss,val/accuracy\n0,0,2.5,\n0,1,1.5,0.875\n"
    )
    text = write_model_card(tmp_path).read_text(encoding="utf-8")
    _, header, page = text.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "language": ["nan"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["qlora", "taigi", "taiwanese-hokkien"],
        "license": "cc-by-nc-sa-4.0",
        "base_model": "Bohanlu/Taigi-Llama-2-13B",
        "base_model_relation": "finetune",
    }
    for words in ["excludes commercial use", "data/AI_conv.csv", "data/cpt_corpus", "16, 32, 0.1", "87.5%"]:
        assert words in page
    assert page.index("data/cpt_corpus") < page.index("data/AI_conv.csv"), "the oldest stage comes first"
    assert "根據前文內容回答問題" in page, "who loads it must know the prompt"
    assert not list(tmp_path.glob("*.partial"))


def test_unknown_terms_are_not_invented(tmp_path: Path) -> None:
    lineage = {"base": {"name": "someone/model", "weights": "a", "lineage": None}, "data": None}
    (tmp_path / "lineage.json").write_text(json.dumps(lineage))
    text = write_model_card(tmp_path).read_text(encoding="utf-8")
    assert "\nlicense:" not in text
    assert "licence of someone/model is not known here" in text
    assert "\nlicense: mit\n" in write_model_card(tmp_path, license="mit").read_text(encoding="utf-8")


def test_another_language_is_named_and_taigi_is_not(tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text(json.dumps(CPT))
    text = write_model_card(tmp_path, language="hak").read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["language"], header["tags"]) == (["hak"], ["qlora"])
    assert "Hakka" in text
    assert "Hokkien" not in text


def test_a_folder_without_lineage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a model that `fit` finished"):
        card_command(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lineage.json", "{", "lineage.json is not JSON"),
        ("lineage.json", "[]", "no lineage.json that names a base"),
        ("config.yaml", "model: [", "config.yaml is not YAML"),
    ],
)
def test_a_file_that_was_broken_by_hand_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / "lineage.json").write_text('{"base": {"name": "some/base"}}')
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        card_command(tmp_path)
