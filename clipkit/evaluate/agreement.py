"""What the processes of an evaluation must agree on, which several machines may see differently."""

from collections.abc import Sequence
from typing import Any

from clipkit._version import VERSION
from clipkit.agreement import differing
from clipkit.errors import ConfigError
from clipkit.evaluate.caption_sets import CaptionSet
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.ranks import Ranks
from clipkit.evaluate.sets import ZeroShotSet


def check_same(
    config: EvaluateConfig,
    about: dict[str, Any],
    sets: Sequence[ZeroShotSet],
    pairs: Sequence[CaptionSet],
    ranks: Ranks,
) -> None:
    """Raise ConfigError in all processes unless all evaluate the same model alike on the same data.

    `about` is what a record says of the model. All call it together. A machine may have the data at another
    path, and as many processes and workers as suit it.
    """
    if ranks.size == 1:
        return
    things = {
        "versions of clipkit": VERSION,
        "models": [about["checkpoint_sha256"], about["model"]],
        "settings": [config.batch_size, config.cache],
        "classes": [[each.classes.names_sha256, each.classes.templates_sha256] for each in sets],
        "pictures": [[list(each.images.pictures.names), each.images.labels] for each in sets],
        "captions": [each.samples.fingerprint for each in pairs],
    }
    if found := differing(things, ranks):
        raise ConfigError(
            "expected all processes to evaluate the same model on the same sets, found different "
            f"{', '.join(found)}: give the same command, model and data on all machines"
        )
