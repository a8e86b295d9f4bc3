"""The command line: options, messages, progress, workers."""
