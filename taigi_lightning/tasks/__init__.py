"""Questions, their prompts and their batches."""
