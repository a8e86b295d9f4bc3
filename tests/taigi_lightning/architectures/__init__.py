"""Every base that people teach, small and random, through everything that is done with it."""
