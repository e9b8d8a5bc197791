"""Names of the formats that models are converted to, without anything that is slow to import."""

FORMAT_NAMES = ("openai", "open-clip", "hf", "safetensors", "clipkit")
