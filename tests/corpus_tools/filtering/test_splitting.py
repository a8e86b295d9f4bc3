"""Pieces: bounded, cut at pauses, nothing lost but the white space at the cuts."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.filtering.splitting import split_text

TEXT = st.text(st.sampled_from("阮佇𪜶𠢕。！？…」，\n -.ao0123\u0301\u030d\u0358"), max_size=300)


def test_closing_quotes_stay_with_their_sentence() -> None:
    assert split_text("伊講：「好！」" + "阮去。" * 3, 1, 9)[0] == "伊講：「好！」"


def test_romanised_text_splits_after_full_stops() -> None:
    assert split_text("Lí hó. Góa kiò A-bêng. Lí leh?", 1, 24) == ["Lí hó. Góa kiò A-bêng.", "Lí leh?"]


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
