"""Pieces: bounded, cut at pauses, nothing lost but the white space at the cuts."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.cleaning.units import units_of
from corpus_tools.filtering.splitting import Syllables, split_spans, split_text

TEXT = st.text(st.sampled_from("阮佇𪜶𠢕。！？…」，\n -.ao0123\u0301\u030d\u0358"), max_size=300)


def test_closing_quotes_stay_with_their_sentence() -> None:
    assert split_text("伊講：「好！」" + "阮去。" * 3, 1, 9)[0] == "伊講：「好！」"


def test_romanised_text_splits_after_full_stops() -> None:
    assert split_text("Lí hó. Góa kiò A-bêng. Lí leh?", 1, 24) == ["Lí hó. Góa kiò A-bêng.", "Lí leh?"]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("Goa2 khoaN3 Dr. Lim5 lai5 chia2. I kong2 Prof. Tan5 bo5 lai5 a3. ", ("chia2.", "a3.")),
        ("Hit ni5 si7 1947. I ti7 Tai5-pak e5 chhu3, 2 goeh8 28. ", ("1947.", "28.")),
        ("Goa2 bo5 thiaN1-tioh8 i kong2 e5 oe7; koh-chai3 kong2 chit8 pai2, ", ("oe7;", "pai2,")),
    ],
)
def test_romanised_text_is_cut_at_its_stops_and_pauses(text: str, ends: tuple[str, str]) -> None:
    pieces = split_text(text * 20, 10, 160)
    assert len(pieces) > 5 and all(piece.endswith(ends) for piece in pieces)


def test_no_cut_inside_numbers_neutral_tones_or_combining_sequences() -> None:
    for text in ("1234567890" * 3 + "阮" * 10, "阮" * 8 + "chò--lâng", "阮" * 9 + "o\u030d\u0358" + "佇" * 9):
        pieces = split_text(text, 1, 11)
        assert "".join(pieces) == text
        for piece in pieces[1:]:
            assert not unicodedata.combining(piece[0]) and not piece.startswith("-")


@settings(max_examples=400, deadline=None)
@given(TEXT, st.integers(1, 20), st.integers(20, 60))
def test_pieces_are_bounded_lose_nothing_and_split_to_themselves(text: str, low: int, high: int) -> None:
    pieces = split_text(text, low, high)
    assert all(0 < len(piece) <= high for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    assert all(split_text(piece, low, high) == [piece] for piece in pieces)


def test_a_long_text_loses_nothing_to_the_lower_bound() -> None:
    assert min(map(len, split_text("阮佇遮食飯。" * 351, 100, 2048))) >= 100


def test_a_line_that_breaks_a_sentence_is_no_place_to_cut() -> None:
    line = "Goa2 beh khi3 Tai5-lam5, li2 mai3\nlai5 toe3 goa2. I kong2 bo5, "
    for piece in split_text(line * 20, 10, 150)[:-1]:
        assert piece.endswith("goa2.")


def test_a_verse_is_cut_at_a_line() -> None:
    verse = "一更更鼓月照山\n牽君的手摸心肝\n君來問娘欲按怎\n" * 9
    assert all(len(line) == 7 for piece in split_text(verse, 10, 60) for line in piece.split("\n"))


def syllables(text: str) -> int:
    return len(units_of(text).starts)


ROMANISED = st.lists(
    st.sampled_from(
        ["阮", "佇", "Tâi-oân", "khi3", "goeh8", "2010", "。", "，", ". ", " ", "\n", "--ah", "o\u0358"]
    )
).map("".join)


@settings(max_examples=300, deadline=None)
@given(ROMANISED, st.integers(1, 6), st.integers(6, 20))
def test_lengths_may_count_syllables(text: str, low: int, high: int) -> None:
    pieces = [text[a:b] for a, b in split_spans(text, low, high, Syllables(text))]
    assert all(piece == piece.strip(" \n") and syllables(piece) <= high for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_hundred_syllables_are_as_much_as_hundred_han() -> None:
    for text in ("阮佇遮食飯。" * 40, "Goán tī chia chia̍h-pn̄g. " * 40):
        pieces = [text[a:b] for a, b in split_spans(text, 20, 50, Syllables(text))]
        assert [syllables(piece) for piece in pieces] == [50] * 4
