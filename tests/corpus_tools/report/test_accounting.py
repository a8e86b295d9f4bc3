"""Whatever the rows are, each row and each character is kept or dropped once, and the report says which."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.errors import InputError
from corpus_tools.pipeline import build_corpus

SENTENCES = [
    "阮兜佇台南的海邊仔，逐工攏會當看著日頭落海。",
    "隔壁的阿婆定定講起少年時陣的代誌！",
    "Góa bô beh khì, lí kám ū chia̍h-pn̄g?",
    "一、春天來矣。",
    "2. 熱天閣較遠。",
    "看https://a.tw/b_(c)後擺講...",
    "他們今天早上去學校上課。",
    "這句無煞，",
    "\n",
    "  ",
    "\u3000\x07",
    "\ufffd\ue055",
    "http://a.tw",
    "好\r\n",
    "",
    "Goa2 beh khi3 Tai5-lam5.",
    "<p>飼雞<br>的辦法</p>&amp;",
    "第 3 頁\n",
    "昏 去誠危險 a@b.tw",
    "看 http://www.",
    "表3.",
    "1：文化營",
]
TEXT = st.lists(st.sampled_from(SENTENCES), max_size=6).map("".join)
ROW = st.fixed_dictionaries(
    {"text": TEXT, "title": st.sampled_from(["甲", "乙", ""]), "paragraph_id": st.integers(1, 4)}
)
FILES = st.lists(st.lists(ROW, max_size=8), min_size=1, max_size=3)


def build(files: list[list[dict[str, Any]]], folder: Path, **options: Any) -> dict[str, Any]:
    (folder / "in").mkdir()
    for number, rows in enumerate(files):
        (folder / "in" / f"{number}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    questions = folder / "questions.csv"
    questions.write_text("ID,前文\n1,逐工攏會當看著日頭落\n", encoding="utf-8")
    decontaminate = questions if options.pop("decontaminate") else None
    return build_corpus([folder / "in"], folder / "out", decontaminate=decontaminate, ngram=8, **options)


@settings(max_examples=60, deadline=None)
@given(
    FILES,
    st.fixed_dictionaries(
        {
            "min_chars": st.sampled_from([1, 12]),
            "max_chars": st.sampled_from([20, 60, 2048]),
            "min_paragraph_chars": st.sampled_from([1, 15]),
            "min_taigi_score": st.sampled_from([0.0, 0.5]),
            "decontaminate": st.booleans(),
            "rows": st.sampled_from(["auto", "window", "paragraph", "line"]),
            "lengths": st.sampled_from(["characters", "syllables"]),
            "duplicates": st.sampled_from(["exact", "normalised"]),
            "optional_rules": st.sampled_from([[], ["html", "pages"], ["han_spaces", "contacts", "poj"]]),
        }
    ),
)
def test_nothing_is_lost_or_counted_twice(files: list[list[dict[str, Any]]], options: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            report = build(files, Path(folder), **options)
        except InputError as error:
            assert "no document left" in str(error) or "none is left to train on" in str(error)
            return
        out = Path(folder) / "out"
        kept = [d for path in out.glob("*-of-*") for d in pq.read_table(path).to_pylist()]
        dropped = pq.read_table(out / "dropped.parquet").to_pylist()
    rows, characters = report["rows"], report["characters"]
    texts = [row["text"] for file in files for row in file]
    assert rows["read"] == len(texts) == rows["kept"] + sum(rows["dropped"].values())
    assert sum(d["rows"] for d in dropped) == sum(rows["dropped"].values())
    assert characters["read"] == sum(map(len, texts))
    assert characters["kept"] == sum(len(d["text"]) for d in kept) == sum(d["characters"] for d in kept)
    assert all(d["characters"] == len(d["text"]) for d in dropped)
    spent = [*characters["removed_by_rule"].values(), *characters["dropped"].values()]
    assert characters["read"] + characters["line_breaks_added"] == sum(
        [*spent, characters["edges"], characters["kept"]]
    )
    breaks = sum(text.count("<") for text in texts)  # which may leave empty lines
    assert 0 <= characters["edges"] <= 4 * (len(kept) + len(dropped)) + 2 * len(texts) + breaks
    sources = report["sources"]
    assert sum(source["rows"] for source in sources) == rows["read"]
    assert sum(source["characters"] for source in sources) == characters["read"]
    assert sum(source["kept"] for source in sources) == characters["kept"]
    assert sum(source["documents"] for source in sources) == len(kept)
    if options["lengths"] == "characters":
        assert all(options["min_chars"] <= len(d["text"]) <= options["max_chars"] for d in kept)
    assert len({d["text"] for d in kept}) == len(kept)
