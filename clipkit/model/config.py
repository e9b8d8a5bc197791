"""Model configurations as data: OpenAI's nine CLIPs (Radford et al. 2021, tables 19-20), and small ones."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clipkit.differences import differences
from clipkit.errors import ConfigError

# Bounds far beyond any real model: a configuration read from a file must not be able to ask for the whole
# memory.
Width = Annotated[int, Field(ge=16, le=16_384)]
Depth = Annotated[int, Field(ge=1, le=256)]
Side = Annotated[int, Field(ge=8, le=4_096)]

HEAD_WIDTH = 64
STRIDE = 32
OPENAI_CONTEXT_LENGTH = 77
OPENAI_VOCABULARY = 49_408
QUICK_GELU_SUFFIX = "-quickgelu"
GELU_SUFFIX = "-gelu"


class ResNetConfig(BaseModel):
    """OpenAI's modified ResNet: bottleneck blocks in four layers, then attention pooling."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["resnet"] = "resnet"
    layers: tuple[Depth, Depth, Depth, Depth]
    width: Width
    image_size: Side

    @property
    def heads(self) -> int:
        """Heads of the attention pool."""
        return self.width * 32 // HEAD_WIDTH

    @property
    def grid(self) -> int:
        """Side of the last feature map."""
        return self.image_size // STRIDE

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image_size % STRIDE:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {STRIDE}")
        if self.width % 2:
            raise ValueError(f"width {self.width} is odd")
        return self


class ViTConfig(BaseModel):
    """A vision transformer over square patches, with heads of width 64."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["vit"] = "vit"
    layers: Depth
    width: Width
    patch_size: Annotated[int, Field(ge=1, le=256)]
    image_size: Side

    @property
    def heads(self) -> int:
        """Attention heads of each block."""
        return self.width // HEAD_WIDTH

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.width % HEAD_WIDTH:
            raise ValueError(f"vision width {self.width} is not a multiple of {HEAD_WIDTH}")
        return self


class TextConfig(BaseModel):
    """The causal text transformer over OpenAI's byte-pair tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    context_length: Annotated[int, Field(ge=3, le=4_096)] = OPENAI_CONTEXT_LENGTH
    vocab_size: Annotated[int, Field(ge=4, le=1_000_000)] = OPENAI_VOCABULARY
    width: Width
    heads: Annotated[int, Field(ge=1, le=256)]
    layers: Depth

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"text width {self.width} is not a multiple of its {self.heads} heads")
        return self


class ClipConfig(BaseModel):
    """One CLIP model: an image tower, a text tower, and the space that both project into."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=100)]
    embed_dim: Width
    vision: Annotated[ResNetConfig | ViTConfig, Field(discriminator="kind")]
    text: TextConfig
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"

    @property
    def image_size(self) -> int:
        """Side in pixels of the square pictures that the model takes."""
        return self.vision.image_size

    @property
    def file_name(self) -> str:
        """The name without slash or at-sign, as in `ViT-L-14-336`."""
        return _dashed(self.name)

    @property
    def open_clip_name(self) -> str | None:
        """OpenCLIP's name of this very model, activation included; None where OpenCLIP has none."""
        for known in _OPENAI.values():
            if self.same_shapes(known):
                return known.file_name + (QUICK_GELU_SUFFIX if self.activation == "quick_gelu" else "")
        return None

    def same_shapes(self, other: "ClipConfig") -> bool:
        """Whether both have the same towers, whatever their names and activations."""
        mine, theirs = (config.model_dump(exclude={"name", "activation"}) for config in (self, other))
        return mine == theirs

    def differences(self, other: "ClipConfig") -> list[str]:
        """What `other` has otherwise, as in "vision.width is 64, not 256"; names are not compared."""
        mine, theirs = (config.model_dump(exclude={"name"}) for config in (self, other))
        return differences(mine, theirs, verbs=("is", "not"))


def named_config(name: str) -> ClipConfig:
    """Return the configuration called `name`; slashes or dashes (`ViT-L/14@336px`, `ViT-L-14-336`) are one.

    `-quickgelu` may follow, as it says what all of these compute; `-gelu` gives the same model with GELU,
    which is what OpenCLIP means by the plain name. Raises ConfigError for a name that is not among
    `config_names()`.
    """
    plain = name.strip().removesuffix(QUICK_GELU_SUFFIX)
    config = _BY_DASHED_NAME.get(_dashed(plain.removesuffix(GELU_SUFFIX)).lower())
    if config is None:
        raise ConfigError(f"no model is called {name!r}; there are {', '.join(config_names())}")
    if plain.endswith(GELU_SUFFIX):
        return config.model_copy(update={"name": config.name + GELU_SUFFIX, "activation": "gelu"})
    return config


def config_names() -> list[str]:
    """Names of the built-in configurations, OpenAI's first."""
    return list(_MODELS)


def _dashed(name: str) -> str:
    return name.replace("/", "-").replace("@", "-").removesuffix("px")


def _resnet(
    name: str, embed: int, layers: tuple[int, int, int, int], width: int, image: int, text: TextConfig
) -> ClipConfig:
    vision = ResNetConfig(layers=layers, width=width, image_size=image)
    return ClipConfig(name=name, embed_dim=embed, vision=vision, text=text)


def _vit(
    name: str, embed: int, layers: int, width: int, patch: int, image: int, text: TextConfig
) -> ClipConfig:
    vision = ViTConfig(layers=layers, width=width, patch_size=patch, image_size=image)
    return ClipConfig(name=name, embed_dim=embed, vision=vision, text=text)


def _text(width: int, layers: int) -> TextConfig:
    return TextConfig(width=width, heads=width // HEAD_WIDTH, layers=layers)


def _table(*configs: ClipConfig) -> dict[str, ClipConfig]:
    return {config.name: config for config in configs}


# name, embedding, layers, width, (patch,) image size, text tower
_OPENAI = _table(
    _resnet("RN50", 1024, (3, 4, 6, 3), 64, 224, _text(512, 12)),
    _resnet("RN101", 512, (3, 4, 23, 3), 64, 224, _text(512, 12)),
    _resnet("RN50x4", 640, (4, 6, 10, 6), 80, 288, _text(640, 12)),
    _resnet("RN50x16", 768, (6, 8, 18, 8), 96, 384, _text(768, 12)),
    _resnet("RN50x64", 1024, (3, 15, 36, 10), 128, 448, _text(1024, 12)),
    _vit("ViT-B/32", 512, 12, 768, 32, 224, _text(512, 12)),
    _vit("ViT-B/16", 512, 12, 768, 16, 224, _text(512, 12)),
    _vit("ViT-L/14", 768, 24, 1024, 14, 224, _text(768, 12)),
    _vit("ViT-L/14@336px", 768, 24, 1024, 14, 336, _text(768, 12)),
)
_SMALL = _table(
    _resnet("RN-Mini@64px", 128, (1, 1, 1, 1), 16, 64, _text(64, 2)),  # laptops
    _vit("ViT-Mini/8@64px", 256, 6, 256, 8, 64, _text(128, 4)),  # laptops
    _vit("ViT-Micro/16@32px", 64, 2, 64, 16, 32, _text(64, 2)),  # tests
)
_MODELS = _OPENAI | _SMALL
_BY_DASHED_NAME = {config.file_name.lower(): config for config in _MODELS.values()}
