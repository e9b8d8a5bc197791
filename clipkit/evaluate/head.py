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

    def weights_for(self, classes: ClassSet) -> torch.Tensor | None:
        """Return the weights with their columns in the order of `classes`; None if these are not its classes.

        Classes are told by their names, whatever the order of those; folders and prompts play no part.
        """
        if self.classes.names == classes.names:
            return self.weights_DN
        own, wanted = _by_names(self.classes), _by_names(classes)
        if own.keys() != wanted.keys() or not len(own) == len(self.classes) == len(classes):
            return None
        return self.weights_DN[:, [own[names] for names in wanted]]

    def record(self, classes: ClassSet) -> dict[str, Any]:
        """Return what the record of a set of `classes` says of it: that it classified, or why prompts did."""
        if self.weights_for(classes) is None:
            return {"head_left_out": self.difference(classes)}
        templates = self.classes.templates
        return {
            "kind": "fine-tuned",
            "templates": len(templates),
            "templates_sha256": self.classes.templates_sha256,
        }

    def difference(self, classes: ClassSet) -> str:
        """Return, for messages, how its classes and those of another set, which are not the same, differ."""
        shared = len(_by_names(self.classes).keys() & _by_names(classes).keys())
        return f"it has {len(self.classes):,} classes, the set {len(classes):,}, with {shared:,} in common"

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


def _by_names(classes: ClassSet) -> dict[frozenset[str], int]:
    return {frozenset(names): label for label, names in enumerate(classes.names)}
