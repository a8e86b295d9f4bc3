import csv
import gzip
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.questions import Question, read_questions, rotate_options

TRAIN = "文章,問題,選項1,選項2,選項3,選項4,正確答案\n"
TEST = "ID,前文,題幹,選項1,選項2,選項3,選項4\n"


def write(folder: Path, text: str, name: str = "questions.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def read_row(folder: Path, row: str, header: str = TRAIN) -> Question:
    return read_questions(write(folder, header + row + "\n"), need_answers=True)[0]


def test_the_training_file(tmp_path: Path) -> None:
    path = write(tmp_path, TRAIN + "阿明去市仔。,阿明去佗位？,市仔,學校,厝--lìn,海邊,1\n")
    assert read_questions(path, need_answers=True) == [
        Question("1", "阿明去市仔。", "阿明去佗位？", ("市仔", "學校", "厝--lìn", "海邊"), 1, 1)
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_test_file_with_or_without_bom_and_with_newlines_inside_quotes(
    tmp_path: Path, encoding: str
) -> None:
    text = TEST + '12537,"第一逝\r\n第二逝，""伊""講",題,一,二,,二\r\n22537,文,題,一,二,三,四\r\n'
    first, second = read_questions(write(tmp_path, text, encoding=encoding), need_answers=False)
    assert first == Question("12537", '第一逝\n第二逝，"伊"講', "題", ("一", "二", "", "二"), None, 1)
    assert second.row == 2


def test_columns_of_both_files_in_any_order_with_others_between(tmp_path: Path) -> None:
    text = "資料來源,正確答案,選項２, 選項1,選項3,選項4,題幹,文章,id\n冊,4,二,一,三,四,問,文,A7\n"
    question = read_questions(write(tmp_path, text), need_answers=True)[0]
    assert question == Question("A7", "文", "問", ("一", "二", "三", "四"), 4, 1)


def test_other_columns_are_mapped_by_field_or_by_usual_name(tmp_path: Path) -> None:
    path = write(tmp_path, "context,問題,A,選項2,選項3,選項4,key\n文,問,一,二,三,四,3\n")
    columns = {"passage": "context", "選項1": "A", "answer": "key"}
    question = read_questions(path, columns, need_answers=True)[0]
    assert (question.passage, question.options[0], question.answer) == ("文", "一", 3)
    with pytest.raises(InputError, match="no field 'passages'"):
        read_questions(path, {"passages": "context"}, need_answers=True)


@pytest.mark.parametrize(("cell", "answer"), [("１", 1), ('" 2 "', 2), ("3.0", 3), ("　４", 4)])
def test_answers_may_be_full_width_or_spaced(tmp_path: Path, cell: str, answer: int) -> None:
    assert read_row(tmp_path, f"文,問,一,二,三,四,{cell}").answer == answer


@pytest.mark.parametrize("cell", ["", "5", "0", "A", "12", "1,2"])
def test_an_unusable_answer_is_named(tmp_path: Path, cell: str) -> None:
    with pytest.raises(InputError, match=r"row 1 \(line 2\): the answer is .* Write 1, 2, 3 or 4"):
        read_row(tmp_path, f'文,問,一,二,三,四,"{cell}"')


def test_test_questions_need_no_answers_but_keep_good_ones(tmp_path: Path) -> None:
    path = write(tmp_path, TRAIN + "文,問,一,二,三,四,\n文,問,一,二,三,四,2\n")
    assert [question.answer for question in read_questions(path, need_answers=False)] == [None, 2]


@pytest.mark.parametrize(
    ("row", "passage", "question", "source"),
    [
        ("阿明食飯,食菜,食肉。,伊食啥？,飯,菜,肉,攏有,4", "阿明食飯,食菜,食肉。", "伊食啥？", None),
        ("甲,乙,問題？,一,二,三,四,2", "甲,乙", "問題？", None),
        ("甲。,乙。,下列何者正確,一,二,三,四,2", "甲。,乙。", "下列何者正確", None),
        ("Lí hó, lán lâi-khì.,Lâi-khì tó-uī?,一,二,三,四,1", "Lí hó, lán lâi-khì.", "Lâi-khì tó-uī?", None),
        ("甲。,照文章,這是啥？,一,二,三,四,2", "甲。", "照文章,這是啥？", None),
        ("甲。,這是啥？,一,二,三,四,2,冊,頁", "甲。", "這是啥？", "冊,頁"),
        ("甲,乙。,這是啥？,一,二,三,四,2,冊", "甲,乙。", "這是啥？", "冊"),
    ],
)
def test_unquoted_commas_are_put_back_where_there_is_one_way(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    row: str,
    passage: str,
    question: str,
    source: str | None,
) -> None:
    header = TRAIN if source is None else TRAIN.replace("\n", ",資料來源\n")
    with caplog.at_level(logging.WARNING):
        found = read_row(tmp_path, row, header)
    assert (found.passage, found.question) == (passage, question)
    assert found.answer is not None
    assert "rows [1]" in caplog.text


@pytest.mark.parametrize(
    "row",
    [
        "甲。,伊有偌濟錢？,1,200箍,二百箍,三百箍,四百箍,1",  # the comma of an option: which one?
        "甲。,下列何者正確,1,200箍,二百箍,三百箍,四百箍,1",
        "甲,乙,無標點的題目,一,二,三,四,1",  # nothing tells where the passage ends
        "甲,乙。,伊有偌濟錢？,1,200箍,二百箍,三百箍,四百箍,1",  # commas in two fields
        "甲,乙。,這是啥？,一,二,三,四,五",  # no answer at the end
    ],
)
def test_unquoted_commas_are_never_guessed(tmp_path: Path, row: str) -> None:
    with pytest.raises(
        InputError, match=r"row 1 \(line 2\): it has \d+ fields where the header has 7.*quotes"
    ):
        read_row(tmp_path, row)


def test_commas_are_not_put_back_where_no_answer_can_confirm_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it has 8 fields"):
        read_questions(write(tmp_path, TEST + "1,甲,乙。,這是啥？,一,二,三,四\n"), need_answers=False)


def test_ragged_rows_are_named_all_at_once_and_empty_cells_are_no_fields(tmp_path: Path) -> None:
    good = "文,問,一,二,三,四,1"
    text = TRAIN + f"{good},,,\n\n,,,,,,\n文,問,一,二\n{good}\n文,問\n"
    with pytest.raises(
        InputError, match=r"row 2 \(line 5\): it has 4 fields.*row 4 \(line 7\): it has 2 fields"
    ):
        read_questions(write(tmp_path, text), need_answers=True)
    assert len(read_questions(write(tmp_path, TRAIN + f"{good},,,\n\n,,,,,,\n"), need_answers=True)) == 1


def test_many_problems_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="And 7 rows more"):
        read_questions(write(tmp_path, TRAIN + "文,問\n" * 12), need_answers=True)


def test_repeated_and_empty_ids_are_refused_where_they_matter(tmp_path: Path) -> None:
    path = write(tmp_path, TEST + "7,文,題,一,二,三,四\n7,文,題,一,二,三,四\n,文,題,一,二,三,四\n")
    with pytest.raises(InputError, match=r"row 2: row 1 has ID 7 too.*row 3: the ID is empty"):
        read_questions(path, need_answers=False)
    assert len(read_questions(path, need_answers=False, unique_ids=False)) == 3


def test_long_passages_are_kept_whole(tmp_path: Path) -> None:
    assert read_row(tmp_path, f"{'阿' * 10_000},問,一,二,三,四,1").passage == "阿" * 10_000


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=20)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, st.integers(1, 4)), min_size=1, max_size=5))
def test_what_a_csv_writer_quotes_is_read_back_letter_by_letter(rows: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "questions.csv")
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([TRAIN.strip().split(","), *rows])
        questions = read_questions(path, need_answers=True)
    assert [(q.passage, q.question, *q.options, q.answer) for q in questions] == rows


