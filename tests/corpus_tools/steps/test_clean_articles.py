"""Articles cleaned together, line by line where a rule could strike, are those that were cleaned one by one."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_tools.cleaning import rules as cleaning
from corpus_tools.cleaning.rules import RULES, Rule, clean_steps, clean_text
from corpus_tools.documents import Article, Counts
from corpus_tools.report.html_page import marked
from corpus_tools.steps import clean_articles as articles
from corpus_tools.steps.clean_articles import clean_articles
from tests.corpus_tools.cleaning.test_rules import TEXT

LINE = st.one_of(
    TEXT,
    st.sampled_from(
        ["阮佇遮食飯。", " 好", "好 ", "", " ", "……", "e\u0301", "\u0323\u0301", "3. 好", "\u3000"]
    ),
)
TEXTS = st.lists(st.lists(LINE, min_size=1, max_size=6).map("\n".join), min_size=1, max_size=5)


def article_of(text: str) -> Article:
    lines = text.count("\n") + 1
    return Article("題", "林", "a.json", text, list(range(1, lines + 1)), list(range(lines)))


@settings(max_examples=500, deadline=None)
@given(TEXTS, st.sampled_from([1, 30, 1 << 18]))
def test_together_as_one_by_one(texts: list[str], at_once: int) -> None:
    texts = [text.replace("\r", "") for text in texts]  # as merging leaves them
    expected = Counts()
    cuts: list[list[tuple[int, str, str]]] = []
    for text in texts:
        cuts.append([])
        for step in clean_steps(text):
            spans = [stretch for _, found in step.log for stretch in found]
            expected.changes[step.rule] += len(spans)
            expected.removed[step.rule] += len(step.before) - len(step.after)
            if step.rule in ("urls", "numbering"):
                for position, (stretch,) in step.log:
                    cuts[-1].append((1 + step.before.count("\n", 0, position), step.rule, stretch))
            else:
                expected.spans.setdefault(step.rule, Counter()).update(spans)
    counts = Counts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(articles, "_AT_ONCE", at_once)
        cleaned = list(clean_articles(map(article_of, texts), counts))
    for text, (article, data, paragraphs), found in zip(texts, cleaned, cuts, strict=True):
        assert data.decode() == "\n".join(filter(None, clean_text(text).split("\n")))
        assert b"\n".join(paragraphs) == data and all(paragraphs)
        assert [(c.row, c.reason, c.text) for c in article.cuts if c.reason != "empty"] == found
    assert (counts.changes, counts.removed) == (expected.changes, expected.removed)
    assert counts.spans == expected.spans


@pytest.mark.parametrize("left_out", RULES, ids=lambda rule: rule.name)
def test_a_rule_left_out_of_the_order_is_tried_nowhere(
    left_out: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "1. 阮﹐看https://a.tw/b，──e\u0301\n2. 好,來...  好 lo·"
    whole = clean_text(text)
    for module in (articles, cleaning):
        monkeypatch.setattr(module, "RULES", tuple(rule for rule in RULES if rule != left_out))
    ((_, data, _),) = clean_articles([article_of(text)], Counts())
    assert data.decode() == clean_text(text) != whole


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_every_rule_that_changed_something_has_samples_and_each_shows_a_change(texts: list[str]) -> None:
    counts = Counts()
    list(clean_articles([article_of(text.replace("\r", "")) for text in texts], counts))
    assert set(counts.samples) == set(counts.changes)
    for rule, samples in counts.samples.items():
        assert samples, rule
        for sample in samples:
            page = marked(sample["before"], sample["after"])
            assert "<del>" in page or "<ins>" in page, (rule, sample)


LINE_OF_100 = "阮兜佇台南的海邊仔，" * 10
LONG_URL = f"https://a.tw/{'b' * 100}"


@pytest.mark.parametrize(
    ("text", "page"),
    [
        (f"{LINE_OF_100} ", "海邊仔，阮兜佇台南的海邊仔，<del>␣</del>\n"),
        (f" {LINE_OF_100}", f"<del>␣</del>{LINE_OF_100[:45]}"),
        (f"好\n{LINE_OF_100} \n好", "海邊仔，阮兜佇台南的海邊仔，<del>␣</del>\n"),
        (f"好\n {LINE_OF_100}", f"<del>␣</del>{LINE_OF_100[:45]}"),
        (f"好…{LINE_OF_100}", f"好<ins>…</ins>…{LINE_OF_100[:45]}"),
        ("好…", "好…<ins>…</ins>\n"),
        (f"看{LONG_URL}{LINE_OF_100}", f"看<del>{LONG_URL}</del>{LINE_OF_100[:45]}"),
        (f"看{LONG_URL * 3}{LINE_OF_100}", f"看<del>{(LONG_URL * 3)[:200]}</del>"),
        (f"好{' ' * 300}{LINE_OF_100}", f"好<del>{'␣' * 200}</del>"),
    ],
)  # fmt: skip
def test_a_sample_shows_its_change_and_no_other(text: str, page: str) -> None:
    counts = Counts()
    list(clean_articles([article_of(text)], counts))
    samples = next(iter(counts.samples.values()))
    assert marked(samples[0]["before"], samples[0]["after"])[-len(page) :] == page
