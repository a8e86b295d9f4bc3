"""The optional rules for e-mail addresses and telephone numbers of Taiwan, in either width."""

from __future__ import annotations

import re

from corpus_tools.cleaning.rules import Log, rewritten

_ADDRESS = "A-Za-zＡ-Ｚａ-ｚ0-9０-９"
_EMAIL = re.compile(rf"[{_ADDRESS}._%+\-．＿－]+[@＠][{_ADDRESS}\-－]+(?:[.．][{_ADDRESS}\-－]+)+")
_D, _JOIN = "[0-9０-９]", "[- ‐‑–—－.．~～]"
_ZERO = "[0０]"
_PHONE = re.compile(
    rf"(?<![0-9０-９A-Za-z.\-－])(?:[+＋](?:886|８８６){_JOIN}?[(（]?{_ZERO}?{_D}{{1,3}}[)）]?"
    rf"|(?:886|８８６){_JOIN}{_ZERO}?{_D}{{1,3}}|[(（]{_ZERO}{_D}{{1,3}}[)）]|{_ZERO}{_D}{{1,3}})"
    rf"{_JOIN}?{_D}{{3,4}}{_JOIN}?{_D}{{3,4}}(?: ?(?:[#＃]|轉|分機|[eE]xt\.?) ?{_D}{{1,6}})?(?![0-9０-９A-Za-z\-－])"
)


def remove_contacts(text: str, log: Log) -> str:
    """E-mail addresses and telephone numbers of Taiwan go.

    >>> remove_contacts("寫批予a.b@c.tw，抑是敲06-2757575、0912-345-678，2010-09-20", [])
    '寫批予，抑是敲、，2010-09-20'
    """
    return rewritten(_PHONE, lambda _: "", rewritten(_EMAIL, lambda _: "", text, log), log)


def mask_contacts(text: str, log: Log) -> str:
    """The same become [email] and [phone].

    >>> mask_contacts("寫批予a.b@c.tw抑是敲(06)275-7575、０２－２３４５－６７８９", [])
    '寫批予[email]抑是敲[phone]、[phone]'
    """
    text = rewritten(_EMAIL, lambda _: "[email]", text, log)
    return rewritten(_PHONE, lambda _: "[phone]", text, log)
