"""Small inputs of the kinds that people have, each with what is right: `data/real_texts.json`."""

import json
from pathlib import Path
from typing import Any

import pytest

from corpus_tools.documents import OwnRule
from corpus_tools.pipeline import build_corpus
from tests.corpus_tools.corpus_folder import documents

CASES = json.loads((Path(__file__).parent / "data" / "real_texts.json").read_text("utf-8"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_corpus_is_right(case: dict[str, Any], tmp_path: Path) -> None:
    for name, content in case["files"].items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")
    options = {"min_chars": 1, "validation_fraction": 0, **case["options"]}
    if "own_rules" in options:
        options["own_rules"] = [OwnRule(**rule) for rule in options["own_rules"]]
    if "questions" in case:
        (tmp_path / "questions.csv").write_text(case["questions"], encoding="utf-8")
        options["decontaminate"] = tmp_path / "questions.csv"
    report = build_corpus(tmp_path / "in", tmp_path / "out", **options)
    found = documents(tmp_path / "out")
    text = "\n\n".join(d["text"] for d in found)
    for wanted in case["contains"]:
        assert wanted in text, case["why"]
    for unwanted in case["lacks"]:
        assert unwanted not in text, case["why"]
    assert len(found) == case["documents"], case["why"]
    rows, characters = report["rows"], report["characters"]
    assert rows["read"] == rows["kept"] + sum(rows["dropped"].values())
    spent = [*characters["removed_by_rule"].values(), *characters["dropped"].values()]
    assert characters["read"] + characters["line_breaks_added"] == sum(
        [*spent, characters["edges"], characters["kept"]]
    )
