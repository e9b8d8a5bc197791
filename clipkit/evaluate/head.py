"""The linear head of a fine-tuned classifier, as it stands in a checkpoint beside the CLIP's own weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipkit.errors import CheckpointError
from clipkit.evaluate.classes import ClassSet, listing, repeats
from clipkit.model.config import ClipConfig
from clipkit.model.weights import HEAD_KEY, check_size

_LISTS = ("folders", "names", "templates")


@dataclass(frozen=True)
class Head:
    """Weights (D, N) for the features of the image tower beside them, one column a class of `classes`.

    A picture is of the class whose column has the largest product with its feature of length 1, as with the
    zero-shot classifier that the head was made of: `templates` are that one's.
    """

    classes: ClassSet
    weights_DN: torch.Tensor

    def fits(self, classes: ClassSet) -> bool:
        """Whether its columns are those classes, by their names; prompts play no part any more."""
        return self.classes.names == classes.names

    def stored(self) -> dict[str, Any]:
        """Return it as plain Python and a tensor: what a checkpoint has under `HEAD_KEY`."""
        return {
            "name": self.classes.name,
            "folders": list(self.classes.folders),
            "names": [list(names) for names in self.classes.names],
            "templates": list(self.classes.templates),
            "weights": self.weights_DN.detach(),
        }


def read_head(extra: Mapping[str, Any], config: ClipConfig, path: Path) -> Head | None:
    """Return the head that `stored` put into a checkpoint, on the CPU; None if there is none.

    `extra` is what the file at `path` holds beside the CLIP. Raises CheckpointError for what is no head of
    that model.
    """
    if HEAD_KEY not in extra:
        return None
    found = extra[HEAD_KEY]
    fault = CheckpointError(f"{path} has a {HEAD_KEY} that is none of a {config.name}: restore the file")
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise fault
    if not found.keys() >= {*_LISTS, "weights"}:
        raise fault
    check_size({name: found[name] for name in _LISTS}, HEAD_KEY, path)
    folders, names, templates = (found[name] for name in _LISTS)
    if not (_is_texts(folders) and _is_texts(templates) and isinstance(names, list)):
        raise fault
    if not all(_is_texts(each) for each in names) or len(names) != len(folders):
        raise fault
    if again := repeats(folders):
        raise CheckpointError(f"{path} has a {HEAD_KEY} with {listing(again)} twice: restore the file")
    weights_DN = found["weights"]
    if not isinstance(weights_DN, torch.Tensor) or weights_DN.dtype != torch.float32:
        raise fault
    if weights_DN.shape != (config.embed_dim, len(folders)) or not weights_DN.isfinite().all():
        raise fault
    classes = ClassSet(found["name"], tuple(folders), tuple(map(tuple, names)), tuple(templates))
    return Head(classes, weights_DN)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)
