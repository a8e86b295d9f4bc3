"""A slow, naive cleaner, written character by character, agrees with the fast one."""

import re
import string
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.cleaning.characters import HAN_RANGES, INVISIBLE, ODD_SPACES, PRIVATE_USE, SMALL_FORMS
from corpus_tools.cleaning.rules import clean_text

WIDE = dict(zip(",?!:;", "，？！：；", strict=True))


def is_han(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in HAN_RANGES)


ADDRESS = string.ascii_letters + string.digits + "-._~:/?#[]@!$&'()*+,;=%"


def address_at(text: str, start: int) -> int:
    """Where an address that begins at `start` ends, marks of the sentence included; `start` if none begins."""
    head = text[start : start + 8].lower()
    begins = head.startswith(("http://", "https://"))
    begins |= head.startswith("www.") and head[4:5] in tuple(string.ascii_lowercase + string.digits + "-_~%")
    end = start
    while begins and end < len(text) and text[end] in ADDRESS:
        end += 1
    return end


def without_marks(address: str) -> str:
    for mark in ".,;:!?'":
        if address.endswith(mark) and not address.endswith("://"):
            return without_marks(address[:-1])
    for opening, closing in ("()", "[]"):
        if address.endswith(closing) and address.count(closing) > address.count(opening):
            return without_marks(address[:-1])
    return address


def without_addresses(text: str) -> str:
    out, i = "", 0
    while i < len(text):
        end = address_at(text, i)
        out += text[i + len(without_marks(text[i:end])) : end] if end > i else text[i]
        i = max(end, i + 1)
    return out if out == text else without_addresses(out)


LATIN_WORD = re.compile(r"[A-Za-z0-9\u00c0-\u024f\u0300-\u036f·‧\u0387]+")


def with_poj_dot(word: re.Match[str]) -> str:
    """The dot of a word that is one POJ syllable with o͘, of those that can be drawn here, is a combining one."""
    plain = "".join(
        c
        for c in unicodedata.normalize("NFD", re.sub("[·\u0387]", ".", word[0]))
        if not "\u0300" <= c <= "\u036f"
    )
    is_syllable = re.fullmatch("(?:kh|l|b)?o[.‧\u0387]h?", plain) and word[0][0] < "\u0300"
    return re.sub("[·‧\u0387]", "\u0358", word[0]) if is_syllable else word[0]


def naive(text: str) -> str:
    out = ""
    for c in text:
        if c in ODD_SPACES:
            out += " "
        elif c not in INVISIBLE:
            out += SMALL_FORMS.get(c, PRIVATE_USE.get(ord(c), c))
    text = without_addresses(out)
    drawn = "".join("─" if c == "─" else " " for c in text).split(" ")
    for run in sorted((run for run in drawn if len(run) > 1), key=len, reverse=True):
        text = text.replace(run, "—" * len(run))
    text, out = unicodedata.normalize("NFC", LATIN_WORD.sub(with_poj_dot, text)), ""
    for i, c in enumerate(text):
        widened = (
            c in WIDE
            and i > 0
            and (is_han(text[i - 1]) or (text[i - 1] in WIDE and out[-1] in WIDE.values()))
        )
        out += WIDE[c] if widened else c
    text, out, i = out, "", 0
    while i < len(text):
        for stop, least in (("。", 2), (".", 3), ("…", 1)):
            n = 0
            while text[i + n : i + n + 1] == stop:
                n += 1
            if n >= least:
                if not out.endswith("……"):
                    out += "……"
                i += n
                break
        else:
            out += text[i]
            i += 1
    lines = [" ".join(part for part in line.split(" ") if part) for line in out.split("\n")]
    return "\n".join(lines)


CHARACTERS = (
    "阮佇𪜶·‧\u0387𠢕䆀ｅêaōo\u030d\u0358\u0301ⁿㆦ˪\ue701\ue055\uf941"
    ",?!:;。.…﹐｢｣ \xa0\u3000\u200b\x07\n-─()/w"
)
WORDS = [
    "https://",
    "Http://a.tw",
    "www.b",
    "WWW.",
    "(c)",
    "──",
    "3.5",
    "11:30",
    "tai5",
    "，",
    "--lìn",
    "lo·",
    "kho\u0387h",
    "...",
]


@settings(max_examples=800, deadline=None)
@given(st.lists(st.sampled_from([*CHARACTERS, *WORDS]), max_size=40).map("".join))
def test_the_naive_cleaner_agrees(text: str) -> None:
    assert clean_text(text) == naive(text)
