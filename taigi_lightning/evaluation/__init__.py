"""Answers, their scores, comparison and perplexity."""
