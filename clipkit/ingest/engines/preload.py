"""What the fork server imports before it makes workers, so that they begin with all that they need."""

from clipkit.processes import lasting

with lasting():
    # Pillow by itself loads all the formats that it knows when the first WebP or AVIF comes, in each worker.
    from PIL import AvifImagePlugin, Image, WebPImagePlugin  # noqa: F401

    import clipkit.ingest.engines.local  # noqa: F401

    Image.preinit()
