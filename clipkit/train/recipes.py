"""Published settings of training runs, by name, and what those runs reached.

As OpenCLIP's README gives them, with 128 samples on each of 8 GPUs; for YFCC with the rate and the length
of its docs/PRETRAINED.md. Adam's constants and the crops are OpenCLIP's defaults for ResNets.
"""

from dataclasses import dataclass
from typing import Any

LARGEST_ASPECT = 3.0
"""Of the pictures that those runs were trained on: long side / short side, as served."""


@dataclass(frozen=True)
class Recipe:
    """Settings of `TrainConfig` by name, and the zero-shot accuracies that were published for them."""

    settings: dict[str, Any]
    published: str


_SHARED = {
    "batch_size": 1024,
    "weight_decay": 0.1,
    "warmup": 10_000.0,
    "schedule": "cosine",
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "crop_scale": (0.9, 1.0),
}
_CC = {**_SHARED, "lr": 1e-3, "epochs": 30}
_YFCC = {**_SHARED, "lr": 5e-4, "epochs": 32}

RECIPES = {
    "cc3m-rn50": Recipe({"model": "RN50", **_CC}, "about 14% after epoch 5, 16% after 10, 18% after 20"),
    "cc3m-rn50x4": Recipe({"model": "RN50x4", **_CC}, "22.2%"),
    "cc12m-rn50": Recipe({"model": "RN50", **_CC}, "36.45%"),
    "yfcc15m-rn50": Recipe({"model": "RN50", **_YFCC}, "32.7%, and 27.9% on ImageNetV2"),
    "yfcc15m-rn101": Recipe({"model": "RN101", **_YFCC}, "34.8%, and 30.0% on ImageNetV2"),
}


def with_recipe(given: dict[str, Any]) -> dict[str, Any]:
    """Return the settings `given`, and those of the recipe that they name for what is not given.

    Not the recipe's epochs where samples are given, nor its sizes where a few are to be learned by heart.
    """
    recipe = RECIPES.get(given.get("recipe") or "")
    if recipe is None:
        return given
    if given.get("overfit") is not None:
        replaced = {"epochs", "batch_size", "warmup"}
    else:
        replaced = {"epochs"} if given.get("samples_seen") is not None else set()
    return {name: value for name, value in recipe.settings.items() if name not in replaced} | given


def description(name: str, config: dict[str, Any]) -> str:
    """Return in a line what a recipe sets, what `config` has otherwise, and what was published for it."""
    recipe = RECIPES[name]
    own = [
        f"{key} {_shown(config[key])} instead of {_shown(value)}"
        for key, value in recipe.settings.items()
        if config[key] != value
    ]
    settings = ", ".join(f"{key} {_shown(value)}" for key, value in recipe.settings.items())
    changed = f"; here {', '.join(own)}" if own else ""
    return (
        f"recipe {name}: {settings}{changed}. OpenCLIP published {recipe.published} (zero-shot top-1 on "
        "ImageNet), with whatever pictures of the list there were then; clipkit has not measured it"
    )


def _shown(value: Any) -> str:
    match value:
        case float() | int():
            return f"{value:,.0f}" if value >= 1000 else f"{value:g}"
        case list() | tuple():
            return " to ".join(f"{each:g}" for each in value)
    return str(value)
