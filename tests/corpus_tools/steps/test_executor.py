"""Looking ahead: the values of a plain function, found by a thread before they are asked for."""

import threading

import pytest

from corpus_tools.steps.executor import ahead


def test_a_value_is_found_while_the_one_before_it_is_in_use() -> None:
    begun = {key: threading.Event() for key in "abc"}

    def find(key: str) -> str:
        begun[key].set()
        return key.upper()

    with ahead(find, "abc") as value:
        assert value("a") == "A"
        assert begun["b"].wait(10)
        assert [value("b"), value("c"), value("a")] == ["B", "C", "A"]  # the last is asked for again


def test_an_error_is_raised_where_the_value_is_asked_for_and_the_rest_is_still_found_ahead() -> None:
    found_by: dict[str, str] = {}

    def find(key: str) -> str:
        found_by[key] = threading.current_thread().name
        if key == "b":
            raise ValueError(key)
        return key.upper()

    with ahead(find, "abcd") as value:
        assert value("a") == "A"
        with pytest.raises(ValueError, match="b"):
            value("b")
        assert [value("c"), value("d")] == ["C", "D"]
    assert threading.current_thread().name not in found_by.values()
