"""The command line: LightningCLI, completion, and errors in one sentence."""
