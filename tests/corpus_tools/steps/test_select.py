"""Which articles, paragraphs and documents stay, and under which reason the others go."""

from pathlib import Path

import pytest

from corpus_tools.pipeline import build_corpus
from tests.corpus_tools.corpus_folder import LONG, documents, rows_of, write_rows


def test_of_equal_articles_the_first_in_sorted_order_stays(tmp_path: Path) -> None:
    for names in (("a", "b"), ("b", "a")):
        folder = tmp_path / "".join(names)
        for name, title in zip(names, "甲乙", strict=True):
            write_rows(folder / "in" / f"{name}.json", rows_of(title, LONG * 3))
        build_corpus([folder / "in"], folder / "out")
        assert [d["title"] for d in documents(folder / "out")] == ["甲" if names[0] == "a" else "乙"]


def test_repeated_articles_and_paragraphs_go(tmp_path: Path) -> None:
    paragraphs = [f"{LONG}第{i}擺。" for i in range(5)]
    write_rows(tmp_path / "in" / "a.json", rows_of("甲", *paragraphs[:4]) + rows_of("乙", *paragraphs[:4]))
    write_rows(tmp_path / "in" / "b.json", rows_of("丙", *paragraphs[2:]) + rows_of("丁", LONG * 2 + "尾。"))
    report = build_corpus([tmp_path / "in"], tmp_path / "out", validation_fraction=0, min_chars=20)
    assert report["rows"]["dropped"] == {"duplicate_article": 4, "duplicate_paragraph": 2}
    assert [d["title"] for d in documents(tmp_path / "out")] == ["甲", "丙", "丁"]


def test_an_empty_article_does_not_shift_which_paragraphs_repeat(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "in" / "a.json",
        rows_of("甲", "") + rows_of("乙", "頭。", f"好\n{LONG}") + rows_of("丙", LONG),
    )
    report = build_corpus([tmp_path / "in"], tmp_path / "out", min_chars=5, validation_fraction=0)
    assert report["rows"]["dropped"] == {"duplicate_paragraph": 1, "empty": 1}
    assert [d["text"] for d in documents(tmp_path / "out")] == [f"頭。\n好\n{LONG}"]


def test_a_refrain_stays_in_its_own_article_and_leaves_the_next_one(tmp_path: Path) -> None:
    write_rows(tmp_path / "in" / "a.json", rows_of("甲", "頭。", LONG, "中。", LONG))
    write_rows(tmp_path / "in" / "b.json", rows_of("乙", LONG, "尾。", LONG))
    report = build_corpus([tmp_path / "in"], tmp_path / "out", min_chars=1, validation_fraction=0)
    assert report["rows"]["dropped"] == {"duplicate_paragraph": 2}
    assert [d["text"] for d in documents(tmp_path / "out")] == [f"頭。\n{LONG}\n中。\n{LONG}", "尾。"]


@pytest.mark.parametrize("ending", [".txt", ".srt", ".json"])
def test_a_line_that_songs_share_stays_in_each(tmp_path: Path, ending: str) -> None:
    refrain = "Yn-mes a'n chy, yn-mes a'n dre, ni a gan war an forth"
    for i in range(2):
        song = "\n".join([f"An mor yw glas, {i}", refrain, "ha my a gar ow gwlas", refrain])
        path = write_rows(tmp_path / "in" / f"{i}{ending}", [{"title": f"{i}", "text": song}])
        if ending != ".json":
            path.write_text(
                f"00:00:01,0 --> 00:00:02,0\n{song}\n"[26 * (ending == ".txt") :], encoding="utf-8"
            )
    report = build_corpus([tmp_path / "in"], tmp_path / "out", min_chars=1, validation_fraction=0)
    assert not report["rows"]["dropped"]
    assert [d["text"].count(refrain) for d in documents(tmp_path / "out")] == [2, 2]


def test_text_of_the_questions_is_dropped_across_a_line_break(tmp_path: Path) -> None:
    questions = tmp_path / "questions.csv"
    passage = "彼工透早，阿母叫我緊起床，講外口有一陣鳥仔。"
    questions.write_text(f"\ufeffID,前文,題幹\n12537,{passage},佗一个著？\n", encoding="utf-8")
    planted = ["彼工透早！阿母叫我。", "緊起床講外口有一陣鳥仔。"]
    write_rows(tmp_path / "in" / "a.json", rows_of("甲", LONG * 3, *planted, "尾" + LONG[:-1] * 3))
    report = build_corpus([tmp_path / "in"], tmp_path / "out", decontaminate=questions)
    assert report["rows"]["dropped"] == {"contaminated": 2}
    assert {h["question"] for h in report["overlaps"]} == {"12537"}
    assert "鳥仔" not in "".join(d["text"] for d in documents(tmp_path / "out"))
    characters = report["characters"]
    spent = sum(characters["removed_by_rule"].values()) + sum(characters["dropped"].values())
    read = characters["read"] + characters["line_breaks_added"]
    assert read == spent + characters["edges"] + characters["kept"]


def test_a_question_with_commas_without_quotes_is_found_whole(tmp_path: Path) -> None:
    clauses = [clause for clause in LONG.replace("。", "，").split("，") if clause]
    (tmp_path / "questions.csv").write_text(
        f"ID,題幹,選項1\n7,佗一个？,{','.join(clauses)}\n", encoding="utf-8"
    )
    write_rows(tmp_path / "in" / "a.json", rows_of("甲", "別段，伊佇高雄。" * 20, LONG))
    report = build_corpus(
        tmp_path / "in", tmp_path / "out", decontaminate=tmp_path / "questions.csv", validation_fraction=0
    )
    assert report["rows"]["dropped"]["contaminated"] == 1 and report["overlaps"][0]["question"] == "7"


def test_only_simplified_articles_are_converted_and_only_when_asked(tmp_path: Path) -> None:
    simplified = "这个时候，我们还没听说过这样的语言，他们说话的时候总是很认真。" * 5
    taigi = "阮佇遮食飯，伊毋知影𪜶攏欲去佗位，个个攏講台語，庄跤的人才知。" * 5
    write_rows(tmp_path / "in" / "a.json", [*rows_of("甲", simplified), *rows_of("乙", taigi)])
    report = build_corpus([tmp_path / "in"], tmp_path / "out", convert_simplified=True)
    texts = {d["title"]: d["text"] for d in documents(tmp_path / "out")}
    assert texts["甲"].startswith("這個時候，我們還沒聽說過") and texts["乙"] == taigi
    assert report["articles"]["converted"] == 1


def test_documents_that_are_not_taigi_can_be_left_out(tmp_path: Path) -> None:
    mandarin = "他們今天早上去學校上課，下午回家寫作業，晚上看書。" * 6
    write_rows(tmp_path / "in" / "a.json", [*rows_of("甲", mandarin), *rows_of("乙", LONG * 4)])
    report = build_corpus([tmp_path / "in"], tmp_path / "out", min_taigi_score=0.2, validation_fraction=0)
    assert report["rows"]["dropped"] == {"not_taigi": 1}
