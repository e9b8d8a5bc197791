"""`config.json` of a Hugging Face `CLIPModel`, both ways."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clipkit.errors import CheckpointError, first_fault
from clipkit.locations import decoded
from clipkit.model.config import (
    GELU_SUFFIX,
    HEAD_WIDTH,
    OPENAI_CONTEXT_LENGTH,
    OPENAI_VOCABULARY,
    ClipConfig,
    ViTConfig,
    config_names,
    named_config,
)

CONFIG_FILE = "config.json"
LEGACY_END = 2
"""What `eos_token_id` said until 2023; such models take the largest token for the end, as OpenAI's do."""

MLP_RATIO = 4
LAYER_NORM_EPSILON = 1e-5
ACTIVATIONS = ("quick_gelu", "gelu")


class _Tower(BaseModel):
    """What both towers say; the defaults are those of `transformers`, which may leave them out."""

    model_config = ConfigDict(strict=True)
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int = 12
    num_attention_heads: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = LAYER_NORM_EPSILON

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}, not one of {', '.join(ACTIVATIONS)}")
        if self.layer_norm_eps != LAYER_NORM_EPSILON:
            raise ValueError(f"layer_norm_eps is {self.layer_norm_eps}, not {LAYER_NORM_EPSILON}")
        if self.intermediate_size != MLP_RATIO * self.hidden_size:
            sizes = f"{self.intermediate_size}, not {MLP_RATIO} times hidden_size {self.hidden_size}"
            raise ValueError(f"intermediate_size is {sizes}")
        return self


class _Text(_Tower):
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    vocab_size: int = OPENAI_VOCABULARY
    max_position_embeddings: int = OPENAI_CONTEXT_LENGTH
    eos_token_id: int = OPENAI_VOCABULARY - 1

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if self.eos_token_id not in (LEGACY_END, self.vocab_size - 1):
            raise ValueError(f"eos_token_id is {self.eos_token_id}, not the last of {self.vocab_size} tokens")
        return self


class _Vision(_Tower):
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32

    @model_validator(mode="after")
    def _check_pictures(self) -> Self:
        if self.num_channels != 3:
            raise ValueError(f"num_channels is {self.num_channels}, not 3")
        if self.num_attention_heads * HEAD_WIDTH != self.hidden_size:
            heads = f"{self.num_attention_heads} heads of a tower {self.hidden_size} wide"
            raise ValueError(f"{heads} are not {HEAD_WIDTH} wide")
        return self


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, protected_namespaces=())
    model_type: str
    projection_dim: int = 512
    text_config: _Text = Field(default_factory=_Text)
    vision_config: _Vision = Field(default_factory=_Vision)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model_type != "clip":
            raise ValueError(f"model_type is {self.model_type!r}, not 'clip'")
        text, vision = self.text_config.hidden_act, self.vision_config.hidden_act
        if text != vision:
            raise ValueError(f"hidden_act is {text} in one tower and {vision} in the other")
        return self


def to_json(config: ClipConfig) -> dict[str, Any]:
    """Return the content of `config.json` for a model with a vision transformer."""
    vision, text = config.vision, config.text
    assert isinstance(vision, ViTConfig)
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "text_config": {
            "model_type": "clip_text_model",
            **_tower(config, text.width, text.layers, text.heads),
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "bos_token_id": text.vocab_size - 2,
            "eos_token_id": text.vocab_size - 1,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **_tower(config, vision.width, vision.layers, vision.heads),
            "num_channels": 3,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        "torch_dtype": "float32",
    }


def from_json(content: Any, path: Path) -> ClipConfig:
    """The configuration that a `config.json` at `path` gives `CLIPModel`.

    The model is called as the built-in one that it equals, else as its folder. Raises CheckpointError for
    what is no configuration of a `CLIPModel`, and for what clipkit's networks do not compute.
    """
    try:
        model = _Model.model_validate(_with_legacy_parts(content))
        config = ClipConfig.model_validate(
            {
                "name": decoded(path.resolve().parent.name[:100]) or CONFIG_FILE,
                "embed_dim": model.projection_dim,
                "vision": _vision(model.vision_config),
                "text": _text(model.text_config),
                "activation": model.text_config.hidden_act,
            }
        )
    except ValidationError as error:
        raise CheckpointError(f"{path} is of no CLIP that clipkit computes: {first_fault(error)}") from error
    return _called_by_its_name(config)


def _tower(config: ClipConfig, width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": MLP_RATIO * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": config.activation,
        "layer_norm_eps": LAYER_NORM_EPSILON,
        "projection_dim": config.embed_dim,
    }


def _with_legacy_parts(content: Any) -> Any:
    # Older versions repeat a tower's settings in `…_config_dict`, which then decides, defaults included.
    if not isinstance(content, dict):
        return content
    merged = dict(content)
    for key, defaults in (("text_config", _Text()), ("vision_config", _Vision())):
        legacy = content.get(f"{key}_dict")
        if isinstance(legacy, dict):
            merged[key] = {**defaults.model_dump(), **legacy}
        elif content.get(key) is None:
            merged.pop(key, None)
    return merged


def _vision(tower: _Vision) -> dict[str, Any]:
    return {
        "kind": "vit",
        "layers": tower.num_hidden_layers,
        "width": tower.hidden_size,
        "patch_size": tower.patch_size,
        "image_size": tower.image_size,
    }


def _text(tower: _Text) -> dict[str, Any]:
    return {
        "context_length": tower.max_position_embeddings,
        "vocab_size": tower.vocab_size,
        "width": tower.hidden_size,
        "heads": tower.num_attention_heads,
        "layers": tower.num_hidden_layers,
    }


def _called_by_its_name(config: ClipConfig) -> ClipConfig:
    for name in config_names():
        known = named_config(name)
        if config.same_shapes(known):
            suffix = "" if config.activation == known.activation else GELU_SUFFIX
            return config.model_copy(update={"name": name + suffix})
    return config
