"""The on-disk dataset: its format, manifests, packing, and reading in the planned order."""
