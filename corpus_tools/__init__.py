"""Raw article files to a clean, deduplicated corpus of Taigi (台語) documents."""
