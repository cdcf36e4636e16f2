"""The command line: one file a command, `main` that chooses, `output` that prints."""
