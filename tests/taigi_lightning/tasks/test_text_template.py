"""A config's templates read columns by their names, and nothing else."""

import pytest

from taigi_lightning.errors import InputError
from taigi_lightning.tasks.text_template import TextTemplate


def test_columns_are_put_in_and_what_they_hold_is_text() -> None:
    template = TextTemplate("prompt", "{{台語}} {title}\n{text} {title}")
    assert template.placeholders == ("title", "text")
    assert template.render({"title": "{text}", "text": "一"}) == "{台語} {text}\n一 {text}"


@pytest.mark.parametrize("text", ["{", "}", "{}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a"])
def test_what_is_no_plain_name_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="prompt"):
        TextTemplate("prompt", text)


def test_an_unknown_column_is_named_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match=r"\{titel\}.*a\.csv.*title, text"):
        TextTemplate("prompt", "{titel} {text}").check(["title", "text"], "a.csv")
