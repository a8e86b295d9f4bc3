"""Every accepted format gives the same rows; every kind of damage gives one named error."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus_tools.documents import Row
from corpus_tools.errors import InputError
from corpus_tools.files.contents import ReadLimits
from corpus_tools.files.readers import read_rows
from corpus_tools.files.row_values import BadRows
from corpus_tools.files.sources import Source, find_sources

ROWS = [Row("阮佇遮，\n好。", "甲", "林", 1), Row("Lí hó, lán.", "甲", "林", 2)]
RECORDS = [
    {"title": r.title, "author": r.author, "text": r.text, "paragraph_id": r.paragraph_id, "translator": "王"}
    for r in ROWS
]
JSON_LIST = json.dumps(RECORDS, ensure_ascii=False).encode()
JSON_LINES = b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in RECORDS)
CSV = (
    '\ufeffid,title,author,text,paragraph_id\n1,甲,林,"阮佇遮，\n好。",1\n2,甲,林,"Lí hó, lán.",2\n'.encode()
)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", JSON_LIST),
        ("a.json", b"\xef\xbb\xbf" + JSON_LIST),
        ("a.json", JSON_LINES),
        ("a.jsonl", JSON_LINES),
        ("a.csv", CSV),
        ("a.json.gz", gzip.compress(JSON_LIST)),
        ("a.jsonl.zst", zstandard.compress(JSON_LINES)),
    ],
)
def test_formats_agree(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert read_rows(Source(name, tmp_path / name), {}) == ROWS


def test_parquet_reads_the_same(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "a.parquet")
    assert read_rows(Source("a.parquet", tmp_path / "a.parquet"), {}) == ROWS


def test_a_text_file_is_one_article_of_true_lines(tmp_path: Path) -> None:
    (tmp_path / "海邊.txt").write_text("阮佇遮\n好。", encoding="utf-8")
    assert read_rows(Source("海邊.txt", tmp_path / "海邊.txt"), {}) == [
        Row("阮佇遮\n", "海邊"),
        Row("好。", "海邊"),
    ]


def test_other_names_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"內容": "阮", "標題": "甲", "text": 5}]', encoding="utf-8")
    fields = {"text": "內容", "title": "標題"}
    (row,) = read_rows(Source("a.json", tmp_path / "a.json"), fields)
    assert (row.text, row.title) == ("阮", "甲")


BROKEN = {
    "twice.csv": (b"text,title,text\na,b,c\n", "two columns are named 'text'; rename or remove one"),
    "nan_text.json": (b'[{"text": NaN}]', "row 1: the text is nan; wanted text"),
    "columns.json": (
        b'{"title": ["a", "b"], "text": ["b"]}',
        "2 values of 'title' for 1 texts.*write it again",
    ),
    "numbers.json": (
        b'{"title": {"0": "a"}, "text": {"1": "b"}}',
        "1 values of 'title' for 1 texts, or other ones",
    ),
    "split.json": (
        b'{"columns": ["text"], "data": [["a", "b"]]}',
        "a row has not 1 values, as its columns say",
    ),
    "mixed.json": (b'[{"text": ["a", 1]}]', r"row 1: the text is \['a', 1\]; wanted text"),
    "nan_surrogate.json": (b'[{"title": NaN, "text": "\\ud800"}]', "row 1.*surrogate"),
    "behind.json": (b'[{"text": "a"}] {"text": "b"}', "row 2.*expected the end, or another list"),
    "cut.json": (b'[{"text": "a"}, {"text": "b', "row 2"),
    "bytes.json": (b'[{"text": "a\xff"}]', "0xff is not UTF-8"),
    "surrogate.json": (b'[{"text": "a"}, {"text": "\\ud800"}]', "row 2.*surrogate"),
    "key.json": (b'[{"content": "a", "title": "b"}]', "row 1: no 'text' among content, title"),
    "type.json": (b'[{"text": 7}]', "row 1: the text is 7; wanted text"),
    "title.json": (b'[{"text": "a", "title": ["b"]}]', r"row 1: title is \['b'\]; wanted text"),
    "utf16.json": (b"\xff\xfe[\0a", "its byte order mark says UTF-16, which it is not"),
    "utf16.csv": ("text,title".encode("utf-16-le"), "is UTF-16 or UTF-32; save it as UTF-8"),
    "utf16.txt": (
        "阮佇遮\n好".encode("utf-16-be"),
        "reads as UTF-16BE: 阮佇遮好.*iconv -f UTF-16BE -t UTF-8 ",
    ),
    "big5.txt": (
        "阮佇台南".encode("cp950", "ignore"),
        r"is not UTF-8.*Big5.*iconv -f CP950 -t UTF-8 big5.txt > ",
    ),
    "gbk.json": (
        '[{"text": "我们在台南"}]'.encode("gbk"),
        "GB 18030 or GBK.*iconv -f GB18030 -t UTF-8 gbk.json > ",
    ),
    "latin.txt": ("Tâi-gí".encode("latin-1"), "reads as CP1252: Tâi-gí.*iconv -f CP1252"),
    "object.json": (b'{"a": [1], "b": 2}', "keys a, b, no 'text' and no lists of objects.*--fields.rows"),
    "objects.json": (
        b'{"a": [{"text": "a"}], "b": [{"text": "b"}]}',
        "and 2 lists of objects.*--fields.rows",
    ),
    "cut-object.json": (b'{"data": [{"text": "a"},\n {"text": "b"', r"\(line 2\).*damaged or cut off"),
    "id.json": (b'[{"text": "a", "paragraph_id": 1.5}]', "paragraph_id"),
    "scalar.json": (b'"text"', "wanted a list"),
    "deep.json": (b'[{"text": ' + b"[" * 100_000, "row 1"),
    "cut.jsonl": (b'{"text": "a"}\n{"text": ', "row 2|line 2"),
    "columns.csv": (b"a,b\n1,2\n", "no column 'text' among a, b"),
    "headerless.tsv": (
        b"1\tmri\tAe\n",
        "with --fields.text. If that is a row, put a line of names above it.",
    ),
    "ragged.csv": (b"text,title\na,b,c\n", "row 1: 3 values for 2 columns"),
    "bytes.txt": (b"a\n\xff", "line 2"),
    "cut.json.gz": (gzip.compress(JSON_LIST)[:-9], "damaged or cut off"),
    "cut.json.zst": (zstandard.compress(JSON_LIST)[:-5], "damaged or cut off"),
    "no.parquet": (b"PAR1", "not a readable Parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    data, message = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        read_rows(Source(name, tmp_path / name), {})
    assert name in str(error.value)


def test_a_huge_row_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": "阮" * 5_000_000}]), encoding="utf-8")
    assert len(read_rows(Source("a.json", tmp_path / "a.json"), {})[0].text) == 5_000_000


def test_sources_are_found_in_depth_and_sorted(tmp_path: Path) -> None:
    for name in ("b.json", "小說/a.jsonl.gz", ".hidden/c.json", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sources, passed_over = find_sources([tmp_path])
    assert [s.name for s in sources] == ["b.json", "小說/a.jsonl.gz"] and passed_over == ["notes.md"]


@pytest.mark.posix("a link, which Windows lets only administrators make")
def test_a_file_found_twice_is_read_once_under_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "b.json").touch()
    (tmp_path / "a.json").symlink_to("b.json")
    sources, _ = find_sources([tmp_path, tmp_path / "b.json"])
    assert [s.name for s in sources] == ["b.json"]
    sources, _ = find_sources([tmp_path])
    assert [s.name for s in sources] == ["a.json"]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".txt", ".parquet", ".json.gz", ".json.zst"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_readers_give_rows_or_a_named_error(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    valid = {".json": JSON_LIST, ".jsonl": JSON_LINES, ".csv": CSV}.get(suffix, JSON_LIST)
    start = data.draw(st.integers(0, len(valid)))
    end = data.draw(st.integers(start, len(valid)))
    damaged = valid[:start] + data.draw(st.binary(max_size=12)) + valid[end:]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(damaged)
    try:
        rows = read_rows(Source(path.name, path), {})
    except InputError as error:
        assert path.name in str(error)
    else:
        assert all(isinstance(row.text, str) for row in rows)


def test_objects_may_hold_the_rows_or_be_one(tmp_path: Path) -> None:
    record = {"text": "阮", "title": "甲"}
    for number, value in enumerate([{"data": [record]}, record, {"n": 1, "rows": [record], "tags": ["a"]}]):
        for indent in (None, 1):
            path = tmp_path / f"{number}.json"
            path.write_text(json.dumps(value, ensure_ascii=False, indent=indent), encoding="utf-8")
            assert read_rows(Source(path.name, path), {}) == [Row("阮", "甲")]


@pytest.mark.parametrize(
    ("name", "data", "numbers"),
    [
        ("a.json", b'[{"text": "a"}, {"text": "\\ud800"}, {"text": 7}, {}, {"text": "b"}]', {2, 3, 4}),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n\n{"text": "b"}\n', {2}),
        ("a.csv", b"text,title\na,b\na,b,c\nb,b\n", {2}),
    ],
)
def test_bad_rows_can_be_left_out(name: str, data: bytes, numbers: set[int], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    bad = BadRows()
    rows = read_rows(Source(name, tmp_path / name), {}, bad=bad)
    assert set(bad) == numbers and [row.text for row in rows if row.text] == ["a", "b"]
    assert all(rows[number - 1] == Row("") for number in numbers)


def test_a_file_without_a_good_row_is_a_bad_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"content": "a"}, {"content": "b"}]')
    with pytest.raises(InputError, match=r"row 1: no 'text' among content"):
        read_rows(Source("a.json", tmp_path / "a.json"), {}, bad=BadRows())


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("filling", [b" ", b"\n"])
def test_a_file_that_expands_beyond_reason_is_refused(suffix: str, filling: bytes, tmp_path: Path) -> None:
    data = filling * (80 << 20)
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(gzip.compress(data) if suffix == "gz" else zstandard.compress(data))
    with pytest.raises(InputError, match=r"more than 64 MB when decompressed.*--max_expansion"):
        read_rows(Source(path.name, path), {})


def test_a_parquet_file_that_expands_beyond_reason_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [" " * 1_000_000] * 80}), path)
    with pytest.raises(InputError, match=r"more than 64 MB when decompressed.*--max_expansion"):
        read_rows(Source(path.name, path), {})
    assert len(read_rows(Source(path.name, path), {}, limits=ReadLimits(max_expansion=1_000_000))) == 80


def test_a_row_beyond_the_limit_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' + json.dumps({"text": "a" * 1_000_001}))
    with pytest.raises(InputError, match=r"row 2: the text has 1,000,001 characters.*--max_row_mchars"):
        read_rows(Source(path.name, path), {}, limits=ReadLimits(max_row_mchars=1))
    assert len(read_rows(Source(path.name, path), {}, limits=ReadLimits(max_row_mchars=2))) == 2
