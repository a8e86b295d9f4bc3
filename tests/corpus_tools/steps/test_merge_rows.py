"""Rows into articles: ordered, joined without inserting into or losing from a broken sentence."""

from itertools import pairwise
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_tools.documents import Row
from corpus_tools.filtering.deduplication import hash_names
from corpus_tools.steps.merge_rows import group_rows, join_rows
from corpus_tools.steps.row_kinds import RowKind


def test_a_date_that_straddles_rows_is_joined() -> None:
    assert join_rows(["佇2010.09.", "20）彼工。"])[0] == "佇2010.09.20）彼工。"


def test_a_closing_quote_joins_its_sentence() -> None:
    assert join_rows(["伊講：「好。", "」阮去。"])[0] == "伊講：「好。」阮去。"


def test_numbered_rows_in_sequence_are_paragraphs() -> None:
    assert join_rows(["目錄", "1. 春天", "2. 熱天"])[0] == "目錄\n1. 春天\n2. 熱天"


def test_rows_are_ordered_by_paragraph_id_and_titles_by_first_row() -> None:
    rows = [Row("b", "甲", None, 2), Row("c", "乙", None, 1), Row("a", "甲", None, 1)]
    assert list(map(list, group_rows(rows))) == [[2, 0], [1]]


def test_two_works_under_one_title_follow_one_another() -> None:
    rows = [Row(text, "甲", None, i) for text, i in (("a", 1), ("b", 2), ("c", 1), ("d", 2))]
    assert list(map(list, group_rows(rows))) == [[0, 1, 2, 3]]


def test_verse_numbers_begin_again_in_each_chapter() -> None:
    verses = [
        (chapter, verse) for chapter, verses in ((1, 3), (2, 5), (3, 1), (4, 4)) for verse in range(verses)
    ]
    rows = [Row(f"{chapter}:{verse}", "Kenehi", None, verse + 1) for chapter, verse in verses]
    assert list(map(list, group_rows(rows))) == [list(range(len(rows)))]


@given(st.permutations([1, 2, 3, 4, 5, 6]), st.integers(0, 6), st.sampled_from([1, 3, 6]))
def test_a_row_that_a_shuffled_file_has_twice_moves_no_other(ids: list[int], place: int, twice: int) -> None:
    """Unless only that row goes back, as where a second chapter begins."""
    shuffled = [*ids[:place], twice, *ids[place:]]
    found = [shuffled[i] for group in group_rows([Row("", "甲", None, k) for k in shuffled]) for i in group]
    first = [number for at, number in enumerate(found) if number not in found[:at]]
    in_order = all(after == twice for before, after in pairwise(shuffled) if after < before)
    assert sorted(found) == sorted(shuffled)
    assert in_order or first == [1, 2, 3, 4, 5, 6]


def test_chapters_whose_first_verses_are_not_there_stay_apart() -> None:
    verses = [3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 2, 3, 6, 7, 1, 2]
    rows = [Row("", "Kenehi", None, verse) for verse in verses]
    assert list(map(list, group_rows(rows))) == [list(range(len(rows)))]


def test_a_paragraph_in_two_rows_stays_whole() -> None:
    rows = [Row("", "甲", None, number) for number in (1, 2, 2, 3, 3)]
    assert list(map(list, group_rows(rows))) == [[0, 1, 2, 3, 4]]
    assert list(map(list, group_rows(rows[::-1]))) == [[4, 2, 3, 0, 1]]


def test_rows_without_a_title_stand_alone() -> None:
    assert list(map(list, group_rows([Row("a"), Row("b")]))) == [[0], [1]]


def test_across_files_only_the_same_author_is_the_same_article() -> None:
    rows = [Row("a", "序", "林", 1), Row("b", "序", "王", 1), Row("c", "序", "林", 2)]
    assert list(map(list, group_rows(rows, [0, 1, 2]))) == [[0, 2], [1]]


def test_an_author_named_in_some_rows_only_is_that_of_all() -> None:
    rows = [Row("a", "序", None, 1), Row("b", "序", "林", 2), Row("c", "序", "", 3)]
    assert list(map(list, group_rows(rows))) == [[0, 1, 2]]
    assert list(map(list, group_rows([*rows, Row("d", "序", "王", 1)]))) == [[0, 2], [1], [3]]


def test_a_row_without_an_author_is_not_given_to_another_file() -> None:
    rows = [Row("a", "序", "林", 1), Row("b", "序", None, 2)]
    assert list(map(list, group_rows(rows, [0, 0]))) == [[0, 1]]
    assert list(map(list, group_rows(rows, [0, 1]))) == [[0], [1]]


KINDS: list[RowKind] = ["window", "paragraph", "line"]
PIECES = [
    "阮佇遮",
    "。",
    "！",
    "」",
    "1（、.",
    " ",
    "\n",
    "Tai5-lam5",
    "khì",
    ".",
    "https://a.tw/",
    "www.",
    "NO.",
    "J.",
    "?",
]


