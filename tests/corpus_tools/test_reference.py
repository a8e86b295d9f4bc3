"""A slow, naive cleaner, written character by character, agrees with the fast one."""

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.characters import HAN_RANGES, INVISIBLE, ODD_SPACES, PRIVATE_USE, SMALL_FORMS
from corpus_tools.cleaning import clean_text

WIDE = dict(zip(",?!:;", "，？！：；", strict=True))


def is_han(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in HAN_RANGES)


def naive(text: str) -> str:
    out = ""
    for c in text:
        if c in ODD_SPACES:
            out += " "
        elif c not in INVISIBLE:
            out += SMALL_FORMS.get(c, PRIVATE_USE.get(ord(c), c))
    text, out = unicodedata.normalize("NFC", out), ""
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


@settings(max_examples=600, deadline=None)
@given(
    st.text(
        st.sampled_from(
            "阮佇𪜶𠢕䆀ｅêaōo\u030d\u0358\u0301ⁿㆦ˪\ue701\ue055\uf941,?!:;。.…﹐｢｣ \xa0\u3000\u200b\x07\n-"
        ),
        max_size=40,
    )
)
def test_the_naive_cleaner_agrees(text: str) -> None:
    assert clean_text(text) == naive(text)
