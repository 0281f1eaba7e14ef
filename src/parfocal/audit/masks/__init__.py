"""The masks that a loss offers itself, tried: ignored targets, and arguments with an entry each."""
