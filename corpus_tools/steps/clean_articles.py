"""Articles: the rules applied to many at once and counted, rows matched to the paragraphs."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, compress, count
from operator import ne, sub

from corpus_tools.cleaning.language import looks_simplified
from corpus_tools.cleaning.numbering import NUMBER_STARTS
from corpus_tools.cleaning.prefilter import Lines, lines_to_clean
from corpus_tools.cleaning.rules import (
    LINE_BREAK,
    NUMBERING,
    POJ_DOTS,
    RULES,
    SEPARATOR,
    Rule,
    Step,
    rule_steps,
)
from corpus_tools.documents import Article, CleanedArticle, Counts, Cut
from corpus_tools.filtering.decontamination import QuestionNgrams, drop_overlaps

SAMPLES = 4  # of a rule, a shard
_BEHIND, _LONGEST = 45, 200  # characters of a sample: behind the change, of it
_LISTED = ("urls", "numbering")  # rules whose every removal is listed in dropped.parquet
_AT_ONCE = 1 << 18  # characters cleaned together


def clean_articles(
    articles: Iterable[Article],
    counts: Counts,
    ngrams: QuestionNgrams | None = None,
    convert_simplified: bool = False,
    extra: Sequence[Rule] = (),
) -> Iterator[tuple[CleanedArticle, bytes, list[bytes]]]:
    """Each article by `extra` rules, then by all built-in ones, counted in `counts`: its text in UTF-8, whole and by
    paragraph.
    """
    for together in _batches(articles):
        if convert_simplified:
            for article in together:
                _convert(article, counts)
        cuts: list[list[Cut]] = [[] for _ in together]
        cleaned = _clean_lines(together, counts, cuts, extra)
        for article, (text, numbered), cuts_here in zip(together, cleaned, cuts, strict=True):
            yield _finish(article, text, numbered, counts, cuts_here, ngrams)


def _batches(articles: Iterable[Article]) -> Iterator[list[Article]]:
    """Articles in batches so large that what is done once for each batch takes a negligible part of the time."""
    together: list[Article] = []
    characters = 0
    for article in articles:
        together.append(article)
        characters += len(article.text)
        if characters >= _AT_ONCE:
            yield together
            together, characters = [], 0
    if together:
        yield together


def _convert(article: Article, counts: Counts) -> None:
    if looks_simplified(article.text):
        from corpus_tools.cleaning.simplified import to_traditional  # for runs that ask for it

        article.text = to_traditional(article.text)
        counts.converted_articles += 1


def _clean_lines(
    articles: Sequence[Article], counts: Counts, cuts: Sequence[list[Cut]], extra: Sequence[Rule]
) -> Iterator[tuple[str, bool]]:
    """The texts of articles after the rules that look at a line alone, tried only on the lines that they could change.

    With each, whether a line of it begins as a numbered one would.
    """
    whole = SEPARATOR + SEPARATOR.join([article.text for article in articles]) + SEPARATOR
    if extra:
        whole = _by_extra_rules(whole, articles, counts, extra)
    lines = lines_to_clean(whole)
    text = SEPARATOR + "".join([whole[s : e + 1] for s, e in zip(lines.starts, lines.ends, strict=True)])
    needless = (
        {NUMBERING} if lines.middle_dots else {NUMBERING, POJ_DOTS}
    )  # the latter seeks long for what is rare
    for rule in [rule for rule in RULES if rule not in needless]:
        for number, step in enumerate(rule_steps(rule, text)):
            _count(step, counts)
            if rule.name in _LISTED:
                _list_cuts(step, articles, lines, cuts)
            if number == 0:
                _take_samples(rule, step, articles, counts)
            text = step.after
    changed = text[1:-1].replace(SEPARATOR, "\n").split("\n")
    for number, line in zip(lines.numbers, changed, strict=True):
        if line[:1] in NUMBER_STARTS:
            lines.numbered[bisect_right(lines.firsts, number) - 1] = True
    pieces = [""] * (2 * len(changed) + 1)
    pieces[::2] = [whole[e:s] for e, s in zip([0, *lines.ends], [*lines.starts, len(whole)], strict=True)]
    pieces[1::2] = changed
    return zip(_parted("".join(pieces)), lines.numbered, strict=True)


def _by_extra_rules(whole: str, articles: Sequence[Article], counts: Counts, extra: Sequence[Rule]) -> str:
    """The articles by rules that look at every line; the line breaks that those ask for are put in."""
    for rule in extra:
        for step in rule_steps(rule, whole):
            _count(step, counts)
            _take_samples(rule, step, articles, counts)
            whole = step.after
    if LINE_BREAK in whole:
        for article, text in zip(articles, _parted(whole), strict=True):
            added = list(accumulate((line.count(LINE_BREAK) for line in text.split("\n")), initial=0))
            article.first_lines = [line + added[line] for line in article.first_lines]
    return whole.replace(LINE_BREAK, "\n")


def _finish(
    article: Article,
    text: str,
    numbered: bool,
    counts: Counts,
    cuts: list[Cut],
    ngrams: QuestionNgrams | None,
) -> tuple[CleanedArticle, bytes, list[bytes]]:
    """What needs the whole article: its numbering, its rows, overlaps with questions."""
    for number, step in enumerate(rule_steps(NUMBERING, text) if numbered and NUMBERING in RULES else ()):
        _count(step, counts)
        line = at = 0
        for position, (span,) in step.log:
            line += step.before.count("\n", at, position)
            at = position
            cuts.append(Cut(_row_at(article, line), 0, step.rule, span))
        if number == 0:
            _take_samples(NUMBERING, step, [article], counts)
        text = step.after
    characters = len(text)
    data = text.encode()
    paragraphs = data.split(b"\n")
    first_rows, row_counts = _match_rows(article, paragraphs)
    if len(first_rows) < len(paragraphs):
        paragraphs = list(filter(None, paragraphs))
        data = b"\n".join(paragraphs)
        text = data.decode()
    if emptied := len(article.rows) - sum(row_counts):
        cuts.append(Cut(article.rows[0], emptied, "empty", ""))
    if ngrams is not None:
        text, dropped, hits = drop_overlaps(text, first_rows, row_counts, ngrams)
        if dropped:
            data = text.encode()
            paragraphs = data.split(b"\n") if data else []
        cuts += dropped
        where = {"source": article.source, "title": article.title}
        counts.hits += [where | hit for hit in hits]
    names = (article.title, article.author, article.source)
    cleaned = CleanedArticle(*names, characters, first_rows, row_counts, cuts, len(text), len(data))
    return cleaned, data, paragraphs


def _match_rows(article: Article, paragraphs: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """For each paragraph that is not empty the row it begins in and how many rows begin in it."""
    lines = article.first_lines
    firsts = [0, *compress(count(1), map(ne, lines[1:], lines))]  # of the rows that begin on one line
    if len(firsts) == len(paragraphs) and all(paragraphs):
        rows = [article.rows[i] for i in firsts]
        return rows, list(map(sub, [*firsts[1:], len(lines)], firsts))
    first_on = {lines[i]: article.rows[i] for i in firsts}
    rows_on = Counter(lines)
    rows, counts, row = [], [], article.rows[0]
    for number, paragraph in enumerate(paragraphs):
        row = first_on.get(number, row)
        if paragraph:
            rows.append(row)
            counts.append(rows_on[number])
    return rows, counts


def _count(step: Step, counts: Counts) -> None:
    rule = step.rule
    counts.changes[rule] += sum([len(spans) for _, spans in step.log])
    counts.removed[rule] += len(step.before) - len(step.after)
    if rule not in _LISTED:
        counter = counts.spans.setdefault(rule, Counter())
        for _, spans in step.log:
            counter.update(spans)


def _list_cuts(step: Step, articles: Sequence[Article], lines: Lines, cuts: Sequence[list[Cut]]) -> None:
    """Every span that a step removed from some lines of articles, in the list of its article."""
    place, at = -1, 0
    for position, (span,) in step.log:
        place += step.before.count("\n", at, position) + step.before.count(SEPARATOR, at, position)
        at = position
        number = lines.numbers[place]
        k = bisect_right(lines.firsts, number) - 1
        cuts[k].append(Cut(_row_at(articles[k], number - lines.firsts[k]), 0, step.rule, span))


def _row_at(article: Article, line: int) -> int:
    """The row in which a line begins, or which begins on it."""
    return article.rows[bisect_right(article.first_lines, line) - 1]


def _parted(text: str) -> Iterator[str]:
    """The articles of a text."""
    if not text.startswith(SEPARATOR):
        yield text
        return
    start = 1
    while (end := text.find(SEPARATOR, start)) >= 0:
        yield text[start:end]
        start = end + 1


def _take_samples(rule: Rule, step: Step, articles: Sequence[Article], counts: Counts) -> None:
    """Samples from the first articles that a rule changed, given its first step on all of them."""
    samples = counts.samples.setdefault(rule.name, [])
    if len(samples) >= SAMPLES:
        return
    # One after the other, since most rules change something among the first articles.
    for article, text, after in zip(articles, _parted(step.before), _parted(step.after), strict=True):
        if text == after:
            continue
        for of_article in rule_steps(rule, text):
            samples.append(_sample(of_article, article))
            if len(samples) == SAMPLES:
                return


def _sample(step: Step, article: Article) -> dict[str, str]:
    """The first change of a step in its surroundings, before and after.

    Two windows of a line that start at the same place. They hold what was changed and some text behind it, that
    of `after` more of it; if the line ends before they do, both end with its break.
    """
    position, (span, *_) = step.log[0]
    position += span.startswith("\n")  # the line behind the break is the one that changes
    line = step.before.count("\n", 0, position)
    before, after = (text.split("\n", line + 1)[line] + "\n" for text in (step.before, step.after))
    place = position - step.before.rfind("\n", 0, position) - 1
    start = max(0, place - 15)
    end = place + len(span.strip("\n")) + _BEHIND
    ends = (end, end + _BEHIND)
    if len(span) > _LONGEST:
        ends = (place + _LONGEST, place)
    elif end < len(before):  # only what ends in both ends here
        after = after[:-1]
    return {
        "source": article.source,
        "title": article.title,
        "before": before[start : ends[0]].replace(LINE_BREAK, "\n"),
        "after": after[start : ends[1]].replace(LINE_BREAK, "\n"),
    }
