"""The auditor: an oracle, grids of logits, a metric, a scan. It imports nothing else of ours."""
