"""ImageNet's validation set and ImageNetV2, in the forms that people have them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import ClassSet, imagenet_classes, listing
from clipkit.evaluate.ground_truth import DEVKIT, FORMS, devkit_beside, picture_number, read_ground_truth
from clipkit.evaluate.images import SUBSET, LabelledImages, labelled_tree, wrong_counts
from clipkit.evaluate.shard_images import read_shards, shards_at
from clipkit.evaluate.trees import Tree, tree_at

CLASSES = 1000
VALIDATION_EACH = 50
VALIDATION_IMAGES = VALIDATION_EACH * CLASSES
V2_EACH = 10
V2_IMAGES = V2_EACH * CLASSES
V2_NAME = "imagenetv2"
V2_SETS = ("matched-frequency", "threshold0.7", "top-images")
"""What the three sets are called; the first is meant where ImageNetV2 is given without more words."""


def imagenet_validation(
    root: Path, classes: ClassSet, *, labels: Path | None = None, allow_subset: bool = False
) -> LabelledImages:
    """The 50,000 validation pictures (Russakovsky et al. 2015), 50 of each of the 1,000 `classes`.

    `root` is ILSVRC2012_img_val.tar as it was downloaded, a folder with wnid folders or flat, or shards. What
    is flat needs the ground truth `labels` (see `read_ground_truth`; by default the development kit beside
    it), unless the names of the pictures end in their wnids. Raises EvaluationError for what does not fit.
    """
    wnids = classes.folder_labels
    if shards := shards_at(root, wnids):
        _refuse_labels(root, labels, "shards")
        return read_shards(
            root, shards, classes, name=classes.name, expected_each=VALIDATION_EACH, allow_subset=allow_subset
        )
    tree = tree_at(root, wnids)
    if _all_among(tree, _v2_labels()):
        raise EvaluationError(
            f"{root}: expected ImageNet's validation set, found folders named by numbers, as ImageNetV2's "
            "are: give it as --imagenet-v2"
        )
    if tree.folders or not tree.strays:
        _refuse_labels(root, labels, f"{len(tree.folders):,} folders")
        return labelled_tree(
            tree, wnids, name=classes.name, expected_each=VALIDATION_EACH, allow_subset=allow_subset
        )
    return _flat(tree, classes, labels, allow_subset)


def _refuse_labels(root: Path, labels: Path | None, found: str) -> None:
    if labels is not None:
        raise EvaluationError(
            f"{root}: expected pictures without class folders, since --imagenet-labels is given, found "
            f"{found}; leave {labels} out"
        )


def imagenet_v2(root: Path, *, allow_subset: bool = False) -> LabelledImages:
    """One of ImageNetV2's sets of 10,000 pictures: the archive, folders 0…999, shards (Recht et al. 2019).

    The number in a folder's name is the label: in sorted order "10" comes before "2", so positions mislead.
    The set is called `imagenetv2-threshold0.7` or `imagenetv2-top-images` if that stands in the name of the
    archive or folder, of a folder within or of one around it, and else `imagenetv2`. Raises
    EvaluationError as `labelled_tree` does.
    """
    labels, classes = _v2_labels(), imagenet_classes()
    if shards := shards_at(root, labels):
        name = _v2_name(*_names_of(root))
        return read_shards(root, shards, classes, name=name, expected_each=V2_EACH, allow_subset=allow_subset)
    tree = tree_at(root, labels)
    if _all_among(tree, classes.folder_labels):
        raise EvaluationError(
            f"{root}: expected ImageNetV2, whose folders are 0 to 999, found folders named by wnids: "
            "ImageNet's validation set is given as --imagenet-val"
        )
    # The folder within says it best: archives and folders are renamed.
    name = _v2_name(tree.inner, *_names_of(tree.root))
    return labelled_tree(tree, labels, name=name, expected_each=V2_EACH, allow_subset=allow_subset)


def _v2_labels() -> dict[str, int]:
    return {str(label): label for label in range(CLASSES)}


def _all_among(tree: Tree, labels: Mapping[str, int]) -> bool:
    return bool(tree.folders) and tree.folders.keys() <= labels.keys()


def _names_of(root: Path) -> Iterator[str]:
    """The names on the way to it, the nearest first: as it was given, and with links followed."""
    for given, resolved in zip_longest(*(reversed(path.parts) for path in (root.absolute(), root.resolve()))):
        yield from (name for name in (given, resolved) if name)


def v2_set(*names: str) -> str | None:
    """Return which of V2_SETS stands in the first of the names that has one, None if none does."""
    return next((each for name in names for each in V2_SETS if each in name.lower()), None)


def _v2_name(*names: str) -> str:
    found = v2_set(*names)
    return V2_NAME if found in (None, V2_SETS[0]) else f"{V2_NAME}-{found}"


def _flat(tree: Tree, classes: ClassSet, truth: Path | None, allow_subset: bool) -> LabelledImages:
    root, wnids = tree.root, classes.folder_labels
    found = {name: picture_number(name) for name in tree.strays}
    numbers = [each[0] for each in found.values() if each]
    if not numbers:
        raise EvaluationError(
            f"{root}: expected wnid folders, or pictures named ILSVRC2012_val_00000001.JPEG and so on, found "
            f"{listing(tree.strays)}"
        )
    if twice := [f"{number:08}" for number, count in Counter(numbers).items() if count > 1]:
        raise EvaluationError(f"{root}: expected each picture once, found several of {listing(twice)}")
    in_names = {each[0]: each[1] for each in found.values() if each and each[1]}
    if len(in_names) == len(numbers) and truth is None:
        if unknown := sorted(set(in_names.values()) - wnids.keys()):
            raise EvaluationError(
                f"{root}: expected ImageNet's 1,000 wnids in the names, found {listing(unknown)}"
            )
        labels = {number: wnids[wnid] for number, wnid in in_names.items()}
    else:
        labels = read_ground_truth(truth or _beside(root), classes.folders)
    kept = [name for name in tree.strays if (each := found[name]) and each[0] in labels]
    labels_K = tuple(labels[each[0]] for name in kept if (each := found[name]))
    others = [name for name, each in found.items() if each is None]
    fault = _fault(root, wnids, tree.strays, kept, labels_K, others)
    if fault and not (allow_subset and kept):
        raise EvaluationError(f"{fault}; {SUBSET}" if kept else fault)
    return LabelledImages(classes.name, root, tree.choose(kept), labels_K, partial=fault is not None)


def _fault(
    root: Path,
    wnids: dict[str, int],
    names: Sequence[str],
    kept: Sequence[str],
    labels: Sequence[int],
    others: Sequence[str],
) -> str | None:
    if others:
        return (
            f"{root}: expected pictures named ILSVRC2012_val_00000001.JPEG and so on, found {len(others):,} "
            f"others: {listing(others)}"
        )
    if len(kept) < len(names):
        unlabelled = sorted(set(names) - set(kept))
        return f"{root}: {len(unlabelled):,} pictures are not in the labels: {listing(unlabelled)}"
    return wrong_counts(root, wnids, Counter(labels), VALIDATION_EACH)


def _beside(root: Path) -> Path:
    devkit = devkit_beside(root)
    if not devkit.is_file():
        raise EvaluationError(
            f"{root}: its pictures lie in no class folders; --imagenet-labels must tell their classes: "
            f"{FORMS}; {DEVKIT} is found by itself in the same folder"
        )
    return devkit
