"""The five lines of a notebook that the README shows."""

import inspect
from pathlib import Path

import corpus_tools
import taigi_lightning

NEVER_REFUSE = {"clean_text", "LoraSettings"}


def test_every_public_name_is_there() -> None:
    for package in (corpus_tools, taigi_lightning):
        for name in package.__all__:
            assert callable(getattr(package, name)), name


def test_every_public_name_says_what_it_takes_and_refuses() -> None:
    for package in (corpus_tools, taigi_lightning):
        for name in package.__all__:
            public = getattr(package, name)
            said = inspect.getdoc(public) or ""
            missing = [p for p in inspect.signature(public).parameters if f" {p}: " not in said]
            assert not missing, f"{name} does not say what {missing} are"
            if name not in NEVER_REFUSE:
                assert "Raises:" in said, name
            if inspect.isfunction(public):
                assert "Returns:" in said, name


def test_the_packages_are_typed() -> None:
    for package in (corpus_tools, taigi_lightning):
        assert package.__file__ is not None
        assert (Path(package.__file__).parent / "py.typed").is_file()


def test_cleaning_a_text_takes_one_line() -> None:
    assert corpus_tools.clean_text("補破網https://is.gd/BopckD後擺講...") == "補破網後擺講……"
