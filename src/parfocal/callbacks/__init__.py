"""The guard in other people's training loops: `callbacks.transformers`, `callbacks.lightning`."""
