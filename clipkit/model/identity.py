"""Which model a file or a folder is: where it lies, and the SHA-256 that it is known by."""

from hashlib import sha256
from pathlib import Path

from clipkit.digests import file_sha256
from clipkit.errors import CheckpointError
from clipkit.model.formats import hugging_face
from clipkit.model.released import model_file


def resolved(source: str | Path) -> Path:
    """Return where a model's file or folder is, links followed; a released model is fetched if need be.

    Raises CheckpointError for what is not there or no regular file, DownloadError.
    """
    try:
        path = model_file(source).resolve(strict=True)
    except (OSError, RuntimeError) as error:  # the latter, until Python 3.12, for links in a circle
        raise _unreadable(source, error) from error
    if not (path.is_file() or path.is_dir()):  # a pipe would be waited for, and a device has no end
        raise CheckpointError(f"{path} is no regular file; expected a model file")
    return path


def model_sha256(path: Path) -> str:
    """SHA-256 of a model's file, in hex; of a folder, that of what `sha256sum` prints for its files.

    They are those of the model alone, in the order of their names. Raises CheckpointError.
    """
    try:
        if not path.is_dir():
            return file_sha256(path)
        lines = (f"{file_sha256(file)}  {file.name}\n" for file in hugging_face.files(path))
        return sha256("".join(lines).encode()).hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: Exception) -> CheckpointError:
    reason = (isinstance(error, OSError) and error.strerror) or error
    return CheckpointError(f"{path} cannot be read: {reason}; expected a model file")
