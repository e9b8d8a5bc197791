"""Zero-shot classification, retrieval, the record of their results, and plots."""
