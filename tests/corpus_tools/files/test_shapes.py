"""Shapes of files that people have give the rows that they hold, read whole or streamed."""

from pathlib import Path

import pytest
from msgspec.structs import astuple

from corpus_tools.documents import Row
from corpus_tools.files.contents import ReadLimits
from corpus_tools.files.readers import read_rows
from corpus_tools.files.row_values import BadRows
from corpus_tools.files.sources import Source
from corpus_tools.files.streams import Stream

# Two lines at a time, as YouTube's captions roll; and what is only said again.
ROLLING = "".join(
    f"00:00:{i:02}.000 --> 00:00:{i:02}.900 align:start\n{f'kupu {i - 1}' if i else ' '}\n"
    f"kupu<00:00:{i:02}.500><c> {i}</c>\n\n00:00:{i:02}.900 --> 00:00:{i:02}.910 align:start\nkupu {i}\n \n\n"
    for i in range(9)
)
SAID_AGAIN = "".join(
    f"00:{i:02}.000 --> 00:{i:02}.900\n{('No!', f'Yes {i}')[i % 3 // 2]}\n\n" for i in range(12)
)
MANY = 30 * '{"title": "甲", "text": "阮"}\n'.encode()
SHAPES: dict[str, tuple[bytes, list[Row]]] = {
    "semicolons.csv": ("title;text\n甲;阮,恁\n".encode(), [Row("阮,恁", "甲")]),
    "named.csv": ("sep=|\ntitle|text\n甲|阮\n".encode(), [Row("阮", "甲")]),
    "tabs.csv": ("\ufefftitle\ttext\r\n甲\t阮\r\n".encode(), [Row("阮", "甲")]),
    "commas.tsv": ("title,text\n甲,阮\n".encode(), [Row("阮", "甲")]),
    "one_column.csv": ("text\n「阮；恁」\n".encode(), [Row("「阮；恁」")]),
    "speech.tsv": (
        b'title\ttext\n1\t"Kia ora," he said.\n2\t"He said\n3\tno."\n4\t"a ""b"" c"\r\n5\t"d\n\n\te"\n6\t"f',
        [
            *(Row('"Kia ora," he said.', "1"), Row('"He said', "2"), Row('no."', "3"), Row('a "b" c', "4")),
            *(Row("d\n\n\te", "5"), Row('"f', "6")),
        ],
    ),
    "only_speech.tsv": (b'text\n"Kia ora," he said.\n"a\nb"\n', [Row('"Kia ora," he said.'), Row("a\nb")]),
    "rolling.vtt": (f"WEBVTT\n\n{ROLLING}".encode(), [Row(f"kupu {i}\n", "rolling") for i in range(9)]),
    "again.vtt": (
        SAID_AGAIN.encode(),
        [Row(f"{line}\n", "again") for i in (2, 5, 8, 11) for line in ("No!", "No!", f"Yes {i}")],
    ),
    "texts.json": ('["阮", "恁"]'.encode(), [Row("阮"), Row("恁")]),
    "paragraphs.json": ('[{"title": "甲", "text": ["阮", "恁"]}]'.encode(), [Row("阮\n恁\n", "甲")]),
    "verse.json": ('{"title": "甲", "text": ["阮", "恁"]}'.encode(), [Row("阮\n恁\n", "甲")]),
    "nan.json": (b'[{"title": NaN, "text": "a: NaN", "paragraph_id": NaN}]', [Row("a: NaN")]),
    "nan.jsonl": (b'{"title": NaN, "text": "a"}\n{"text": "b"}\n', [Row("a"), Row("b")]),
    "objects.json": (b'{"text": "a"}{"text": "b"}', [Row("a"), Row("b")]),
    "lists_in_turn.json": (
        b'[{"text": "a"}]\n[{"text": "b"}, {"text": "c"}]',
        [Row("a"), Row("b"), Row("c")],
    ),
    "wide_names.csv": ("ｔｉｔｌｅ,ＴＥＸＴ\n甲,阮\n".encode(), [Row("阮", "甲")]),
    "case.json": ('[{"Title": "甲", "Text": "阮", "Paragraph ID": 1}]'.encode(), [Row("阮", "甲", None, 1)]),
    "case.jsonl": ('{"text": "a"}\n{"text": "b", "TITLE": "甲"}\n'.encode(), [Row("a"), Row("b", "甲")]),
    # Where the first rows' names are not the later ones'.
    "later_case.jsonl": (
        MANY + '{"Title": "乙", "text": "恁"}\n{"標題": "丙", "text": "\\"Title\\": "}\n'.encode(),
        [Row("阮", "甲")] * 30 + [Row("恁", "乙"), Row('"Title": ', "丙")],
    ),
    "later_case.json": (
        b"["
        + MANY.replace(b"\n", b",")
        + '{"title": null, "text": "伊"}, {"TITLE": "乙", "text": "恁"}]'.encode(),
        [Row("阮", "甲")] * 30 + [Row("伊"), Row("恁", "乙")],
    ),
    "case.csv": ("TITLE,TEXT\n甲,阮\n".encode(), [Row("阮", "甲")]),
    "han.tsv": ("標題\t作者\t內容\n甲\t林\t阮\n".encode(), [Row("阮", "甲", "林")]),
    "han.json": ('{"data": [{"標題": "甲", "內容": "阮"}]}'.encode(), [Row("阮", "甲")]),
    "one.json": ('{\n "Title": "甲",\n "TEXT": "阮"\n}'.encode(), [Row("阮", "甲")]),
    "both.json": (b'[{"text": "a", "Text": "b", "TITLE": "c", "Title": "d"}]', [Row("a")]),
    "columns.json": (
        '{"title": {"0": "甲", "5": null}, "text": {"0": "阮", "5": "恁"}, "n": 1}'.encode(),
        [Row("阮", "甲"), Row("恁")],
    ),
    "lists.json": (
        '{"Title": ["甲", "乙"], "Text": ["阮", "恁"]}'.encode(),
        [Row("阮", "甲"), Row("恁", "乙")],
    ),
    "split.json": (
        '{"columns": ["title", "text"], "index": [0, 1], "data": [["甲", "阮"], [null, "恁"]]}'.encode(),
        [Row("阮", "甲"), Row("恁")],
    ),
    "wide.csv": ("title,text\r\n甲,阮\r\n".encode("utf-16"), [Row("阮", "甲")]),
    "wide.json": ('[{"text": "阮"}]'.encode("utf-32"), [Row("阮")]),
    "big_end.jsonl": (
        b"\xfe\xff" + '{"text": "阮"}\n{"text": "恁"}\n'.encode("utf-16-be"),
        [Row("阮"), Row("恁")],
    ),
    "wide.txt": (b"\xfe\xff" + "阮佇遮".encode("utf-16-be"), [Row("阮佇遮", "wide")]),
    "a.srt": (
        "\ufeff1\r\n00:00:01,000 --> 00:00:03,500\r\n<i>你好，</i>\r\n{\\an8}我。\r\n\r\n2\r\n0:00:04.0 --> 0:00:06.0"
        "\r\n1\r\n".encode(),
        [Row("你好，\n", "a"), Row("我。\n", "a"), Row("1\n", "a")],
    ),
    "b.vtt": (
        "WEBVTT - 註\nKind: captions\n\nSTYLE\n::cue {}\n\nintro\n00:01.000 --> 00:03.500 line:0\n"
        "<v.loud 阿英>食飽<00:02.000><c>未</c>？\n\nNOTE\n註\n".encode(),
        [Row("阿英：食飽未？\n", "b")],
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_people_have_are_read(tmp_path: Path, name: str) -> None:
    data, rows = SHAPES[name]
    (tmp_path / name).write_bytes(data)
    wanted = list(map(astuple, rows))  # where names are mapped, rows are of a class of their own
    assert list(map(astuple, read_rows(Source(name, tmp_path / name), {}))) == wanted
    if name.endswith(("csv", "tsv", "json", "jsonl")):  # and the same from a file that is streamed
        with Stream(Source(name, tmp_path / name), {}, ReadLimits(), BadRows()) as stream:
            assert (found := stream.rows()) is None or list(map(astuple, found)) == wanted
