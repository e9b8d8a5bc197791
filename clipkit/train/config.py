"""What a training run is: the settings that its numbers follow from."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from clipkit.cpus import MOST_WORKERS
from clipkit.errors import ConfigError
from clipkit.launched import TIMEOUT
from clipkit.model.config import ClipConfig, named_config
from clipkit.shards.bad_samples import MAX_BAD
from clipkit.train.recipes import RECIPES, with_recipe
from clipkit.units import Share

Rate = Annotated[float, Field(gt=0, le=100)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Resume = Literal["auto", "must", "never"]
Precision = Literal["fp32", "bf16", "fp16"]

OVERFIT_PASSES = 100
PAPER_EPOCHS = 32
PAPER_LEARNING_RATE = 5e-4
PAPER_BETA1 = 0.9
PAPER_BETA2 = {"resnet": 0.999, "vit": 0.98}
PAPER_EPSILON = {"resnet": 1e-8, "vit": 1e-6}


class TrainConfig(BaseModel):
    """Settings of a run. None means: as in the CLIP paper (arXiv 2103.00020, tables 18 to 20) for the family.

    The paper trains 32 epochs at batch 32,768 with weight decay 0.2, 2,000 warm-up steps, a cosine to zero,
    Adam's β₁ 0.9, and β₂, ε = 0.999, 1e-8 for ResNets and 0.98, 1e-6 for ViTs; the peak learning rate is
    5e-4 (4e-4 for RN50x16 and ViT-L/14, 3.6e-4 for RN50x64: give those with `lr`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    recipe: str | None = Field(
        None, description=f"Published settings for what is not given: {', '.join(RECIPES)}."
    )
    model: str = Field("RN50", description="A named configuration: see `clipkit models`.")
    pretrained: str | None = Field(
        None, description="Begin with a model file of any format, or RN50, ViT-B/32 …"
    )
    lock_image: bool = Field(False, description="Leave the image tower of --pretrained as it is.")
    lock_text: bool = Field(False, description="Leave the text tower of --pretrained as it is.")
    batch_size: PositiveInt = Field(128, description="Samples in a batch over all processes together.")
    accumulate: PositiveInt = Field(
        1, description="Parts that each process's share of a batch is computed in: less memory, same loss."
    )
    epochs: PositiveInt | None = Field(None, description="Default: 32, as in the CLIP paper.")
    samples_seen: PositiveInt | None = Field(None, description="Instead of epochs.")
    lr: Rate | None = Field(None, description="Peak learning rate. Default: 5e-4.")
    beta1: Decay | None = Field(None, description="Adam's β₁. Default: 0.9.")
    beta2: Decay | None = Field(None, description="Adam's β₂. Default: 0.999, ViTs 0.98.")
    eps: PositiveFloat | None = Field(None, description="Adam's ε. Default: 1e-8, ViTs 1e-6.")
    weight_decay: NonNegativeFloat = Field(0.2, description="Not on gains, biases and logit scale.")
    warmup: NonNegativeFloat | None = Field(
        None, description="Steps, or a fraction below 1. Default: 2,000, at most a tenth."
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="cosine or constant, after the warm-up. A constant run can be lengthened later."
    )
    grad_clip: PositiveFloat | None = Field(None, description="Largest L2 norm of the whole gradient.")
    precision: Precision | None = Field(
        None, description="fp32, bf16 or fp16. Default: bf16 on CUDA, else fp32."
    )
    tf32: bool | None = Field(
        None, description="Products of float32 with 10 bits of mantissa. Default: allowed, on CUDA."
    )
    compile: bool = Field(False, description="Through torch.compile: minutes first, then faster steps.")
    grad_checkpointing: bool = Field(False, description="Less memory, up to a third more time; same results.")
    sync_batch_norm: bool = Field(
        False, description="ResNets: normalise over the samples of all processes together."
    )
    crop_scale: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.9, 1.0), description="Least and largest share of the picture in a crop."
    )
    flip: bool = Field(False, description="Mirror half of the pictures.")
    color_jitter: tuple[Fraction, Fraction, Fraction, Fraction] | None = Field(
        None, description="Strengths for brightness, contrast, saturation and hue."
    )
    color_jitter_probability: Fraction = Field(0.8, description="Share of pictures jittered.")
    gray_scale_probability: Fraction = Field(0.0, description="Share of pictures made grey.")
    seed: NonNegativeInt = Field(0, lt=2**63, description="Of weights, order and crops.")
    streams: PositiveInt = Field(
        64,
        le=256,  # the byte ranges of more would be read again and again
        description="Stretches of the data read in turn: more mix it better, of more shards at once.",
    )
    workers: NonNegativeInt = Field(
        4, le=MOST_WORKERS, description="Loader processes of each training process."
    )
    processes: PositiveInt | None = Field(
        None, description="Training processes on this machine. Default: one a GPU, one without a GPU."
    )
    timeout: PositiveFloat = Field(
        TIMEOUT, le=1e6, description="Seconds that processes wait for one another."
    )
    max_bad: Share = Field(
        MAX_BAD, description="Share of samples that may be unreadable; ten may in any case."
    )
    resume: Resume = Field(
        "auto",
        description="auto goes on from the run's newest checkpoint, or begins it; must fails where there is "
        "none, never where there is a run of that name.",
    )
    save_every: PositiveInt | None = Field(500_000, description="Samples between checkpoints.")
    save_minutes: PositiveFloat = Field(
        30.0, description="A checkpoint too when the last is so old. At each epoch there is one in any case."
    )
    evaluate_epochs: PositiveInt | None = Field(
        None, description="Epochs between evaluations, besides the first and the last. Default: 1."
    )
    evaluate_samples: PositiveInt | None = Field(
        None, description="Instead of --evaluate-epochs: samples between evaluations."
    )
    log_every: PositiveInt = Field(10, description="Steps between lines of metrics.jsonl.")
    keep: PositiveInt | None = Field(
        None, description="Newest checkpoints that stay. Default: all epochs', two others."
    )
    overfit: PositiveInt | None = Field(
        None,
        description="Learn the first so many samples by heart, to see that it can be done: 100 epochs.",
    )
    wandb: bool = Field(False, description="Log to Weights & Biases too.")
    wandb_project: str = Field("clipkit", min_length=1, description="The project there.")

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        given = with_recipe(given)
        overfit = given.get("overfit")
        if not isinstance(overfit, int):
            return given
        return {"batch_size": min(cls.model_fields["batch_size"].default, overfit)} | given

    @field_validator("recipe")
    @classmethod
    def _check_recipe(cls, name: str | None) -> str | None:
        if name is not None and name not in RECIPES:
            raise ValueError(f"no recipe is called {name!r}; there are {', '.join(RECIPES)}")
        return name

    @field_validator("model")
    @classmethod
    def _check_model(cls, name: str) -> str:
        try:
            named_config(name)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return name

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs is not None and self.samples_seen is not None:
            raise ValueError("--epochs and --samples-seen both say how long to train: give one of them")
        if self.evaluate_epochs is not None and self.evaluate_samples is not None:
            raise ValueError("--evaluate-epochs and --evaluate-samples both say when to evaluate: give one")
        if self.warmup is not None and self.warmup >= 1 and not self.warmup.is_integer():
            raise ValueError(
                f"--warmup is a fraction below 1 or a whole number of steps, found {self.warmup}"
            )
        if self.lock_image and self.lock_text:
            raise ValueError("--lock-image and --lock-text together leave nothing to train: give one of them")
        if self.sync_batch_norm and named_config(self.model).vision.kind == "vit":
            raise ValueError(f"{self.model} has no batch norm: leave out --sync-batch-norm")
        if not self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(
                f"--crop-scale is two fractions of the area, smaller first, found {self.crop_scale}"
            )
        return self

    def resolved(self, model: ClipConfig, device_type: str) -> "ResolvedConfig":
        """Return the settings with the defaults for `model` filled in, as they are stored with a run."""
        family = model.vision.kind
        given = self.model_dump()  # of all settings: no recipe fills in any again
        defaults: dict[str, Any] = {
            "lr": PAPER_LEARNING_RATE,
            "beta1": PAPER_BETA1,
            "beta2": PAPER_BETA2[family],
            "eps": PAPER_EPSILON[family],
            "precision": "bf16" if device_type == "cuda" else "fp32",
            "tf32": device_type == "cuda",
        }
        if self.samples_seen is None:
            defaults["epochs"] = OVERFIT_PASSES if self.overfit else PAPER_EPOCHS
        filled = {name: value for name, value in defaults.items() if given[name] is None}
        return ResolvedConfig.model_validate(given | filled | {"model": model.name})


class ResolvedConfig(TrainConfig):
    """A TrainConfig in which nothing is left to the model's family or the device."""

    lr: Rate
    beta1: Decay
    beta2: Decay
    eps: PositiveFloat
    precision: Precision
    tf32: bool