def test_missing_columns_are_named_together_with_those_found(tmp_path: Path) -> None:
    path = write(tmp_path, "passage,問題,選項1,選項2,選項3\n文,問,一,二,三\n")
    with pytest.raises(
        InputError,
        match="no column 文章/前文, 選項4, 正確答案; its columns are passage, 問題, 選項1, 選項2, 選項3",
    ):
        read_questions(path, need_answers=True)


def test_two_columns_for_one_field_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than one column for the passage: '前文' and '文章'"):
        read_questions(write(tmp_path, "前文," + TRAIN + "甲," * 8 + "1\n"), need_answers=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (TRAIN.encode(), "has a header but no rows"),
        (TRAIN.encode("big5"), "not UTF-8"),
        ((TRAIN + '"文,問,一,二,三,四,1\n').encode(), "closing quote"),
        ((TRAIN + '"講"好"",問,一,二,三,四,1\n').encode(), "written twice"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "questions.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_questions(path, need_answers=True)


def test_absent_files_and_unknown_formats(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no file"):
        read_questions(tmp_path / "questions.csv", need_answers=True)
    with pytest.raises(InputError, match="none of the formats"):
        read_questions(write(tmp_path, "", "questions.xlsx"), need_answers=True)


def test_the_same_questions_from_gzip_json_lines_and_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = TRAIN + "文,問,一,二,三,,２\n"
    expected = read_questions(write(tmp_path, text), need_answers=True)
    record = {
        "文章": "文",
        "問題": "問",
        "選項1": "一",
        "選項2": "二",
        "選項3": "三",
        "選項4": None,
        "正確答案": 2,
    }
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n\n", encoding="utf-8")
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "a.parquet")
    for name in ("a.csv.gz", "a.jsonl", "a.parquet"):
        assert read_questions(tmp_path / name, need_answers=True) == expected
    with pytest.raises(InputError, match="line 1 is not JSON"):
        read_questions(write(tmp_path, "{", "b.jsonl"), need_answers=True)


def test_four_rotations_bring_every_option_to_every_place() -> None:
    one = Question("1", "", "", ("甲", "乙", "丙", "丁"), 3, 1)
    turned = [rotate_options(one, rotation) for rotation in range(4)]
    assert turned[0] is one
    assert turned[1].options == ("乙", "丙", "丁", "甲")
    assert [set(place) for place in zip(*(q.options for q in turned), strict=True)] == [set("甲乙丙丁")] * 4
