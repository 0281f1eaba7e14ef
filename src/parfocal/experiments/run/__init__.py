"""Training runs and their records: one run, many runs, and where they are executed."""
