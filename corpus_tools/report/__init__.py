"""What a run counted, and the pages that show it."""
