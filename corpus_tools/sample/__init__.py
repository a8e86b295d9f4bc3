"""A made-up language: texts, questions and a tokenizer for the demo."""
