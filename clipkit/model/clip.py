"""CLIP: two towers and a temperature (Radford et al. 2021), with the parameter names of OpenAI's release.

B batch, N texts, C channels, H and W pixels, L token positions, D embedding.
"""

import math
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from clipkit.model.config import ClipConfig, ResNetConfig
from clipkit.model.recomputing import Blocks
from clipkit.model.resnet import ModifiedResNet
from clipkit.model.transformer import LayerNorm, Transformer
from clipkit.model.vit import VisionTransformer

INITIAL_TEMPERATURE = 0.07
LENGTH_STEP = 8


class ClipOutput(NamedTuple):
    """What the contrastive loss needs: features of unit length, and the factor of their products."""

    image_features_BD: Tensor
    text_features_BD: Tensor
    logit_scale: Tensor


class Clip(nn.Module):
    """A CLIP model of any configuration; make one with `build`."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.context_length = config.text.context_length
        self.vocab_size = config.text.vocab_size
        self.visual: ModifiedResNet | VisionTransformer = (
            ModifiedResNet(config.vision, config.embed_dim)
            if isinstance(config.vision, ResNetConfig)
            else VisionTransformer(config.vision, config.embed_dim, config.activation)
        )
        text = config.text
        self.transformer = Transformer(text.width, text.layers, text.heads, True, config.activation)
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.ln_final = LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / INITIAL_TEMPERATURE)))
        self._image_locked = False
        self._initialize()

    @property
    def dtype(self) -> torch.dtype:
        """The type of the image tower's weights, which pictures are cast to."""
        return self.visual.conv1.weight.dtype

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Features (B, D), not of unit length, of normalised pictures (B, 3, H, W)."""
        features: Tensor = self.visual(images_BCHW.to(self.dtype))
        return features

    def encode_text(self, tokens_BL: Tensor) -> Tensor:
        """Features (B, D), not of unit length, of tokens (B, L), each row's largest being its end of text."""
        ends_B = tokens_BL.argmax(dim=-1)
        tokens_BL = _trimmed_where_free(tokens_BL)
        x_BLD = self.token_embedding(tokens_BL)
        x_BLD = x_BLD + self.positional_embedding[: tokens_BL.shape[1]]
        at_end = ends_B[:, None, None].expand(-1, -1, x_BLD.shape[2])
        x_BD = self.transformer(x_BLD, lambda x_BLD: x_BLD.gather(1, at_end).squeeze(1))
        features: Tensor = self.ln_final(x_BD) @ self.text_projection
        return features

    def features(self, images_BCHW: Tensor, tokens_BL: Tensor) -> ClipOutput:
        """Features of unit length of pictures and their texts, and the exponentiated logit scale."""
        images_BD = functional.normalize(self.encode_image(images_BCHW), dim=-1)
        texts_BD = functional.normalize(self.encode_text(tokens_BL), dim=-1)
        return ClipOutput(images_BD, texts_BD, self.logit_scale.exp())

    def forward(self, images_BCHW: Tensor, tokens_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled cosine similarities, as OpenAI's: logits per image (B, N) and per text (N, B)."""
        images_BD, texts_ND, scale = self.features(images_BCHW, tokens_NL)
        logits_BN = scale * images_BD @ texts_ND.t()
        return logits_BN, logits_BN.t()

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Keep only the inputs of blocks for the backward pass, which computes the rest again, or keep all.

        Losses, gradients and running statistics stay the same; a step takes up to a third more time and much
        less memory.
        """
        for module in self.modules():
            if isinstance(module, Blocks | ModifiedResNet):
                module.recomputes = enabled

    def lock_image(self) -> None:
        """Freeze the image tower with its projection (LiT, Zhai et al. 2022, arXiv 2111.07991).

        Its weights get no gradients; its batch norm uses the stored statistics and leaves them as they are.
        """
        self.visual.requires_grad_(False)
        self._image_locked = True
        self.train(self.training)

    def lock_text(self) -> None:
        """Freeze the text tower with its projection; the logit scale goes on being trained."""
        for name, parameter in self.named_parameters():
            if not name.startswith("visual.") and name != "logit_scale":
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, in all that is not locked, or evaluation mode."""
        super().train(mode)
        if self._image_locked:
            self.visual.eval()
        return self

    # The order of the random draws is that of OpenAI's code, so that one seed gives the same weights in both.
    def _initialize(self) -> None:
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        if isinstance(self.visual, ModifiedResNet):
            _initialize_resnet(self.visual)
        width, layers = self.config.text.width, self.config.text.layers
        residual_std = width**-0.5 * (2 * layers) ** -0.5
        for name, weight in self.transformer.named_parameters():
            if name.endswith("attn.in_proj_weight"):
                nn.init.normal_(weight, std=width**-0.5)
            elif name.endswith("mlp.c_fc.weight"):
                nn.init.normal_(weight, std=(2 * width) ** -0.5)
            elif name.endswith(("attn.out_proj.weight", "mlp.c_proj.weight")):
                nn.init.normal_(weight, std=residual_std)
        nn.init.normal_(self.text_projection, std=width**-0.5)


def build(config: ClipConfig, seed: int | None = None) -> Clip:
    """Make a model with OpenAI's initialisation, in training mode, on the CPU in float32.

    With a seed the weights depend on it alone, and the global random state is left as it was.
    """
    if seed is None:
        return Clip(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Clip(config)


def shapes_of(config: ClipConfig) -> Clip:
    """Make a model without values, on torch's meta device: its parameters have names, types and shapes."""
    with torch.device("meta"), _Undrawn():
        return Clip(config)


_KEEP_SHAPES = {Tensor.normal_, nn.init.normal_, Tensor.mul, Tensor.div}


class _Undrawn(TorchFunctionMode):
    """Draws and scales nothing, which on the meta device makes torch import its compiler."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if function in _KEEP_SHAPES:
            return args[0] if args else named["tensor"]
        return (torch.empty if function is torch.randn else function)(*args, **named)


def _initialize_resnet(visual: ModifiedResNet) -> None:
    pool = visual.attnpool
    for projection in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
        nn.init.normal_(projection.weight, std=pool.c_proj.in_features**-0.5)
    for name, weight in visual.named_parameters():
        if name.startswith("layer") and name.endswith("bn3.weight"):
            nn.init.zeros_(weight)


def without_padding(tokens_BL: Tensor) -> Tensor:
    """Cut off the columns after the longest text, up to the next multiple of 8; the features stay the same.

    Attention is causal: what follows the end-of-text token cannot change its features. This looks at the
    tokens, so it belongs on the CPU: on a device it would wait for all that was queued there.
    """
    if not len(tokens_BL):
        return tokens_BL
    longest = int(tokens_BL.argmax(dim=-1).max()) + 1
    return tokens_BL[:, : -(-longest // LENGTH_STEP) * LENGTH_STEP]


def _trimmed_where_free(tokens_BL: Tensor) -> Tensor:
    # Tracing, compiling and counting need the full length.
    whole = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return tokens_BL if whole or tokens_BL.device.type != "cpu" else without_padding(tokens_BL)
