"""Which prompt templates an evaluation uses: OpenAI's published lists by name, or a file of one's own."""

from collections.abc import Callable, Mapping
from pathlib import Path

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import imagenet_classes, read_templates

OPENAI_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The short list that OpenAI found by forward selection on ImageNet's training set, of its 80."""

NAMED: Mapping[str, Callable[[], tuple[str, ...]]] = {
    "openai-7": lambda: OPENAI_7,
    "openai-80": lambda: imagenet_classes().templates,
}
"""Lists by the names that `--templates` takes."""


def templates_of(given: str) -> tuple[str, ...]:
    """Return the templates of a name in `NAMED`, else of the file of that path.

    A name always means the list; a file that is called like one is given as `./openai-7`. Raises
    EvaluationError as `read_templates` does.
    """
    if given in NAMED:
        return NAMED[given]()
    if not Path(given).exists():
        raise EvaluationError(
            f"{given}: the template file is not there; expected a file, or one of {', '.join(NAMED)}"
        )
    return read_templates(Path(given))
