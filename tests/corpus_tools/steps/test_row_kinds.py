"""What rows are taken for, by where they end."""

import pytest

from corpus_tools.documents import Row
from corpus_tools.steps.row_kinds import kind_of_rows

SONG = ["一更更鼓月照山", "牽君的手摸心肝", "君來問娘欲按怎", "隨在阿君你心肝"]
ROWS = {
    "a song of four lines": (SONG, "line"),
    "lines of two clauses": ([f"{line} {line}" for line in SONG], "line"),
    "tone digits": (
        ["ThiN1 oo1 beh loh8-hoo7", "A1-kong1 giah8 ti5-thau5", "Kut8 ah kut8", "Koh kut8"],
        "line",
    ),
    "two rows prove nothing": (SONG[:2], "window"),
    "short windows": (["佇2010.09.", "20）彼工，", "伊去台南", "，阮去。"], "window"),
    "windows of a hundred": (["阮兜佇台南的海邊仔" * 12] * 4, "window"),
    "a sentence among them": ([*SONG, "伊講好。", "尾"], "window"),
}


@pytest.mark.parametrize(("texts", "kind"), ROWS.values(), ids=ROWS)
def test_few_rows_are_windows_unless_no_window_is_so_short(texts: list[str], kind: str) -> None:
    assert kind_of_rows([Row(text, "歌") for text in texts]).kind == kind
