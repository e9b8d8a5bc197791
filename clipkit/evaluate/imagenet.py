"""ImageNet's validation set and ImageNetV2 as unpacked folders."""

from pathlib import Path

from clipkit.errors import EvaluationError
from clipkit.evaluate.images import LabelledImages, read_folder

CLASSES = 1000
VALIDATION_IMAGES = 50_000
V2_IMAGES = 10_000


def imagenet_validation(root: Path, wnids: tuple[str, ...], *, allow_subset: bool = False) -> LabelledImages:
    """The 50,000 validation pictures in 1,000 folders named by wnid (Russakovsky et al. 2015).

    `wnids` are the class folders in label order. Raises EvaluationError as `read_folder` does.
    """
    _refuse_file(root, "a folder of 1,000 wnid folders")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    return read_folder(
        root, labels, name="imagenet", expected_images=VALIDATION_IMAGES, allow_subset=allow_subset
    )


def imagenet_v2(root: Path, *, allow_subset: bool = False) -> LabelledImages:
    """One of ImageNetV2's sets of 10,000 pictures, unpacked: folders named 0…999 (Recht et al. 2019).

    The number in a folder's name is the label: in sorted order "10" comes before "2", so positions mislead.
    Raises EvaluationError as `read_folder` does.
    """
    _refuse_file(root, "the unpacked folder with 0…999 in it")
    labels = {str(label): label for label in range(CLASSES)}
    return read_folder(root, labels, name="imagenetv2", expected_images=V2_IMAGES, allow_subset=allow_subset)


def _refuse_file(root: Path, expected: str) -> None:
    if root.is_file():
        raise EvaluationError(f"{root}: expected {expected}, found a file; unpack it and give the folder")
