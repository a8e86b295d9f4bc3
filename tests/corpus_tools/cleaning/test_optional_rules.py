"""Optional and own rules: refused before the work begins if they are wrong, and they never change a line's number."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.cleaning.optional_rules import extra_rules
from corpus_tools.cleaning.rules import LINE_BREAK, SEPARATOR, Log, rule_steps
from corpus_tools.documents import OptionalRule, OwnRule
from corpus_tools.errors import InputError
from tests.corpus_tools.cleaning.test_rules import TEXT

PIECES = [
    "<br>",
    "</p>",
    "<b>",
    "&lt;",
    "&#10;",
    "&nbsp;",
    "<",
    ">",
    "PAGE 3",
    "21",
    "a.indd 7 2020/1/2 9:00",
    "<p\nclass='x'>",
    "<!-- \n -->",
    "<script>\n</script>",
    "&amp;lt;",
    "春天…………3",
    "\n",
]
WORDS = [
    "TÃ¢i-gÃ\xad",
    "Ã ",
    "å\x8f°",
    "ï·\x90",
    "Ê”",
    "a@b.tw",
    "06-2757575",
    "春 天",
    "Tai5-lam5",
    "chia\u030dh",
    "goeh8--e5",
    "Ng2",
    "street",
    " ",
]
MARKED_UP = st.lists(st.one_of(TEXT, st.sampled_from([*PIECES, *WORDS]))).map("".join)
NAMES: list[OptionalRule] = [
    "mojibake",
    "html",
    "pages",
    "han_spaces",
    "contacts",
    "mask_contacts",
    "tailo",
    "poj",
]


@settings(max_examples=200, deadline=None)
@given(MARKED_UP, st.sampled_from(NAMES))
def test_no_rule_adds_or_removes_a_line_break_and_each_logs_what_it_changes(
    text: str, name: OptionalRule
) -> None:
    (rule,) = extra_rules([name], [])
    log: Log = []
    after = rule.apply(text, log)
    assert after.count("\n") == text.count("\n")
    assert bool(log) == (after != text)


# For each rule: what goes or changes, with what is left of it; and what must stay as it is.
TABLE: dict[OptionalRule, dict[str, str]] = {
    "mojibake": {
        "å\x8f°èªžã€‚chiaÌ\x8dh-pnÌ„g, kiÃ¢â\x81¿-lÅ\x8dÍ˜": "台語。chia\u030dh-pn\u0304g, kiâⁿ-lō͘",
        "sÄ« gÃ³a Ãª阮TÃ¢i-gÃ\xad": "sī góa ê阮Tâi-gí",
        "阮講「TÃ¢i-gÃ\xadã€\x8dï¼Œå’Œ": "阮講「Tâi-gí」，和",
        "sÄ« Å«\nÃ\xa0, Ã¨ ê": "sī ū\nà, è ê",
        "TÃƒÂ¢i-gÃƒÂ\xad": "Tâi-gí",
        "Ê, Â! “Ô”—ò… Âng--ê café 5°C ±3 «o»": "Ê, Â! “Ô”—ò… Âng--ê café 5°C ±3 «o»",
        "T¸i-l¦m, lí µ h¹u": "T¸i-l¦m, lí µ h¹u",
    },
    "html": {
        "阮&amp;nbsp;佇&amp;amp;lt;台南&amp;amp;gt;": "阮\xa0佇<台南>",
        "&lt;b&gt;粗&lt;/b&gt;，阮&nbsp佇台南": "粗，阮\xa0佇台南",
        '<img alt="海 > 山"/>媠<a title=\'x>y\' href="b">好</a>': "媠好",
        '<a title="x>好</a>': "好",
        "頭<script>\nif (a < 2) {}\n</script>尾<p\nclass='x'>段<!-- 註\n解 -->": "頭\n\n尾|\n段\n",
        "<!DOCTYPE html><?xml version='1.0'?>頭<![CDATA[中]]><svg viewBox='0'><path d='M'/></svg>尾": "頭中尾",
        "<details open><summary>摘要</summary>內<time>三月</time></details>": "摘要|內三月|",
        "a<b 而且 c>d、<b and c>、<小說>、<time、<p 註>": "a<b 而且 c>d、<b and c>、<小說>、<time、<p 註>",
        "AT&T、R&D、1<2、a < b > c、<3、?a=1&lt=2": "AT&T、R&D、1<2、a < b > c、<3、?a=1&lt=2",
    },
    "pages": {
        "內文-三校.indd   21\t2019/11/5   下午 03:21": "",
        "伊。a_0312.indd 5-6 15/3/2011 10:22:11 A.M.": "伊。",
        "台語.indb 5\n2012-03-12 16:05:33\n好": "\n\n好",
        "看 a.indd 5 頁": "看 a.indd 5 頁",
        "<ASCII-WIN>\n<ParaStyle:Body><cTypeface:Bold>粗<cTypeface:>體": "\n粗體",
        "·14·\n― 15 ―\n｜22｜\n◎ 23 ◎\n20 / 200\n【7】\n２４": "\n\n\n\n\n\n",
        "第一章 春天……………23\n秋天 ‧‧‧‧‧‧ 45\n第二節 . . . . . . (7)": "\n\n",
        "xii\n— xiv —\n- IV -\n第ix頁\n二三\n〇一二\n頁 12\n12-13\nUntitled-1 3 2020/1/2 上午 9:00": "\n" * 8,
        "i\nI\nXIV\nli\nmix\n十二\n一\n五月 3": "i\nI\nXIV\nli\nmix\n十二\n一\n五月 3",
        "伊等……5\n3……2……1\n（1）\n1/2 杯\n7 隻\n一、": "伊等……5\n3……2……1\n（1）\n1/2 杯\n7 隻\n一、",
    },
    "contacts": {
        "ｘｙｚ＠ｇｍａｉｌ．ｃｏｍ、a.b+c@d-e.com.tw": "、",
        "０２－２３４５－６７８９、886-2-2345-6789、0800-000-123": "、、",
        "06～2757575、06.275.7575、0912．345．678": "、、",
        "02.12.2010、0.12345678、03.1416": "02.12.2010、0.12345678、03.1416",
        "1895-1945、2010-09-20、民國99-100、957-13-2345-6": "1895-1945、2010-09-20、民國99-100、957-13-2345-6",
        "編號12345678、帳號1234-567-890123、甲@乙": "編號12345678、帳號1234-567-890123、甲@乙",
    },
}
CASES = [(name, before, after) for name, pairs in TABLE.items() for before, after in pairs.items()]


@pytest.mark.parametrize(("name", "before", "after"), CASES)
def test_a_rule_takes_what_it_is_for_and_leaves_what_looks_like_it(
    name: OptionalRule, before: str, after: str
) -> None:
    (rule,) = extra_rules([name], [])
    for step in rule_steps(rule, before):
        before = step.after
    assert before.replace(LINE_BREAK, "|") == after


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (OwnRule("a", "("), "is no pattern"),
        (OwnRule("a", "x", r"\2"), "is no pattern"),
        (OwnRule("a", "(?P<n>x)", r"\g<m>"), "is no pattern"),
        (OwnRule("a", "(?x) x # one", "\\"), "is no pattern"),
        (OwnRule(" ", "x"), "has no name"),
        (OwnRule("a", "(x|xx)+y", matches=["x" * 5000]), "takes more than 0 s on an example"),
        (OwnRule("a", "x*"), "matches nothing at all"),
        (OwnRule("a", "x", matches=["y"]), "finds nothing in 'y'"),
        (OwnRule("a", "x", leaves=["xy"]), "finds something in 'xy'"),
    ],
)
def test_a_wrong_rule_is_refused_before_the_work_begins(
    rule: OwnRule, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corpus_tools.cleaning.own_rules._SECONDS", 0.1)
    with pytest.raises(InputError, match=message):
        extra_rules([], [rule])


def test_names_are_checked() -> None:
    with pytest.raises(InputError, match=r"no optional rule htlm; there are mojibake, html"):
        extra_rules(["htlm"], [])  # type: ignore[list-item]
    with pytest.raises(InputError, match="share a name"):
        extra_rules([], [OwnRule("a", "x"), OwnRule("a", "y")])


@pytest.mark.parametrize(
    ("pattern", "after"),
    [
        ("^x", "a|ax\na||ax"),
        ("x$", "xa|a\nxa||xa"),
        (r"^x\Z", "xa|ax\nxa||xax"),
        (r"\Ax", "a|ax\nxa||ax"),
        ("^x$", "xa|ax\nxa||xax"),
    ],
)
def test_anchors_mean_lines_and_articles(pattern: str, after: str) -> None:
    """However many articles are cleaned together, and where markup has left a line break."""
    text = f"{SEPARATOR}xa{SEPARATOR}ax\nxa{LINE_BREAK}x{SEPARATOR}xax{SEPARATOR}"
    (rule,) = extra_rules([], [OwnRule("all", pattern)])
    log: Log = []
    found = rule.apply(text, log)
    assert found.replace(SEPARATOR, "|").replace(LINE_BREAK, "|").strip("|") == after
    assert all(text[at : at + len(span)] == span for at, (span,) in log)


@pytest.mark.parametrize("text", ["a\nb", "ab\n"])
def test_a_rule_that_changes_a_line_break_stops_the_run(text: str) -> None:
    (rule,) = extra_rules([], [OwnRule("all", r"(?s).+")])
    with pytest.raises(InputError, match="changes a line break"):
        rule.apply(text, [])
