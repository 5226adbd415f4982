"""The grounding modules in the plain order of operations, with the names of released weights.

Every map is interpolated before its 1x1 convolution, patches are copied out, attention is the
library's, and the map that masks are read from is as large as the image. One image at a time; a
query at a time too unless they see each other, each with all of the visual encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffground.papers.grounded.feature_maps import FeatureMap
from diffground.papers.grounded.module_config import GroundingModuleConfig

LEVELS = ("low", "mid", "high", "highest")


def resize(x: Tensor, factor: float) -> Tensor:
    size = [int(side * factor) for side in x.shape[-2:]]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class NormedConv(nn.Conv2d):
    """Spectral norm by one power iteration before every use, kept in training."""

    def __init__(self, width: int, out_width: int, kernel: int) -> None:
        super().__init__(width, out_width, kernel, padding=kernel // 2)
        self.register_buffer("u0", torch.randn(1, out_width))
        self.register_buffer("sv0", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ matrix, eps=1e-4)
            u = F.normalize(v @ matrix.T, eps=1e-4)
            if self.training:
                self.u0.copy_(u)
        sigma = (v @ matrix.T @ u.T).squeeze()
        return F.conv2d(x, self.weight / sigma, self.bias, padding=self.padding)


class Block(nn.Module):
    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.conv1 = NormedConv(width, out_width, 3)
        self.conv2 = NormedConv(out_width, out_width, 3)
        if width != out_width:
            self.conv_sc = NormedConv(width, out_width, 1)
        for number, channels in ((1, width), (2, out_width)):
            self.register_buffer(f"stored_mean{number}", torch.zeros(channels))
            self.register_buffer(f"stored_var{number}", torch.ones(channels))

    def _norm(self, x: Tensor, number: int) -> Tensor:
        mean, var = getattr(self, f"stored_mean{number}"), getattr(self, f"stored_var{number}")
        return F.batch_norm(x, mean, var, None, None, self.training, 0.1, 1e-4)

    def forward(self, x: Tensor) -> Tensor:
        start = F.relu(self._norm(x, 1))
        h = self.conv2(F.relu(self._norm(self.conv1(start), 2)))
        return h + (self.conv_sc(start) if hasattr(self, "conv_sc") else start)


class Layers(nn.Module):
    """A multi-layer perceptron."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        pairs = zip(widths, widths[1:], strict=False)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class DecoderLayer(nn.Module):
    def __init__(self, config: GroundingModuleConfig) -> None:
        super().__init__()
        arguments = (config.width, config.heads, config.dropout, False)
        self.self_attn = nn.MultiheadAttention(*arguments)
        self.multihead_attn = nn.MultiheadAttention(*arguments)
        self.linear1 = nn.Linear(config.width, config.ffn)
        self.linear2 = nn.Linear(config.ffn, config.width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(config.width) for _ in range(3))
        self.p = config.dropout

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        def drop(y: Tensor) -> Tensor:
            return F.dropout(y, self.p, self.training)

        y = self.norm1(x)
        x = x + drop(self.self_attn(y, y, y)[0])
        x = x + drop(self.multihead_attn(self.norm2(x), tokens, tokens)[0])
        return x + drop(self.linear2(drop(F.relu(self.linear1(self.norm3(x))))))


class Decoder(nn.Module):
    def __init__(self, config: GroundingModuleConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, tokens)
        return x


class PlainModule(nn.Module):
    """Logits (1, N, H, W) of features (1, C, h, w) by name and text embeddings (1, N, C)."""

    def __init__(
        self,
        maps: Sequence[FeatureMap],
        text_width: int,
        stride: int,
        config: GroundingModuleConfig,
    ) -> None:
        super().__init__()
        self.config, self.stride = config, stride
        top = max(each.level for each in maps)
        self.names = {
            LEVELS[i]: [m.name for m in maps if m.level == top - i] for i in range(top + 1)
        }
        channels = {each.name: each.channels * (2 if config.guided else 1) for each in maps}
        total = 0
        totals = []
        for (level, names), width in zip(self.names.items(), config.widths, strict=True):
            conv = nn.Conv2d(sum(channels[name] for name in names), width, 1, bias=False)
            setattr(self, f"{level}_feature_conv", conv if config.pyramid else nn.Sequential(conv))
            total += width
            totals.append(total)
            if level != "low":
                setattr(self, f"{level}_feature_mix_conv", Block(total, total))
        area, width = config.patch**2, config.width
        if config.pyramid:
            self.final_feature_conv = Block(total, config.final_width)
            self.input_mlp = Layers(text_width, config.hidden, config.hidden, width)
            self.output_mlp = Layers(width, config.hidden, config.hidden, config.final_width)
            linear = [nn.Linear(area * each, width, bias=False) for each in totals]
            self.to_k = nn.ModuleList(linear)
            self.to_q = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in totals)
            self.transfromer_decoder = nn.ModuleList(Decoder(config) for _ in totals)
        else:
            self.mlp = Layers(width, config.hidden, config.hidden, total)
            self.to_k = nn.Linear(area * total, width, bias=False)
            self.to_q = nn.Linear(text_width, width, bias=False)
            self.transfromer_decoder = Decoder(config)

    def forward(self, features: Mapping[str, Tensor], queries: Tensor) -> Tensor:
        if self.config.joint:
            return self.masks(features, queries[0])
        return torch.cat([self.masks(features, query[None]) for query in queries[0]], dim=1)

    def masks(self, features: Mapping[str, Tensor], queries: Tensor) -> Tensor:
        """Of queries (N, C) that see each other."""
        pyramid = self.config.pyramid
        mixed: list[Tensor] = []
        x = None
        for level, names in self.names.items():
            finest = level == list(self.names)[-1]
            factor = 2 if pyramid or not finest else 1
            here = torch.cat([resize(features[name], factor) for name in names], dim=1)
            here = getattr(self, f"{level}_feature_conv")(here)
            if x is not None:
                here = getattr(self, f"{level}_feature_mix_conv")(torch.cat([x, here], dim=1))
            doubles = pyramid or level not in list(self.names)[-2:]
            x = resize(here, 2) if doubles else here
            mixed.append(x)
        if pyramid:
            q = self.input_mlp(queries)
            for stage, level in enumerate(mixed):
                tokens = self.to_k[stage](self.patches(level))
                q = self.transfromer_decoder[stage](self.to_q[stage](q), tokens)
            last = self.final_feature_conv(x)
            embeddings = self.output_mlp(q)
        else:
            last = x
            tokens = self.to_k(self.patches(x))
            embeddings = self.mlp(self.transfromer_decoder(self.to_q(queries), tokens))
        finest = features[self.names[list(self.names)[-1]][0]]
        image = resize(last, self.stride * finest.shape[-1] / last.shape[-1])
        return torch.einsum("bdhw,nd->bnhw", image, embeddings)

    def patches(self, maps: Tensor) -> Tensor:
        side = self.config.patch
        return F.unfold(maps, side, stride=side)[0].T
