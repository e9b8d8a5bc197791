"""What a fine-tuning is: its pictures, the settings of its training, the points of the line to measure."""

from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from clipkit.cpus import MOST_WORKERS
from clipkit.shards.bad_samples import MAX_BAD
from clipkit.train.config import Fraction, Precision, Rate, ResolvedConfig, TrainConfig
from clipkit.train.length import warmup_steps
from clipkit.units import Share

PAPER_WARMUP = 500


def _split(value: Any) -> Any:
    return [each for each in value.split(",") if each.strip()] if isinstance(value, str) else value


def _without_sign(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(abs(value) for value in values)  # -0.0 is 0, and names the same file


Alphas: TypeAlias = Annotated[tuple[Fraction, ...], BeforeValidator(_split), AfterValidator(_without_sign)]
"""Numbers of 0…1; as text, with commas between them."""


class FinetuneConfig(BaseModel):
    """Settings of a fine-tuning; the defaults are those of the paper (Wortsman et al., arXiv 2109.01903).

    It trains 10 epochs in batches of 512 with AdamW (β 0.9 and 0.999, ε 1e-8), a peak learning rate of 3e-5,
    weight decay 0.1, 500 steps of warm-up, a cosine to zero, and gradients clipped to norm 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    folder: Path = Field(description="The pictures to learn from: one folder a class.")
    classes: Path | None = Field(
        None,
        description="CSV of the classes of all folders: columns folder,names; names separated by |. "
        "Default: ImageNet's, by wnid.",
    )
    templates: str | None = Field(
        None,
        description="Prompts of the zero-shot classifier: openai-80, openai-7, or a file, one a line, {} for "
        "the name. Default: openai-80 for ImageNet, else 'a photo of a {}.'",
    )
    val_folder: Path | None = Field(
        None, description="The in-distribution set. Default: --imagenet-val, or a share of --folder."
    )
    val_share: float = Field(
        0.1, gt=0, lt=1, description="Of each class of --folder, what is held out where no set is given."
    )
    imagenet_val: Path | None = Field(
        None, description="ImageNet validation, in any form that evaluate takes: the in-distribution set."
    )
    imagenet_labels: Path | None = Field(
        None, description="The classes of an --imagenet-val without class folders, as evaluate takes them."
    )
    imagenet_v2: Path | None = Field(None, description="ImageNetV2, likewise: a shifted set.")
    shifted: list[Path] | None = Field(
        None, description="A folder of the same classes, otherwise distributed; any number of them."
    )
    allow_subset: bool = Field(False, description="Accept fewer classes or pictures, and say so.")
    batch_size: PositiveInt = Field(512, description="Pictures in a batch.")
    epochs: PositiveInt = Field(10, description="Passes over the pictures.")
    lr: Rate = Field(3e-5, description="Peak learning rate.")
    weight_decay: NonNegativeFloat = Field(0.1, description="Not on gains and biases.")
    warmup: NonNegativeFloat | None = Field(
        None, description="Steps, or a fraction below 1. Default: 500, at most a tenth."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target spread over all classes."
    )
    grad_clip: PositiveFloat = Field(1.0, description="Largest L2 norm of the whole gradient.")
    freeze_image: bool = Field(False, description="Train the head alone.")
    crop_scale: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.9, 1.0), description="Least and largest share of the picture in a crop."
    )
    flip: bool = Field(False, description="Mirror half of the pictures.")
    precision: Precision | None = Field(
        None, description="fp32, bf16 or fp16. Default: bf16 on CUDA, else fp32."
    )
    seed: NonNegativeInt = Field(0, lt=2**63, description="Of order and crops.")
    workers: NonNegativeInt = Field(4, le=MOST_WORKERS, description="Loader processes.")
    max_bad: Share = Field(
        MAX_BAD, description="Share of samples that may be unreadable; ten may in any case."
    )
    save_minutes: PositiveFloat = Field(
        30.0, description="A checkpoint too when the last is so old. At each epoch there is one in any case."
    )
    log_every: PositiveInt = Field(10, description="Steps between lines of metrics.jsonl.")
    keep: PositiveInt | None = Field(
        None, description="Newest checkpoints that stay. Default: all epochs', two others."
    )
    alphas: Alphas = Field(
        tuple(tenth / 10 for tenth in range(11)),
        min_length=1,
        description="Points of the line to measure, from 0, the zero-shot model, to 1, the fine-tuned one.",
    )
    save_alpha: Alphas = Field((), description="Of these points the model is kept, such as 0.5,0.8.")
    plot: Path | None = Field(
        None, description="The line as a picture, .png or .svg. Default: line.png in the run's folder."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.imagenet_labels is not None and self.imagenet_val is None:
            raise ValueError("--imagenet-labels needs --imagenet-val, whose pictures it labels")
        if not self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(
                f"--crop-scale is two fractions of the area, smaller first, found {self.crop_scale}"
            )
        return self

    @property
    def evaluating_workers(self) -> int | None:
        """Processes that decode for evaluations; None: by the size of the set."""
        return None if self.workers else 0

    @property
    def points(self) -> tuple[float, ...]:
        """Every α to measure, in order, each once: those whose model is kept too."""
        return tuple(sorted({*self.alphas, *self.save_alpha}))

    def training(self, device_type: str) -> ResolvedConfig:
        """Return what of it the trainer knows, with the paper's settings for the rest."""
        own = self.model_dump(include=TrainConfig.model_fields.keys() & type(self).model_fields.keys())
        on_cuda = device_type == "cuda"
        fixed = {
            "beta1": 0.9,
            "beta2": 0.999,
            "eps": 1e-8,
            "tf32": on_cuda,
            "precision": self.precision or ("bf16" if on_cuda else "fp32"),
            "save_every": None,
        }
        return ResolvedConfig.model_validate(own | fixed)

    def warmup_steps(self, training: TrainConfig, steps: int) -> int:
        """Return the warm-up in steps. Raises ConfigError if it leaves nothing of `steps` steps."""
        return min(PAPER_WARMUP, steps // 10) if self.warmup is None else warmup_steps(training, steps)

    def settings(self) -> dict[str, Any]:
        """Return what decides the fine-tuned weights beside what the trainer and the data's identity say."""
        return self.model_dump(mode="json", include={"label_smoothing", "freeze_image"})
