"""CLIP's ResNet (Radford et al. 2021, section 2.4): deep stem, anti-aliased strides, attention pool.

Parameter names are OpenAI's. B batch, C channels, H and W the feature map, L = H·W + 1, D embedding.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipkit.model.config import ResNetConfig
from clipkit.model.recomputing import Blocks, recomputed

EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions; a stride is an average pool after the second."""

    def __init__(self, channels: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        out = planes * EXPANSION
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels != out:
            shortcut = [
                ("-1", nn.AvgPool2d(stride)),
                ("0", nn.Conv2d(channels, out, 1, bias=False)),
                ("1", nn.BatchNorm2d(out)),
            ]
            self.downsample = nn.Sequential(OrderedDict(shortcut))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 4·planes, H/stride, W/stride)."""
        identity = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        out = self.relu(self.bn1(self.conv1(x_BCHW)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(self.avgpool(out)))
        activated: Tensor = self.relu(out + identity)
        return activated


class AttentionPool2d(nn.Module):
    """One attention layer in which the mean of the feature map asks, and map and mean answer."""

    def __init__(self, grid: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(grid**2 + 1, width) / width**0.5)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)
        self.heads = heads
        self.head_width = width // heads

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Feature map (B, C, H, W) → (B, D)."""
        x_BLC = x_BCHW.flatten(2).transpose(1, 2)
        x_BLC = torch.cat([x_BLC.mean(dim=1, keepdim=True), x_BLC], dim=1)
        x_BLC = x_BLC + self.positional_embedding.to(x_BLC.dtype)
        # Only the answer at the mean is used, so only its question is asked.
        q, k, v = self.q_proj(x_BLC[:, :1]), self.k_proj(x_BLC), self.v_proj(x_BLC)
        q, k, v = (y.unflatten(2, (self.heads, self.head_width)).transpose(1, 2) for y in (q, k, v))
        pooled = functional.scaled_dot_product_attention(q, k, v)
        features: Tensor = self.c_proj(pooled.flatten(1))
        return features


class ModifiedResNet(nn.Module):
    """CLIP's ResNet tower."""

    recomputes = False

    def __init__(self, config: ResNetConfig, embed_dim: int) -> None:
        super().__init__()
        width = config.width
        self.input_resolution = config.image_size
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AvgPool2d(2)
        self.layer1 = _layer(width, width, config.layers[0])
        self.layer2 = _layer(width * 4, width * 2, config.layers[1], stride=2)
        self.layer3 = _layer(width * 8, width * 4, config.layers[2], stride=2)
        self.layer4 = _layer(width * 16, width * 8, config.layers[3], stride=2)
        self.attnpool = AttentionPool2d(config.grid, width * 32, config.heads, embed_dim)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalised pictures (B, 3, H, W) → features (B, D), not of unit length."""
        if self.recomputes:
            x = recomputed(self._stem, images_BCHW, (self.bn1, self.bn2, self.bn3))
        else:
            x = self._stem(images_BCHW)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features: Tensor = self.attnpool(x)
        return features

    def _stem(self, images_BCHW: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(images_BCHW)))
        x = self.relu(self.bn2(self.conv2(x)))
        out: Tensor = self.avgpool(self.relu(self.bn3(self.conv3(x))))
        return out


def _layer(channels: int, planes: int, blocks: int, stride: int = 1) -> Blocks:
    first = Bottleneck(channels, planes, stride)
    return Blocks(first, *(Bottleneck(planes * EXPANSION, planes) for _ in range(blocks - 1)))
