"""The losses: checks, one call of the kernel, weights, reduction."""
