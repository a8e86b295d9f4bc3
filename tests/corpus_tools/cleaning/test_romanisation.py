"""Conversion between orthographies, there and back: any syllable, tone and capitals; other words stay."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.cleaning.romanisation import converted

INITIALS = ["", *["p", "ph", "m", "b", "t", "th", "n", "l", "k", "kh", "ng", "g", "h", "ts", "tsh", "s", "j"]]
OPEN = ["a", "i", "u", "e", "o", "oo", "ai", "au", "ia", "io", "iu", "iau", "ua", "ui", "ue", "uai"]
NASAL = [
    "am",
    "an",
    "ang",
    "im",
    "in",
    "ing",
    "om",
    "ong",
    "un",
    "iam",
    "ian",
    "iang",
    "iong",
    "uan",
    "uang",
    "ann",
    "inn",
    "enn",
    "ionn",
    "iann",
    "iunn",
    "uann",
    "uinn",
]
STOPPED = [
    "ap",
    "at",
    "ak",
    "ah",
    "ip",
    "it",
    "ik",
    "ih",
    "op",
    "ok",
    "oh",
    "ut",
    "uh",
    "eh",
    "iap",
    "iat",
    "iak",
    "iok",
    "iah",
    "ioh",
    "uat",
    "uah",
    "ueh",
]
# In Tâi-lô with tone digits: open and nasal rimes have tones 1, 2, 3, 5, 7, 9, those that end in a stop 4 and 8.
SYLLABLES = st.one_of(
    st.tuples(st.sampled_from(INITIALS), st.sampled_from([*OPEN, *NASAL]), st.sampled_from("123579")),
    st.tuples(st.sampled_from(INITIALS), st.sampled_from(STOPPED), st.sampled_from("48")),
    st.tuples(
        st.sampled_from(["", "h", "k", "n", "s", "t"]), st.sampled_from(["ng"]), st.sampled_from("123579")
    ),
).map("".join)
CASES = st.sampled_from([str.lower, str.capitalize, str.upper])
WORDS = st.tuples(st.lists(SYLLABLES, min_size=1, max_size=4), st.sampled_from(["-", "--"]), CASES).map(
    lambda drawn: drawn[2](drawn[1].join(drawn[0]))
)


@settings(max_examples=300, deadline=None)
@given(WORDS)
def test_from_digits_to_either_orthography_and_back(word: str) -> None:
    tailo, poj = converted(word, "tailo"), converted(word, "poj")
    assert not any(c.isdigit() for c in tailo + poj)
    assert unicodedata.is_normalized("NFC", tailo) and unicodedata.is_normalized("NFC", poj)
    # ⁿ has no capital, so of capitals alone the letters are compared: Aⁿ is ANN or Ann.
    same = str.lower if word.isupper() else str
    assert same(converted(poj, "tailo")) == same(tailo) and same(converted(tailo, "poj")) == same(poj)
    assert converted(tailo, "tailo") == tailo and converted(poj, "poj") == poj
    assert tailo.count("-") == poj.count("-") == word.count("-")


@pytest.mark.parametrize(
    ("word", "tailo", "poj"),
    [
        ("kiaN2-chu2", "kiánn-tsú", "kiáⁿ-chú"),
        ("chhit4", "tshit", "chhit"),
        ("goeh8--e5", "gue̍h--ê", "goe̍h--ê"),
        ("o͘h4", "ooh", "o͘h"),
        ("lo̍k-hō͘", "lo̍k-hōo", "lo̍k-hō͘"),
        ("PEH8-OE7-JI7", "PE̍H-UĒ-JĪ", "PE̍H-ŌE-JĪ"),
        ("hng5", "hn̂g", "hn̂g"),
        ("tang9", "ta̋ng", "tăng"),
        ("hoaN3-he7", "huànn-hē", "hòaⁿ-hē"),
        ("chhōe", "tshuē", "chhōe"),
        ("street", "street", "street"),
        ("MP3", "MP3", "MP3"),
        ("COVID-19", "COVID-19", "COVID-19"),
    ],
)
def test_words_are_written_as_each_orthography_does(word: str, tailo: str, poj: str) -> None:
    assert converted(word, "tailo") == unicodedata.normalize("NFC", tailo)
    assert converted(word, "poj") == unicodedata.normalize("NFC", poj)