@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=4).map("".join), max_size=8), st.sampled_from(KINDS)
)
def test_joining_only_adds_line_breaks_and_spaces(texts: list[str], kind: RowKind) -> None:
    joined, lines = join_rows(texts, kind)
    assert "".join(joined.split()) == "".join("".join(texts).split())
    assert len(joined) - len("".join(texts)) <= max(0, len(texts) - 1)
    assert lines == sorted(lines) and len(lines) == len(texts)


BROKEN = {
    "figure_behind_han": (["看圖1.", "2 的風景。照片No.", "5 阮兜。"], "看圖1.2 的風景。照片No.5 阮兜。"),
    "volume_and_pages": (["圖Vol.", "3 出矣。冊pp.", "12-13。"], "圖Vol.3 出矣。冊pp.12-13。"),
    "email": (["批寄去 abc@mail.", "example.com.tw 就好。"], "批寄去 abc@mail.example.com.tw 就好。"),
    "email_before_its_country": (["寄去 a@b.com.", "tw 就好。"], "寄去 a@b.com.tw 就好。"),
    "email_before_a_sentence": (["Siá khì a@b.com.", "Lí hó."], "Siá khì a@b.com.\nLí hó."),
    "address": (["看www.a.com.", "tw/b 好。"], "看www.a.com.tw/b 好。"),
    "degree": (["I tha̍k Ph.", "D. saⁿ nî."], "I tha̍k Ph.D. saⁿ nî."),
    "initials": (["Ti7 U.", "S.", "A. e5 lang5."], "Ti7 U.S.A. e5 lang5."),
    "small_initials": (["Pí-lūn e.", "g. chit-ê."], "Pí-lūn e.g. chit-ê."),
    "name": (["Goa2 kap Mr.", "Tan5 lai5."], "Goa2 kap Mr. Tan5 lai5."),
    "word_of_one_letter": (["Goa2 kap i.", "Lan2 lai5."], "Goa2 kap i.\nLan2 lai5."),
    "date": (["佇民國99.", "8.", "7 彼工"], "佇民國99.8.7 彼工"),
    "slashes": (["佇2019/", "12/31 暗。"], "佇2019/12/31 暗。"),
    "time": (["下晡3:", "30 開始。"], "下晡3:30 開始。"),
    "thousands": (["價數1,", "200箍。"], "價數1,200箍。"),
    "percent": (["佔50.", "5%。"], "佔50.5%。"),
    "tone_before_a_number": (
        ["I chiah8 8 liap8.", "9 tiam2 khi3,", "3 pai2"],
        "I chiah8 8 liap8. 9 tiam2 khi3, 3 pai2",
    ),
    "word_before_a_number": (["Goa2 khi3", "3 pai2. Khoan3 Fig3.", "1"], "Goa2 khi3 3 pai2. Khoan3 Fig3.1"),
    "letters_with_marks": (
        ["Góa kóng m̄", "thang kiâⁿ hit tiâu lō͘.", "Lí khì hit tiâu lō͘", "chia̍h-", "pn̄g."],
        "Góa kóng m̄ thang kiâⁿ hit tiâu lō͘.\nLí khì hit tiâu lō͘ chia̍h-pn̄g.",
    ),
    "tones_of_two_digits": (
        ["Ngai11 oi55", "hi55 toi24-ban11.", "Ngi11 m11 oi55.", "照片Fig12.", "3"],
        "Ngai11 oi55 hi55 toi24-ban11. Ngi11 m11 oi55.\n照片Fig12.3",
    ),
    "raised_tones": (["Tai⁵-oan⁵ e⁵ lang⁵.", "Li² mai³ lai⁵."], "Tai⁵-oan⁵ e⁵ lang⁵. Li² mai³ lai⁵."),
}


@pytest.mark.parametrize(("windows", "joined"), BROKEN.values(), ids=BROKEN)
def test_what_a_window_broke_is_whole_again(windows: list[str], joined: str) -> None:
    assert join_rows(windows)[0] == joined


ROMANISED = ["Góa", "kóng m̄", "chit tiâu lō͘", "lō͘7", "kiâⁿ", "khì.", "lō͘.", "Ū", "Ó.", ",", "佇", " ", "3"]


@given(
    st.lists(
        st.lists(st.sampled_from(ROMANISED), min_size=1, max_size=3).map("".join), min_size=2, max_size=4
    )
)
def test_composed_or_not_rows_are_joined_alike(texts: list[str]) -> None:
    composed, not_composed = ([normalize(form, text) for text in texts] for form in ("NFC", "NFD"))
    assert normalize("NFC", join_rows(not_composed)[0]) == join_rows(composed)[0]


def test_spaces_around_a_name_and_its_composition_are_no_part_of_it() -> None:
    names = [
        ("春天 的詩（一） ", "A"),
        ("春天\u3000 的詩(一)", " Ａ"),
        ("\u3000", None),
        ("Ta\u0302i", ""),
        ("T\xe2i", None),
        (" ", "B"),
    ]
    rows = [Row("阮", title, author) for title, author in names]
    assert list(map(list, group_rows(rows))) == [[0, 1], [2], [3, 4], [5]]
    assert len({hash_names(*name) for name in names}) == 4  # so also between files and parts of files
