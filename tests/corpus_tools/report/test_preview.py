"""Changed lines as `preview` shows them, however long they are."""

from hypothesis import given
from hypothesis import strategies as st

from corpus_tools.report.preview import _opcodes, line_diff

PIECES = st.sampled_from(
    ["阮佇遮", ",", "...", "a\u0302", "  ", "\xa0", "https://a.tw/b", "春天", "ka kite te Atua " * 9]
)


@given(st.lists(PIECES, max_size=90).map("".join))
def test_the_windows_of_a_line_make_up_all_of_it(before: str) -> None:
    after = (
        before.replace("...", "……").replace("a\u0302", "â").replace("https://a.tw/b", "").replace("\xa0", " ")
    )
    found = list(_opcodes(before, after))
    assert "".join(before[a:b] for _, a, b, _, _ in found) == before
    assert "".join(after[c:d] for _, _, _, c, d in found) == after
    assert all(before[a:b] == after[c:d] for tag, a, b, c, d in found if tag == "equal")


def test_of_a_line_of_a_million_characters_the_first_changes_are_shown() -> None:
    before = "阮兜佇台南的海邊仔,逐工攏會當看著日頭落海" * 50_000
    shown = line_diff(before, before.replace(",", "，"), marks=True).plain
    assert shown.count("[-,-]{+，+}") == 20 and shown.endswith(" … and more") and len(shown) < 2_000
