"""Raw article files to a clean, deduplicated corpus of Taigi (台語) documents."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corpus_tools.cleaning.rules import clean_text
    from corpus_tools.options import CorpusOptions
    from corpus_tools.pipeline import build_corpus

__all__ = ["CorpusOptions", "build_corpus", "clean_text"]

_HOMES = {"CorpusOptions": "options", "build_corpus": "pipeline", "clean_text": "cleaning.rules"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: `python -m corpus_tools --help` needs none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
