"""The one error a user of corpus_tools is meant to see."""


class InputError(ValueError):
    """Input that cannot be used: the message says what was found, what was wanted and what to do."""
