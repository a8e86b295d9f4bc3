"""The model card: what came from where, under which terms."""

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from taigi_lightning.errors import InputError
from taigi_lightning.reports.model_card import card_command, write_model_cards

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
    text = write_model_cards(tmp_path)[0].read_text(encoding="utf-8")
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
    assert "products with them" not in page
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("model:\n", "model:\n  matmul: int8_mixed\n", 1))
    assert "products with them" in write_model_cards(tmp_path)[0].read_text(encoding="utf-8")
    (earlier,) = write_model_cards(tmp_path, logged=False)  # what is logged there is not of this run
    assert "87.5%" not in earlier.read_text(encoding="utf-8")


def test_unknown_terms_are_not_invented(tmp_path: Path) -> None:
    lineage = {"base": {"name": "someone/model", "weights": "a", "lineage": None}, "data": None}
    (tmp_path / "lineage.json").write_text(json.dumps(lineage))
    text = write_model_cards(tmp_path)[0].read_text(encoding="utf-8")
    assert "\nlicense:" not in text
    assert "licence of someone/model is not known here" in text
    assert "\nlicense: mit\n" in write_model_cards(tmp_path, license="mit")[0].read_text(encoding="utf-8")


def test_another_language_is_named_and_taigi_is_not(tmp_path: Path) -> None:
    (tmp_path / "lineage.json").write_text(json.dumps(CPT))
    text = write_model_cards(tmp_path, language="hak")[0].read_text(encoding="utf-8")
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["language"], header["tags"]) == (["hak"], ["qlora"])
    assert "Hakka" in text
    assert "Hokkien" not in text


def test_a_folder_without_lineage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a model that `fit` finished"):
        card_command(tmp_path)


def test_a_run_leaves_a_card_for_its_adapter_too(tmp_path: Path) -> None:
    run = tmp_path / "final_model"
    (run / "adapter").mkdir(parents=True)
    for folder in (run, run / "adapter"):
        (folder / "lineage.json").write_text(json.dumps(SFT))
    model, adapter = write_model_cards(run, datasets=["someone/corpus"])
    assert (model, adapter) == (run / "README.md", run / "adapter" / "README.md")
    data = ModelCard.load(adapter).data
    assert (data.library_name, data.base_model_relation) == ("peft", "adapter")
    assert (data.base_model, data.datasets) == ("Bohanlu/Taigi-Llama-2-13B", ["someone/corpus"])
    text = adapter.read_text(encoding="utf-8")
    assert 'PeftModel.from_pretrained(base, "final_model/adapter")' in text
    assert 'AutoModelForCausalLM.from_pretrained("models/cpt_model"' in text, (
        "what the adapter was trained on"
    )
    alone = write_model_cards(run / "adapter", license="mit")
    assert (alone, ModelCard.load(alone[0]).data.license) == ([adapter], "mit")


def test_a_base_in_a_folder_is_no_name_on_the_hub(tmp_path: Path) -> None:
    base = tmp_path / "bases" / "mine"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: qwen\n---\n")
    (tmp_path / "lineage.json").write_text(
        json.dumps({"base": {"name": str(base)}, "data": {"path": "/home/a/b"}})
    )
    (card,) = write_model_cards(tmp_path)
    text = card.read_text(encoding="utf-8")
    assert str(tmp_path) not in text, "nobody else has this folder"
    assert "/home/a" not in text
    data = ModelCard.load(card).data
    assert (data.base_model, data.license, data.get("license_name")) == (None, "other", "qwen")
    (card,) = write_model_cards(tmp_path, base_model="someone/mine")
    assert ModelCard.load(card).data.base_model == "someone/mine"


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
