"""What a plan counts of a base: exact but for norms and biases, or refused."""

import json
from pathlib import Path

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.model.text_model import skeleton
from taigi_lightning.planning.base_shape import read_base
from taigi_lightning.planning.decoder_path import COUNTED_TYPES
from tests.taigi_lightning.architectures.small_configs import small_config

# Wrappers whose text models are counted, one of them tied by its own word alone.
WRAPPERS = ("mistral3", "internvl", "llava")


@pytest.mark.parametrize("kind", [*COUNTED_TYPES, *WRAPPERS])
def test_parameters_are_counted_as_transformers_makes_them(kind: str, tmp_path: Path) -> None:
    small_config(kind).save_pretrained(tmp_path)
    counted = read_base(str(tmp_path))[0].parameters
    assert counted == pytest.approx(sum(p.numel() for p in skeleton(tmp_path).parameters()), rel=3e-3)


@pytest.mark.parametrize(
    "kind", ["starcoder2", "minicpm3", "gemma3n_text", "bamba", "gemma4_text", "recurrent_gemma"]
)
def test_layers_of_another_kind_are_refused(kind: str, tmp_path: Path) -> None:
    small_config(kind).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"of type {kind}, whose layers are not counted here"):
        read_base(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("llama", {"hidden_size": "64"}, "says hidden_size '64'; wanted a whole number"),
        ("llama", {"num_hidden_layers": 0}, "says num_hidden_layers 0"),
        ("llama", {"intermediate_size": None}, "says intermediate_size None"),
        ("qwen3", {"hidden_size": "64"}, "cannot be used: .* expected int, got str"),
        ("qwen3", {"dtype": "fp8"}, "cannot be used: .* 'fp8'"),
    ],
)
def test_sizes_that_are_none_are_named(
    kind: str, changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    small_config(kind).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError, match=words):
        read_base(str(tmp_path))
