"""The backend of GPUs: a sum and its gradient in one pass over the logits, by Triton's kernels."""
