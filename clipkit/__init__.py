"""clipkit: from a list of image URLs to a trained, evaluated CLIP model.

The interface is that of OpenAI's `clip`, so that scripts run with `import clipkit as clip`. Names are
resolved on first use: importing the package loads neither torch nor pyarrow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clipkit import _version

if TYPE_CHECKING:
    from clipkit.model.load import load
    from clipkit.model.released import available_models
    from clipkit.model.tokenizer import tokenize
    from clipkit.shards.shard_set import ShardSet

__all__ = ["ShardSet", "__version__", "available_models", "load", "tokenize"]

__version__ = _version.VERSION

_HOMES = {
    "ShardSet": "clipkit.shards.shard_set",
    "available_models": "clipkit.model.released",
    "load": "clipkit.model.load",
    "tokenize": "clipkit.model.tokenizer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'clipkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
