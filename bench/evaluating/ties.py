"""How many targets a query's own ties with: a peer breaks ties by chance, clipkit shares their places."""

from pathlib import Path

from clipkit.evaluate.pairs import embedded_pairs
from clipkit.model.checkpoint import load_model
from clipkit.shards.csv_set import CsvSet

_ROUNDING = 1e-6  # of a cosine in float32: nearer ones come out in either order


def mean_rank_slack(checkpoint: Path, table: Path) -> dict[str, float]:
    """By how much ties may move the mean rank of each direction, where each row's own caption is wanted."""
    pairs = embedded_pairs(load_model(checkpoint), CsvSet(table), workers=0)
    scores_NN = pairs.images.features_ND @ pairs.texts.features_ND.T
    own_N = scores_NN.diagonal()
    return {
        direction: float(((each_NN - own_N[:, None]).abs() <= _ROUNDING).sum() - len(own_N)) / len(own_N)
        for direction, each_NN in (("image_to_text", scores_NN), ("text_to_image", scores_NN.T))
    }


def differing(ours: dict[str, float], theirs: dict[str, float], slack: dict[str, float]) -> list[str]:
    """The figures that differ by more than 1e-6 of them, mean ranks by more than ties explain."""
    return [
        name
        for name, value in theirs.items()
        if abs(ours[name] - value) > 1e-6 * max(1, value) + slack.get(name.removesuffix("_mean_rank"), 0)
    ]
