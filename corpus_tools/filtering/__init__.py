"""What leaves the corpus, and where texts are split."""
