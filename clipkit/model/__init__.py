"""The model stage: networks, tokenizer, preprocessing, named configurations, checkpoints, conversion."""
