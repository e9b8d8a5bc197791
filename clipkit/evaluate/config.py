"""What an evaluation is asked to measure."""

import os
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from clipkit.cpus import MOST_WORKERS
from clipkit.launched import TIMEOUT

IMAGE_BATCH = 64


def _text(value: Any) -> Any:
    return str(value.absolute()) if isinstance(value, Path) else value  # a Path is never a list's name


class EvaluateConfig(BaseModel):
    """What to evaluate on. `folder` and `classes` belong together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    imagenet_val: Path | None = Field(
        None, description="ImageNet validation: ILSVRC2012_img_val.tar as it is, a folder, or shards."
    )
    imagenet_labels: Path | None = Field(
        None,
        description="The classes of an --imagenet-val without class folders: the devkit archive, "
        "LOC_val_solution.csv, lines `name wnid`. Default: the devkit beside it.",
    )
    imagenet_v2: Path | None = Field(
        None, description="ImageNetV2: one of the three archives as it is, folders 0…999, or shards."
    )
    folder: Path | None = Field(
        None, description="Any folder or tar with one folder a class, or shards with classes."
    )
    classes: Path | None = Field(
        None,
        description="CSV for --folder: columns folder,names (or wnid or index,names); names separated by |.",
    )
    val_shards: str | None = Field(
        None,
        description="Retrieval on a dataset directory, its address, or tars of other tools, as in train.",
    )
    val_csv: Path | None = Field(
        None,
        description="Instead of --val-shards: a table of pictures here, as OpenCLIP's CSV is.",
    )
    image_col: str = Field("filepath", description="The table's column of paths, from the table's folder.")
    caption_col: str = Field("title", description="The table's column of captions.")
    separator: str | None = Field(
        None, description="What stands between the table's columns. Default: found, of tab , ; and |"
    )
    templates: Annotated[str | None, BeforeValidator(_text)] = Field(
        None,
        description="Prompts of every set: openai-80, openai-7 (OpenAI's lists), or a file, one a line, {} "
        "for the name. Default: openai-80 for ImageNet, 'a photo of a {}.' for --folder.",
    )
    allow_subset: bool = Field(False, description="Accept fewer classes or pictures, and say so.")
    per_class: Path | None = Field(
        None, description="Write a CSV of every class: recall, top-5, what it is taken for the most often."
    )
    predictions: Path | None = Field(
        None, description="Write a CSV of every picture: its class, and the nearest five."
    )
    results: Path | None = Field(
        None,
        description="Add the results to this file. Default: the run's results.jsonl, or beside the model.",
    )
    cache: bool = Field(
        True, description="Encode the prompts of a model once, and keep the classifier in the user's cache."
    )
    batch_size: PositiveInt = Field(IMAGE_BATCH, description="Pictures in a batch.")
    workers: NonNegativeInt | None = Field(
        None,
        le=MOST_WORKERS,
        description="Threads that decode, of each process that evaluates. Default: one a CPU.",
    )
    processes: PositiveInt | None = Field(
        None, description="Processes on this machine. Default: one a GPU, one without a GPU."
    )
    timeout: PositiveFloat = Field(
        TIMEOUT, le=1e6, description="Seconds that processes wait for one another."
    )

    @model_validator(mode="after")
    def _given_together(self) -> Self:
        if (self.folder is None) != (self.classes is None):
            given, lacking = ("--classes", "--folder") if self.folder is None else ("--folder", "--classes")
            raise ValueError(f"{given} needs {lacking}: a CSV folder,names tells what each folder shows")
        if self.imagenet_labels is not None and self.imagenet_val is None:
            raise ValueError("--imagenet-labels needs --imagenet-val, whose pictures it labels")
        if self.val_shards is not None and self.val_csv is not None:
            raise ValueError("expected one of --val-shards and --val-csv, found both")
        written = {
            "--per-class": self.per_class,
            "--predictions": self.predictions,
            "--results": self.results,
        }
        places: dict[str, str] = {}
        for option, path in written.items():
            if path is not None and (other := places.setdefault(os.path.realpath(path), option)) != option:
                raise ValueError(f"{other} and {option}: expected two files, found one: {path}")
        return self
