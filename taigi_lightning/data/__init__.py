"""Data modules, the tokenised corpus, packing and loaders."""
