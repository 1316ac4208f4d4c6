"""MAE: hide most patches, encode the rest, reconstruct the hidden ones."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from lightly.models.modules import MaskedVisionTransformerDecoderTIMM, MaskedVisionTransformerTIMM
from lightly.models.utils import get_at_index, patchify
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from edgessl.config import Options
from edgessl.data.loader import Batch
from edgessl.errors import UsageError
from edgessl.models import Encoder
from edgessl.pretraining.method import Method, StepContext, StepOutput

__all__ = ["MAE", "MAEOptions"]


class MAEOptions(Options):
    """Settings of MAE.

    Attributes:
        mask_ratio: Share of the patches that is hidden.
        decoder_dim: Width of the decoder.
        decoder_depth: Transformer blocks of the decoder.
        decoder_heads: Attention heads of the decoder.
        normalize_target: Reconstruct each patch standardised by its own mean and deviation.
    """

    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    decoder_dim: Annotated[int, Field(ge=8)] = 128
    decoder_depth: Annotated[int, Field(ge=1)] = 2
    decoder_heads: Annotated[int, Field(ge=1)] = 4
    normalize_target: bool = True


class MAE(Method):
    """Mean squared error on the hidden patches of one weakly augmented view.

    Raises:
        UsageError: The backbone is not a plain vision transformer of timm, or the image is not
            square and a multiple of its patches.

    Source: arXiv:2111.06377, section 3.
    """

    Options = MAEOptions
    views = "crop"

    def __init__(self, encoder: Encoder, options: MAEOptions) -> None:
        super().__init__(encoder, options)
        vit = encoder.backbone
        if not isinstance(vit, VisionTransformer):
            raise UsageError(
                f"mae needs a vision transformer, found {encoder.name}; choose a backbone such as "
                "vit_tiny_patch16_224"
            )
        self.patch = int(vit.patch_embed.patch_size[0])
        height, width = encoder.spec.height, encoder.spec.width
        if height != width or height % self.patch:
            raise UsageError(
                f"mae needs square images of a multiple of {self.patch} pixels, found "
                f"{height}x{width}; set image_size={max(1, height // self.patch) * self.patch}"
            )
        if options.decoder_dim % (4 * options.decoder_heads):
            raise UsageError(
                f"mae: decoder_dim {options.decoder_dim} must be a multiple of 4 times "
                f"decoder_heads {options.decoder_heads}"
            )
        self.patches = int(vit.patch_embed.num_patches)
        self.prefix = int(vit.num_prefix_tokens)
        self.masked = min(self.patches - 1, max(1, round(self.patches * options.mask_ratio)))
        self.normalize_target = options.normalize_target
        self.vit = MaskedVisionTransformerTIMM(vit)
        self.vit.mask_token.requires_grad_(False)
        if not isinstance(vit.fc_norm, nn.Identity):
            vit.fc_norm.requires_grad_(False)
        self.embed = nn.Linear(vit.embed_dim, options.decoder_dim)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            self.patches,
            options.decoder_dim,
            options.decoder_depth,
            options.decoder_heads,
            num_prefix_tokens=self.prefix,
        )
        self.predict = nn.Linear(options.decoder_dim, self.patch**2 * encoder.spec.channels)

    def forward(self, batch: Batch, context: StepContext) -> StepOutput:
        """Loss of (N, C, H, W) views."""
        (images,) = batch.views
        keep, hidden = self._draw_mask(context.uniform(batch.indices, self.patches))
        encoded = self.embed(self.vit.encode(images, idx_keep=keep))
        rows = torch.arange(len(images), device=images.device)[:, None]
        tokens = self.decoder.mask_token.to(encoded.dtype).repeat(
            len(images), self.prefix + self.patches, 1
        )
        tokens = tokens.index_put((rows, keep), encoded)
        predicted = self.predict(get_at_index(self.decoder(tokens), hidden))
        target = get_at_index(patchify(images, self.patch), hidden - self.prefix)
        if self.normalize_target:
            deviation, mean = torch.std_mean(target.float(), dim=-1, keepdim=True)
            target = (target - mean) / (deviation + 1e-3)
        return StepOutput(F.mse_loss(predicted.float(), target.float()), {})

    def _draw_mask(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (N, kept) and (N, masked) of tokens; prefix tokens are always kept."""
        order = noise.argsort(dim=1) + self.prefix
        prefix = torch.arange(self.prefix, device=noise.device).expand(len(noise), -1)
        keep = torch.cat([prefix, order[:, self.masked :]], dim=1)
        return keep, order[:, : self.masked]
