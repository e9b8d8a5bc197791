"""What the fork server imports before it makes workers, so that they begin with all that they need."""

from clipkit.processes import lasting

with lasting():
    import clipkit.ingest.engines.local  # noqa: F401
