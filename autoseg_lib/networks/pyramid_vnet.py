"""A two-stage multi-scale pyramid of 2D V-Nets.

The network of the field's lab notebooks (Dourthe et al. 2021), after the multi-scale pyramid of Roth et al. 2018
(arXiv:1806.02237) with the blocks of V-Net (Milletari et al. 2016, arXiv:1606.04797). The first stage sees the image at half
resolution; what it thinks of each pixel goes, beside the image, into the second stage at full resolution.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

NormKind = Literal["instance", "batch", "none"]

# Convolutions of each level, as in V-Net; their distances grow where the image is smallest and context is cheapest.
_DILATIONS: tuple[tuple[int, ...], ...] = ((1,), (1, 1), (1, 2, 4), (3, 4, 5))
_LEVELS = len(_DILATIONS)
# V-Net's kernels.
_KERNEL = 5
# Width of the first level for an image of _SIDE pixels: about 6 million weights in all.
_WIDTH, _SIDE, _NARROWEST = 16, 256, 4
# Each side of the image is halved for the first stage, and three times more in it.
SIZE_MULTIPLE = 2**_LEVELS


def width_for(input_shape: Sequence[int]) -> int:
    """Returns the channels of the first level for an image size: larger images get a wider network."""
    side = math.sqrt(math.prod(input_shape))
    return max(_NARROWEST, round(_WIDTH * side / _SIDE))


class PyramidVNet(nn.Module):
    """Two V-Nets, the second of which looks at the image and at what the first found."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = _WIDTH,
        dropout: float = 0.3,
        norm: NormKind = "instance",
    ) -> None:
        """Args:
        in_channels: channels of the image.
        out_channels: classes.
        width: channels of the first level; they double with each level.
        dropout: share of features dropped after each level while training.
        norm: normalisation after each convolution; "none" as in the first V-Net.
        """
        super().__init__()
        self.coarse = _VNet(in_channels, out_channels, width, dropout, norm)
        # The probabilities come first: a new list of ROIs then changes leading channels only.
        self.fine = _VNet(out_channels + in_channels, out_channels, width, dropout, norm)

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Returns logits (batch, classes, rows, columns); while training those of both stages, the second first.

        Args:
            image: (batch, channels, rows, columns), sides multiples of 16.
        """
        coarse = self.coarse(functional.avg_pool2d(image, 2))
        coarse = functional.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        fine = self.fine(torch.cat([coarse.float().softmax(1).to(image.dtype), image], 1))
        return [fine, coarse] if self.training else fine


class _VNet(nn.Module):
    """One stage: four levels, strided convolutions down, transposed ones up."""

    def __init__(self, inputs: int, outputs: int, width: int, dropout: float, norm: NormKind) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(_LEVELS)]
        self.entry = nn.Conv2d(inputs, width, 1)
        self.downs = nn.ModuleList(
            _Step(nn.Conv2d(high, deep, 2, 2), deep, norm) for high, deep in itertools.pairwise(widths)
        )
        self.encoder = nn.ModuleList(
            _Residual(channels, dilations, dropout, norm)
            for channels, dilations in zip(widths, _DILATIONS, strict=True)
        )
        ups, decoder, deeper = [], [], widths[-1]
        for channels, dilations in zip(widths[-2::-1], _DILATIONS[-2::-1], strict=True):
            ups.append(_Step(nn.ConvTranspose2d(deeper, channels, 2, 2), channels, norm))
            deeper = 2 * channels  # beside the skip connection
            decoder.append(_Residual(deeper, (1,) * len(dilations), dropout, norm))
        self.ups, self.decoder = nn.ModuleList(ups), nn.ModuleList(decoder)
        self.head = nn.Conv2d(deeper, outputs, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.encoder[0](self.entry(image))
        skips = []
        for down, block in zip(self.downs, list(self.encoder)[1:], strict=True):
            skips.append(features)
            features = block(down(features))
        for up, block in zip(self.ups, self.decoder, strict=True):
            features = block(torch.cat([up(features), skips.pop()], 1))
        return self.head(features)


class _Residual(nn.Module):
    """Convolutions one after the other; what went in is added before the last activation."""

    def __init__(self, channels: int, dilations: Sequence[int], dropout: float, norm: NormKind) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, dilation in enumerate(dilations):
            if number:
                layers.append(nn.PReLU(channels))
            padding = dilation * (_KERNEL // 2)
            layers.append(nn.Conv2d(channels, channels, _KERNEL, padding=padding, dilation=dilation))
            layers.append(_norm(channels, norm))
        self.layers = nn.Sequential(*layers)
        self.activation = nn.PReLU(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.activation(features + self.layers(features)))


class _Step(nn.Sequential):
    """From one level to the next: a strided or transposed convolution, normalised and activated."""

    def __init__(self, convolution: nn.Module, channels: int, norm: NormKind) -> None:
        super().__init__(convolution, _norm(channels, norm), nn.PReLU(channels))


def _norm(channels: int, kind: NormKind) -> nn.Module:
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f'norm = {kind!r}; expected "instance", "batch" or "none"')
