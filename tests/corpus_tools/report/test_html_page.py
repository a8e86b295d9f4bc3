"""The corpus report as people see it: nothing unescaped, nothing hidden, as wide as a phone."""

import json
import os
import re
from pathlib import Path

import pytest

from corpus_tools.cli.warnings import warnings_of
from corpus_tools.pipeline import build_corpus
from corpus_tools.report.html_page import marked, render_page, visible
from corpus_tools.sample.write import write_sample
from tests.browser import CHROMIUM, check_page, check_width


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a small sample corpus."""
    folder = tmp_path_factory.mktemp("corpus")
    write_sample(folder, articles=30, questions=0, test_questions=0)
    build_corpus([folder / "IMA-Taiwan"], folder / "out")
    return folder / "out" / "report.html"


def test_the_page_says_what_report_json_says(report: Path) -> None:
    page = check_page(report)
    counts = json.loads(report.with_name("report.json").read_text(encoding="utf-8"))
    assert f"<b>{counts['documents']['total']:,}</b><span>documents" in page
    assert f"{counts['characters']['kept']:,} · " in page
    assert re.search(r"<dt>data</dt><dd>\d files: file-", page)
    assert 'download="rules.csv" href="data:text/csv' in page
    assert "<title>0 to 128 characters: " in page
    assert 'download="sources.csv" href="data:text/csv' in page
    for source in counts["sources"]:
        share = f"{source['kept'] / source['characters']:.1%}"
        assert f"<td>{source['source']}</td><td>windows" in page and f"<td>{share}</td>" in page
    for rule, found in counts["rules"].items():
        assert f"<b>{rule.replace('_', ' ')}</b>" in page
        plural = "" if found["changes"] == 1 else "s"
        assert f"{found['changes']:,} change{plural}, " in page


def test_one_change_is_no_changes(report: Path) -> None:
    counts = json.loads(report.with_name("report.json").read_text(encoding="utf-8"))
    counts["rules"] = {"urls": {"changes": 1, "characters_removed": 1, "stretches": {}, "samples": []}}
    assert "1 change, 1 character fewer" in render_page(counts)


@pytest.mark.parametrize(
    ("before", "after", "page"),
    [
        ("看 https://is.gd/x 喔", "看 喔", "看 <del>https://is.gd/x␣</del>喔"),
        ("講......", "講……", "講<del>......</del><ins>……</ins>"),
        ("a<b>,c", "a<b>，c", "a&lt;b&gt;<del>,</del><ins>，</ins>c"),
        ("了後\n\n閣", "了後\n閣", "了後\n<del>↵</del>閣"),
        ("去\ue701啉", "去𪜶啉", "去<del>[U+E701]</del><ins>𪜶</ins>啉"),
        ("1. 早起時", "早起時仔食飯", "<del>1.␣</del>早起時"),  # the window goes on: no change
        ("好,好,", "好，好，後擺", "好<del>,</del><ins>，</ins>好"),  # nor can what it cuts be told
        ("好…\n", "好……\n", "好…<ins>…</ins>\n"),
        ("e\u0301好", "é好", "<del>e[U+0301]</del><ins>é</ins>好"),
        ("\uf941好", "論好", "<del>[U+F941]</del><ins>論</ins>好"),
    ],
)
def test_a_change_is_marked_where_it_is(before: str, after: str, page: str) -> None:
    assert marked(before, after) == page


def test_every_overlap_with_a_question_is_listed(tmp_path: Path) -> None:
    shared = "逐工攏會當看著日頭落海，逐家聽甲真歡喜。"
    rows = [{"title": title, "text": f"{title}講：{shared}"} for title in "甲乙丙"]
    rows.append({"title": "丁", "text": "阮兜佇台南的海邊仔。" * 12})
    (tmp_path / "in.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "questions.csv").write_text(f"ID,前文\n77,{shared}\n", encoding="utf-8")
    build_corpus([tmp_path / "in.json"], tmp_path / "out", decontaminate=tmp_path / "questions.csv")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for row, title in enumerate("甲乙丙", 1):
        assert f"in.json row {row}, {title}: " in page


def test_what_has_no_shape_is_spelt_out() -> None:
    assert visible("\u00a0\u200b\ue701") == "[U+00A0][U+200B][U+E701]"


@pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no chromium on this machine")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_the_page_without_scrolling_sideways(
    report: Path, width: int, tmp_path: Path
) -> None:
    check_width(report, width, tmp_path)


def test_articles_from_a_font_of_its_own_are_named(tmp_path: Path) -> None:
    sound, garbled = "阮兜佇台南的海邊仔，" * 20, "阮兜\ue0a1佇\ue0b2台\ufffd南的海邊仔，" * 20
    rows = [{"title": "好", "text": sound + "\ue0a1"}, {"title": "歹", "text": garbled}]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    counts = build_corpus(tmp_path / "in", tmp_path / "out", validation_fraction=0)
    assert counts["garbled_articles"] == [{"source": "a.json", "title": "歹", "share": "23.1%"}]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "a.json, 歹" in page and "23.1% private-use" in page


def test_signs_of_old_fonts_and_of_a_wrong_encoding_are_named(tmp_path: Path) -> None:
    texts = {
        "font": "Goá beh khì T¸i-l¦m, lí µ h¹u goá tò-lâi. " * 4,
        "encoding": "Góa beh khì Tâi-lâm, lí m̄-bián hiau-hēng. ".encode().decode("latin-1") * 4,
        "few tones": "Goa beh khi TÃ¢i-gÃ\xad kap i ê lâng, sÄ« Ãª tang-si. " * 4,
        "names": "約翰·史密斯佇café啉¥120的咖啡，逐家攏講好啉甲欲死。" * 4,
        "sound": "Góa beh khì Tâi-lâm, lí mài lâi toè góa, lán bîn-á-chài chiah koh kóng. " * 3,
    }
    rows = [{"title": title, "text": text} for title, text in texts.items()]
    (tmp_path / "in.json").write_text(json.dumps(rows), encoding="utf-8")
    report = build_corpus(tmp_path / "in.json", tmp_path / "out", validation_fraction=0)
    assert [found["title"] for found in report["garbled_articles"]] == ["font", "encoding", "few tones"]
    assert [found.get("rule") for found in report["garbled_articles"]] == [None, "mojibake", "mojibake"]
    assert "the optional rule mojibake repairs" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "2 articles (encoding the first) seem to be UTF-8" in "".join(warnings_of(report))


def test_the_table_of_sources_sorts_by_each_column(tmp_path: Path) -> None:
    for name, count in {"b": 1, "a": 3, "c": 2}.items():
        rows = [{"title": f"{name}{i}", "text": f"{name}{i}" + "阮兜佇台南，" * 30} for i in range(count)]
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    build_corpus(tmp_path / "in", tmp_path / "out", validation_fraction=0)
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    orders = re.findall(r'<tr style="--c0:(\d);--c1:\d;--c2:(\d);[^"]*"><td>(\w)', page)
    assert sorted(orders) == [("0", "0", "a"), ("1", "2", "b"), ("2", "1", "c")]
    assert all(f".sorts:has(#by{c}:checked) tr{{order:var(--c{c})}}" in page for c in range(11))
