"""The memory and disk that a run needs, before it runs."""
