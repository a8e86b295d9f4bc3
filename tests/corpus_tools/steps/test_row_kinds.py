"""What rows are taken for, by where they end."""

import random
import textwrap

import pytest
from msgspec import to_builtins

from corpus_tools.cli.warnings import warnings_of
from corpus_tools.documents import Row
from corpus_tools.steps.merge_rows import join_rows
from corpus_tools.steps.row_kinds import RowSample, kind_of_rows

SONG = ["一更更鼓月照山", "牽君的手摸心肝", "君來問娘欲按怎", "隨在阿君你心肝"]
ROWS = {
    "a song of four lines": (SONG, "line"),
    "lines of two clauses": ([f"{line} {line}" for line in SONG], "line"),
    "tone digits": (
        ["ThiN1 oo1 beh loh8-hoo7", "A1-kong1 giah8 ti5-thau5", "Kut8 ah kut8", "Koh kut8"],
        "line",
    ),
    "two rows prove nothing": (SONG[:2], "window"),
    "short windows": (["佇2010.09.", "20）彼工，", "伊去台南", "，阮去。"], "window"),
    "windows of a hundred": (["阮兜佇台南的海邊仔" * 12] * 4, "window"),
    "a sentence among them": ([*SONG, "伊講好。", "尾"], "window"),
    "messages with signs, some of them long": (
        [
            "阮兜佇台南的海邊仔" * 6,
            *["好啊😂", "等咧～", "恁佇佗位(笑)", "❤️", "我欲去食飯", "chin hó lō͘", "XD"],
        ]
        * 2
        + ["阮兜佇台南的海邊仔" * 6, "XD"],
        "paragraph",
    ),
    "windows and a few headings": (
        [*["阮兜佇台南的海邊仔" * 12] * 3, "春天", "阮兜佇台南的海邊仔，"] * 3,
        "window",
    ),
}
WORDS = [
    *(
        "ka",
        "kite",
        "te",
        "Atua",
        "i",
        "marama",
        "he",
        "pai",
        "wehea",
        "e",
        "pouri",
        "huaina",
        "ko",
        "Awatea",
        "hanga",
    ),
    *(
        "rangi",
        "me",
        "whenua",
        "kahore",
        "ahua",
        "kau",
        "mata",
        "hohonu",
        "takoto",
        "runga",
        "wairua",
        "wai",
        "nga",
    ),
]


def test_windows_that_overlap_are_seen_and_said() -> None:
    text = "".join(f"阮第{i}工去台南，伊第{i}暗轉來高雄。" for i in range(40))
    evidence = kind_of_rows([Row(text[at : at + 60], "冊") for at in range(0, 600, 45)])
    assert (evidence.kind, evidence.overlapping) == ("window", evidence.followed)
    sources = [{"source": "a.json", "rows_are": to_builtins(evidence), "characters": 9, "kept": 9}]
    report = {"characters": {"read": 9, "kept": 9}, "sources": sources, "files_sharing_titles": {}}
    assert "rows begin with the end of the row before them (13 of 13" in "".join(warnings_of(report))
    apart = kind_of_rows([Row(text[at : at + 60], "冊") for at in range(0, 600, 60)])
    assert (
        apart.overlapping
        == 0
        == kind_of_rows([Row(line, "歌") for line in [*SONG, *SONG[-1:] * 9]]).overlapping
    )


@pytest.mark.parametrize(("texts", "kind"), ROWS.values(), ids=ROWS)
def test_few_rows_are_windows_unless_no_window_is_so_short(texts: list[str], kind: str) -> None:
    assert kind_of_rows([Row(text, "歌") for text in texts]).kind == kind


def test_short_windows_of_one_length_are_no_verse() -> None:
    sentence = (
        "我beh去Tâi-pak chhōe朋友，koh轉來。伊kóng：「Lí m̄-thang bē kì-tit！」阮lóng笑--khí-lâi，chhù-bī ê。"
    )
    text = sentence * 20
    windows = [text[at : at + 67] for at in range(0, len(text), 67)]
    stripped = [Row(window.strip(), "濫") for window in windows]
    assert kind_of_rows(stripped).kind == "window"
    seen = kind_of_rows([Row(window, "濫") for window in windows])
    assert (seen.kind, join_rows(windows, seen.kind, seen.spaces)[0].replace("\n", "")) == ("window", text)
    verse = [Row(line * 3, "歌") for line in SONG * 5]  # of one length, but without words of letters
    assert kind_of_rows(verse).kind == "line"


@pytest.mark.parametrize("width", range(80, 200, 15))
def test_windows_cut_between_words_or_anywhere_become_the_text_again(width: int) -> None:
    text = " ".join(random.Random(width).choices(WORDS, k=2000))
    for windows, spaces in (
        (textwrap.wrap(text, width), "lost"),
        ([text[at : at + width] for at in range(0, len(text), width)], "kept"),
        ([text[at : at + width].strip() for at in range(0, len(text), width)], "stripped"),
    ):
        rows = [Row(window, "Kenehi") for window in windows]
        seen, sample = kind_of_rows(rows), RowSample()
        for row in rows:
            sample.add(row)
        kind = "line" if spaces == "lost" and width < 120 else "window"  # as text files are wrapped
        assert (seen.kind, seen.spaces) == (kind, spaces) and sample.judge() == seen
        assert join_rows(windows, seen.kind, seen.spaces)[0].replace("\n", " ") == text
