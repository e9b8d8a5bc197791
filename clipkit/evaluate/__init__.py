"""Zero-shot classification, the record of its results, and plots."""
