"""CLIP's vision transformer (Dosovitskiy et al. 2021, Radford et al. 2021), parameter names as OpenAI's."""

import torch
from torch import Tensor, nn

from clipkit.model.config import ViTConfig
from clipkit.model.transformer import Activation, LayerNorm, Transformer


class VisionTransformer(nn.Module):
    """Square patches and a class token through a transformer, projected into the joint space."""

    def __init__(self, config: ViTConfig, embed_dim: int, activation: Activation) -> None:
        super().__init__()
        width, patch = config.width, config.patch_size
        scale = width**-0.5
        self.input_resolution = config.image_size
        self.conv1 = nn.Conv2d(3, width, kernel_size=patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(config.grid**2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, config.layers, config.heads, False, activation)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalised pictures (B, 3, H, W) → features (B, D), not of unit length."""
        x_BLD = self.conv1(images_BCHW).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.to(x_BLD.dtype).expand(x_BLD.shape[0], 1, -1)
        x_BLD = torch.cat([class_token, x_BLD], dim=1) + self.positional_embedding.to(x_BLD.dtype)
        x_BD = self.transformer(self.ln_pre(x_BLD), _class_token)
        features: Tensor = self.ln_post(x_BD) @ self.proj
        return features


def _class_token(x_BLD: Tensor) -> Tensor:
    return x_BLD[:, 0]
