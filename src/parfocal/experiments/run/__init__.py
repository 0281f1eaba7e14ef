"""Trainings and their records: one run, many runs, and where they are executed."""
