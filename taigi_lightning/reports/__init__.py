"""HTML pages, charts and the model card."""
