"""OpenCLIP's formats: its checkpoint, and the JSON configuration that `open_clip.add_model_config` takes."""

from pathlib import Path
from typing import Any

from clipkit.json_values import parsed_json
from clipkit.model.checkpoint import write_pytorch
from clipkit.model.clip import Clip
from clipkit.model.config import ClipConfig, ResNetConfig, TextConfig, ViTConfig
from clipkit.model.formats.archive import read_pytorch
from clipkit.model.weights import Weights, assemble


def write(clip: Clip, path: Path, epoch: int, name: str) -> None:
    """Write what OpenCLIP's own trainer writes, without an optimizer."""
    write_pytorch(path, {"epoch": epoch, "name": name, "state_dict": dict(clip.state_dict())})


def reopen(path: Path, config: ClipConfig) -> Clip:
    """Open the checkpoint with the configuration that OpenCLIP has, or is given, for the model."""
    stored = from_json(to_json(config), config.name)
    return assemble(Weights(stored, read_pytorch(path)["state_dict"]), path)


def to_json(config: ClipConfig) -> dict[str, Any]:
    """OpenCLIP's model configuration: the content of its `model_configs/NAME.json`."""
    vision = config.vision
    layers = list(vision.layers) if isinstance(vision, ResNetConfig) else vision.layers
    patch_size = vision.patch_size if isinstance(vision, ViTConfig) else None
    towers = {
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": layers,
            "width": vision.width,
            "patch_size": patch_size,
        },
        "text_cfg": config.text.model_dump(),
    }
    activation = {"quick_gelu": True} if config.activation == "quick_gelu" else {}
    return {"embed_dim": config.embed_dim, **activation, **towers}


def is_json_file(path: Path) -> bool:
    """Whether a file holds such a configuration, by its keys."""
    try:
        content = parsed_json(path.read_bytes()) if path.is_file() and path.stat().st_size < 1 << 16 else None
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"embed_dim", "vision_cfg", "text_cfg"} <= content.keys()


def from_json(content: dict[str, Any], name: str) -> ClipConfig:
    """Read an OpenCLIP configuration back: the inverse of `to_json`."""
    vision = {key: value for key, value in content["vision_cfg"].items() if value is not None}
    return ClipConfig(
        name=name,
        embed_dim=content["embed_dim"],
        vision=ViTConfig(**vision) if "patch_size" in vision else ResNetConfig(**vision),
        text=TextConfig(**content["text_cfg"]),
        activation="quick_gelu" if content.get("quick_gelu") else "gelu",
    )
