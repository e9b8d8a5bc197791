"""OpenAI's released CLIPs: where they are published, and the files of them on this machine.

Addresses and file names are those of OpenAI's `clip` package, and so is the folder: what either of the two
has fetched is used by both.
"""

from collections.abc import Mapping
from pathlib import Path

from clipkit.downloads import PATIENCE, Patience, Wanted, download
from clipkit.errors import CheckpointError, ConfigError
from clipkit.model.config import named_config

_PUBLISHED = "https://openaipublic.azureedge.net/clip/models"
_SHA256 = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}
RELEASED: Mapping[str, str] = {
    name: f"{_PUBLISHED}/{sha256}/{name.replace('/', '-').replace('@', '-')}.pt"
    for name, sha256 in _SHA256.items()
}
"""The address of each; its last folder is the file's sha256."""

LARGEST = 2 << 30
"""Bytes: the largest of them, RN50x64, has 1.3 GB."""


def available_models() -> list[str]:
    """Names of OpenAI's released models, which `clipkit.load` takes as they are, as `clip.load` does."""
    return list(RELEASED)


def default_folder() -> Path:
    """Return the folder that OpenAI's package keeps them in."""
    return Path("~/.cache/clip").expanduser()


def released_name(name: str) -> str | None:
    """Which released model `name` means, written with slashes or dashes; None if none."""
    if name in RELEASED:
        return name
    try:
        written = named_config(name).name
    except ConfigError:
        return None
    return written if written in RELEASED else None


def released_file(
    name: str,
    folder: Path | None = None,
    *,
    addresses: Mapping[str, str] = RELEASED,
    patience: Patience = PATIENCE,
) -> Path:
    """Return the file of one of `available_models()` in `folder`, fetched if it is not there.

    Raises DownloadError, with what to do without a network.
    """
    address = addresses[name]
    *_, sha256, file = address.split("/")
    return download(Wanted(address, sha256, LARGEST), (folder or default_folder()) / file, patience)


def model_file(source: str | Path) -> Path:
    """Return the path itself where something is there, or else the released model's file of that name.

    Raises CheckpointError for what is neither.
    """
    path = Path(source)
    if path.exists() or path.is_symlink():  # one that leads nowhere becomes no name
        return path
    name = released_name(str(source))
    if name is None:
        raise no_such_model(source)
    return released_file(name)


def published_sha256(source: str | Path) -> str | None:
    """The SHA-256 of the released model that `model_file` takes `source` for, without its file; else None."""
    path = Path(source)
    name = None if path.exists() or path.is_symlink() else released_name(str(source))
    return _SHA256[name] if name else None


def no_such_model(source: str | Path) -> CheckpointError:
    """The error for what is neither a file nor one of `available_models()`."""
    names = ", ".join(available_models())
    return CheckpointError(f"there is no file {source}: give the path of a checkpoint, or one of {names}")
