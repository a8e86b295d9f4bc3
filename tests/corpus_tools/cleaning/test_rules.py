"""Each rule on the pieces of real texts it exists for, and on those it must leave alone."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.cleaning.characters import PRIVATE_USE
from corpus_tools.cleaning.language import Kind, census, looks_simplified, measure_spans, taigi_score
from corpus_tools.cleaning.rules import RULES, clean_steps, clean_text, remove_numbering, remove_urls

KEPT = [
    "ⁿ ᴺ ① ㈠ ℃ ㆦ ㆷ ˪ ˫",  # NFKC would change these
    "a̍ o̍ m̄ n̂ a̋ o͘ ȧ",
    "厝--lìn，行--ah！",
    "Tâi-uân tai5-uan5 e5",
    "阮ｅ厝，阮 ê 厝，阮个厝",
    "Lí hó, lán lâi-khì! Kám-án-ne? 3.5 1,200 11:30",
    "𠢕𠕇𣍐𨑨𤆬𪜶𫝛𬦰𰣻䆀",
    "台灣个庄，才干焦欲娘里",
    "7、80 冬前",
    "07.04）蔡阿炮",
    "2.25，台南",
    "2010.",
    "1947年",
    "第一回去台北。",
    "一、二十个人",
    "0 1 2 3\n1 2 3 4\n2 3 4 5",
    "1 幅圖\n2 幅圖\n3 幅圖",
    "1 chōa\n2 chōa lō͘\n3 lé-pài",
    "\ue055\ue021\ufffd",
    "馬克·吐溫，Gonzalo·López，Mario·仔，A·B·O·AB，O·A，No·1，o··，2o·，臺・日",
]


@pytest.mark.parametrize("text", KEPT)
def test_text_is_left_alone(text: str) -> None:
    assert clean_text(text) == text


CHANGED = {
    "補破網https://www.youtube.com/watch?v=AsKDpyJDYlQ": "補破網",
    "取自https://is.gd/BopckD後擺講": "取自後擺講",
    "看HTTPS://A.tw/b，好": "看，好",
    "（WWW.a.tw/c_(d)）": "（）",
    "伊講:好!?": "伊講：好！？",
    "𪜶,𠢕;": "𪜶，𠢕；",
    "｢好﹐無﹖｣": "「好，無？」",
    "好......無。。。愛…": "好……無……愛……",
    "。。…": "……",
    "伊──我": "伊——我",
    "《槍聲》2025年版    胡長松     槍聲": "《槍聲》2025年版 胡長松 槍聲",
    "阮\x07兜\u2028佇\xa0遮\ufeff": "阮兜 佇 遮",
    "\uf941\uf96f": "論說",
    "lô· kho·-lān HO·ⁿ chhò‧h kò・ tho•仔（só˙）o\u0387\u0301": "lô͘ kho͘-lān HO͘ⁿ chhò͘h kò͘ tho͘仔（só͘）ó͘",
    "1.一.春天": "春天",
    "（一）春天。\n（二）熱天。": "春天。\n熱天。",
    "第一章 春天": "春天",
    "1 春天\n2 熱天\n3 秋天": "春天\n熱天\n秋天",
}


@pytest.mark.parametrize(("text", "cleaned"), CHANGED.items())
def test_text_is_cleaned(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


@pytest.mark.parametrize(("code", "character"), PRIVATE_USE.items())
def test_the_ministrys_private_use_characters_become_unicode(code: int, character: str) -> None:
    assert clean_text(chr(code)) == character


def test_a_number_that_continues_a_sentence_stays() -> None:
    assert remove_numbering("價數是\n25. 箍") == "價數是\n25. 箍"


@pytest.mark.parametrize(
    "text",
    [
        "二．二八事件",
        "五.四運動",
        "（二二八）事件",
        "（一九四七）年",
        "五四、白話文",
        "九二一：地動",
        "（228）事件",
        "921、水災",
    ],
)
def test_a_date_after_a_sentence_is_no_number(text: str) -> None:
    assert remove_numbering(text) == text and remove_numbering(f"阮讀冊。\n{text}") == f"阮讀冊。\n{text}"


def test_what_may_be_a_date_is_a_number_in_sequence() -> None:
    assert remove_numbering("一.一個人\n二.二月") == "一個人\n二月"
    assert remove_numbering("一一、春天\n一二、熱天\n十三、秋天。") == "春天\n熱天\n秋天。"
    assert remove_numbering("99. 春天\n100. 熱天") == "春天\n熱天"


def test_numbers_in_sequence_go_even_without_full_stops() -> None:
    assert remove_numbering("目錄\n1. 春天\n2. 熱天") == "目錄\n春天\n熱天"


def test_urls_keep_their_own_brackets_and_leave_the_sentences() -> None:
    assert remove_urls("(看http://a.b/c_(d).)") == "(看.)"


def test_simplified_text_is_told_from_taigi() -> None:
    assert looks_simplified("这个时候，我们还没听说过这样的语言。" * 3)
    assert not looks_simplified("".join(KEPT) * 20)


def test_taigi_scores_high_and_mandarin_low() -> None:
    assert taigi_score("阮佇遮食飯，伊毋知影𪜶攏欲去佗位。") == 1
    assert taigi_score("Góa bô beh khì, lí kám ū chia̍h-pn̄g?") == 1
    assert taigi_score("他們今天早上去學校上課，下午回家寫作業。") == 0
    assert taigi_score("They went to school in the morning.") == 0
    assert taigi_score("Goa2 bo5 beh khi3, li2 kam2 u7 chiah8-png7? I kong2 bo5 chiN5.") == 1
    assert taigi_score("GOA2 BO5 BEH4 KHI3. KIANN5! Tai⁵-oan⁵ e⁵ lang⁵.") == 1
    assert taigi_score("MP3, CO2, PM2.5, A4, KTV2, USB3: 5 km in 3 hours.") == 0
    assert taigi_score("In 2010 they sold 25 MP3 players and 7 books, chapter 3.") < 0.2


ALPHABET = st.one_of(
    st.sampled_from("的佇佮毋袂閣阮𪜶𫝛𬦰𰣻𠢕䆀一二三十第章回論"),
    st.sampled_from("aeiouAêáōnmｅⁿhtpsw:/.-,;!? 0123456789()（）、。！？…「」『』﹐｢｣──"),
    st.sampled_from(
        "\u0301\u0304\u030d\u0358\u0302\u0323\u0327ㆦ˪\ue701\ue055\uf941\ufffd\x07\xa0\u2028\u3000\t\r\n\u200b"
    ),
    st.sampled_from(
        ["https://a.tw/b", "www.c.tw", "HTTP://", "1. ", "（一）", "一、", "第一章 ", "。\n", "……", "--"]
    ),
    st.characters(exclude_categories=["Cs"]),
)
TEXT = st.lists(ALPHABET, max_size=40).map("".join)


@settings(max_examples=400, deadline=None)
@given(TEXT)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_cleaned_text_keeps_the_promises(text: str) -> None:
    cleaned = clean_text(text)
    assert cleaned.count("\n") == text.count("\n")
    assert unicodedata.is_normalized("NFC", cleaned)
    assert "http://" not in cleaned.lower() and "https://" not in cleaned.lower()
    assert "  " not in cleaned and "。。" not in cleaned and "..." not in cleaned


def test_what_an_address_parted_is_cleaned_too() -> None:
    assert clean_text("好─https://a.tw/b─") == "好——"


@settings(max_examples=300, deadline=None)
@given(TEXT)
def test_steps_name_every_change(text: str) -> None:
    for step in clean_steps(text):
        assert step.before == text and step.log
        text = step.after
    assert text == clean_text(text)
    assert {rule.name for rule in RULES} >= {step.rule for step in clean_steps(text)}


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("佇佮毋阮𪜶𠢕䆀的ｅêⁿㆦ˪，。「」a-"), max_size=60))
def test_text_without_anything_to_clean_survives_whole(text: str) -> None:
    if "。。" not in text:
        assert clean_text(text) == text


def test_census_counts_each_kind() -> None:
    counts = census("阮佇\ufffd\ue000ê a")
    assert (counts[Kind.TAIGI], counts[Kind.REPLACEMENT], counts[Kind.PRIVATE]) == (2, 1, 1)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.text(st.sampled_from("阮佇的们aê,。\ue000\ufffd"), min_size=1), max_size=3), max_size=3
    ),
    st.sampled_from([1, 5000]),
)
def test_spans_of_many_texts_are_measured_like_texts_of_their_own(texts: list[list[str]], times: int) -> None:
    pieces = [[piece * times for piece in text] for text in texts]
    spans = [[(end - len(p), end) for p, end in zip(t, _ends(t), strict=True)] for t in pieces]
    scores, sizes, _, found = measure_spans(["\n".join(text) + " " for text in pieces], spans)
    assert scores == [taigi_score(piece) for text in pieces for piece in text]
    assert sizes == [len(piece.encode()) for text in pieces for piece in text]
    for text, found_here in zip(pieces, found, strict=True):
        assert found_here.simplified or not looks_simplified("".join(text))
        assert found_here.rare == any(c in "\ue000\ufffd" for c in "".join(text))


def _ends(pieces: list[str]) -> list[int]:
    """Where pieces end that are joined with a character between them."""
    return [number + sum(map(len, pieces[: number + 1])) for number in range(len(pieces))]


def test_spaces_behind_the_widest_characters_do_not_overflow_their_count() -> None:
    text = "𪜶" * 1023
    measured = measure_spans([text + " " * 99 + text], [[(0, 1023), (1122, 2145)]])
    assert measured.sizes == [4092, 4092]


def test_a_score_does_not_depend_on_length() -> None:
    text = "阮 bô 食飯，beh 轉去。"
    assert taigi_score(text) == taigi_score(text * 4000) > 0
