"""The base model, adapters, the merge, and where each came from."""
