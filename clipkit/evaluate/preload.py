"""What the fork server imports before it makes workers, so that they share all of it and begin at once."""

from clipkit.processes import lasting

with lasting():
    from PIL import Image

    import clipkit.evaluate.pairs  # noqa: F401 (it needs all that decoding does)

    Image.init()
