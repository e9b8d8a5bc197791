"""Names in the folder of a training run, for those that write them and those that look for them."""

CHECKPOINTS = "checkpoints"
"""The folder of its checkpoints."""

CONFIG = "config.json"
"""Its settings."""

METRICS = "metrics.jsonl"
"""What training logged."""

RESULTS = "results.jsonl"
"""What evaluations found, during training and later."""
