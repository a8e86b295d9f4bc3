"""Options are listed once: what the command line, the library and the manifest make of that list."""

import inspect
import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from corpus_tools.__main__ import main
from corpus_tools.cli.commands import clean, preview
from corpus_tools.documents import OwnRule
from corpus_tools.errors import InputError
from corpus_tools.options import CorpusOptions
from corpus_tools.pipeline import build_corpus
from tests.corpus_tools.corpus_folder import LONG, write_rows

DEFAULTS: dict[str, Any] = {
    "rows": "auto",
    "min_chars": 100,
    "max_chars": 2048,
    "lengths": "characters",
    "validation_fraction": 0.05,
    "min_paragraph_chars": 30,
    "min_taigi_score": 0.0,
    "duplicates": "exact",
    "decontaminate": None,
    "ngram": 13,
    "convert_simplified": False,
    "optional_rules": [],
    "own_rules": [],
    "fields": {},
    "output_format": "parquet",
    "skip_bad_files": False,
    "max_expansion": 100,
    "max_row_mchars": 50,
}


def test_the_manifest_holds_the_defaults_in_the_order_of_earlier_corpora() -> None:
    assert list(CorpusOptions().recorded().items()) == list(DEFAULTS.items())


def test_the_manifest_holds_values_that_json_can_hold() -> None:
    given: dict[str, Any] = {"optional_rules": ("html",), "own_rules": (OwnRule("a", "b"),)}
    recorded = CorpusOptions(decontaminate="elsewhere/questions.csv", **given).recorded()  # type: ignore[arg-type]
    assert recorded["decontaminate"] == "questions.csv"
    assert recorded["optional_rules"] == ["html"]
    assert recorded["own_rules"] == [
        {"name": "a", "pattern": "b", "replacement": "", "matches": [], "leaves": []}
    ]
    assert json.loads(json.dumps(recorded)) == recorded


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_chars": 300, "max_chars": 200}, "min_chars 300 exceeds max_chars 200"),
        ({"validation_fraction": 1.0}, "validation_fraction 1 leaves nothing"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    wrong: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=said):
        build_corpus(tmp_path, tmp_path / "out", **wrong)
    words = [word for name, value in wrong.items() for word in (f"--{name}", str(value))]
    assert main(["clean", str(tmp_path), "--output_dir", str(tmp_path / "out"), *words]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_option_that_does_not_exist_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="min_char"):
        build_corpus(tmp_path, tmp_path / "out", min_char=5)
    assert not (tmp_path / "out").exists()


def test_the_command_line_has_each_option_with_its_type_default_and_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = ArgumentParser()
    parser.add_function_arguments(clean, as_positional=True)
    defaults, documented = parser.get_defaults(), inspect.getdoc(CorpusOptions) or ""
    with pytest.raises(SystemExit):
        main(["clean", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for field in fields(CorpusOptions):
        assert field.default is not MISSING
        assert defaults[field.name] == field.default, field.name
        text = documented.partition(f" {field.name}: ")[2].partition("\n")[0]
        assert text and text in shown, field.name
    assert "options" not in defaults
    assert "Longer articles are split at sentence ends. (type: PositiveInt, default: 2048)" in shown


@pytest.mark.parametrize("name", [field.name for field in fields(CorpusOptions)])
def test_a_misspelt_option_is_recognised(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["clean", "in", f"--{name}x", "1"])
    assert f"--{name}" in capsys.readouterr().err.partition("Did you mean ")[2]


def test_a_configuration_file_reaches_the_manifest(tmp_path: Path) -> None:
    write_rows(tmp_path / "in/a.json", [{"text": LONG, "title": str(i), "author": "a"} for i in range(3)])
    config = {"source": str(tmp_path / "in"), "output_dir": str(tmp_path / "out"), "min_chars": 5}
    config |= {"optional_rules": ["html"], "own_rules": [{"name": "own", "pattern": "無有"}]}
    (tmp_path / "clean.yaml").write_text(json.dumps(config), encoding="utf-8")
    assert main(["clean", "--config", str(tmp_path / "clean.yaml")]) == 0
    manifest = json.loads((tmp_path / "out/manifest.json").read_text(encoding="utf-8"))
    own = [{"name": "own", "pattern": "無有", "replacement": "", "matches": [], "leaves": []}]
    expected = DEFAULTS | {"min_chars": 5, "optional_rules": ["html"], "own_rules": own}
    assert list(manifest["options"].items()) == list(expected.items())


@pytest.mark.parametrize("readme", ["README.md", "README.zh-TW.md"])
def test_the_readmes_list_every_option_with_its_default(readme: str) -> None:
    shown: dict[str, dict[str, Any]] = {"clean": {}, "preview": {}}
    for line in (Path(__file__).parents[2] / readme).read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and cells[1].startswith("`") and cells[3] in ("", "✓"):
            names, values = ([word.strip(" `") for word in cell.split(",")] for cell in cells[1:3])
            of_option = {name: yaml.safe_load(value) for name, value in zip(names, values, strict=True)}
            shown["preview"] |= of_option if cells[3] else {}
            shown["clean"] |= {} if names == ["limit"] else of_option
    for command in (clean, preview):
        parser = ArgumentParser()
        parser.add_function_arguments(command, as_positional=True)
        there = {k: v for k, v in parser.get_defaults().as_dict().items() if k not in ("source", "file")}
        assert shown[command.__name__] == {k: str(v) if isinstance(v, Path) else v for k, v in there.items()}
