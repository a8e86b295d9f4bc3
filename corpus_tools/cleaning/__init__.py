"""The cleaning rules: pure functions from text to text, in one order."""

from corpus_tools.cleaning.rules import clean_text

__all__ = ["clean_text"]
