"""What an evaluation is asked to measure."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

IMAGE_BATCH = 64


class EvaluateConfig(BaseModel):
    """What to evaluate on. `folder` and `classes` belong together; `templates` replace those of every set.

    Without `templates`, ImageNet's sets use OpenAI's 80, a folder "a photo of a {}.". `workers` None lets the
    size of the set decide.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    imagenet_val: Path | None = None
    imagenet_v2: Path | None = None
    folder: Path | None = None
    classes: Path | None = None
    templates: Path | None = None
    batch_size: int = Field(default=IMAGE_BATCH, ge=1)
    workers: int | None = Field(default=None, ge=0)
    allow_subset: bool = False

    @model_validator(mode="after")
    def _folder_with_classes(self) -> Self:
        if (self.folder is None) != (self.classes is None):
            given, lacking = ("--classes", "--folder") if self.folder is None else ("--folder", "--classes")
            raise ValueError(f"{given} needs {lacking}: a CSV folder,names tells what each folder shows")
        return self
