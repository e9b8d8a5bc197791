"""What stands for a decoder and a tokenizer. Loader processes import this, and nothing that takes long."""

import numpy as np


def transform(image: bytes, key: int) -> np.ndarray:
    """Pixels that depend on the bytes and on the key, so that both are compared."""
    digest = np.frombuffer(image[-24:], np.uint8).copy()
    digest[:8] ^= np.frombuffer(key.to_bytes(8, "little"), np.uint8)
    return digest.reshape(3, 2, 4)


def tokenize(captions: list[str]) -> np.ndarray:
    """The number at a caption's end."""
    return np.array([[int(caption.rsplit(" ", 1)[1])] for caption in captions])
