"""Errors planted in the code are noticed by its tests."""

import pytest

from tests.mutations import PLANTED, ROOT, Planted, survives


def test_there_are_forty_and_each_is_where_it_says() -> None:
    assert len(PLANTED) == len(set(PLANTED)) == 40
    for planted in PLANTED:
        assert (ROOT / planted.file).read_text(encoding="utf-8").count(planted.text) == 1, planted
        assert (ROOT / planted.tests.partition("::")[0]).is_file(), planted


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED, ids=[f"{number}" for number in range(len(PLANTED))])
def test_it_is_noticed(planted: Planted) -> None:
    assert not survives(planted)
