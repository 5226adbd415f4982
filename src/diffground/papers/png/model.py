"""The PNG model: a frozen diffusion model, EIPA inside it, MLMA and a decoder behind it.

Static prompting (Li et al., section 3.1) is ``insertion: none``: the phrases themselves prompt the
UNet. Dynamic prompting (section 3.2) adds the adapter. ``decode`` adds section 3.3: MLMA over three
levels of image and phrase features, and a Transformer decoder whose queries are the phrases. ::

    phrases ─► UNet with EIPA ─┬─ cross maps, scores ─► Diffusion head, adapter head
                               ├─ F_3 F_4 F_5, R_3 R_4 R_5 ─► MLMA ─► decoder ─► masks
    image ─► VAE ─► latents ───┴─ post-UNet latent ─► VAE decoder (1/4) ─► mask feature ─┘

The phrases alone are the UNet's context: no start token, no padding to 77, so the softmax of every
block is over the phrases of the caption, and each pixel is shared out among them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as run_checkpointed

from diffground.attention.selfcross import minmax
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import cross_sites
from diffground.backbone.probe import ProbeRequest, ProbeResult
from diffground.config import refused
from diffground.errors import InputError, shortened
from diffground.io.files import check_seal, read_json, write_json
from diffground.papers.png.config import PngModelConfig
from diffground.papers.png.decoder import DecoderMasks, MaskFeature, PhraseDecoder
from diffground.papers.png.eipa import EIPA, insertion_sites
from diffground.papers.png.feature_levels import STRIDES, ImageLevels, phrase_levels
from diffground.papers.png.feature_store import FrozenInputs
from diffground.papers.png.features import frozen_inputs
from diffground.papers.png.heads import (
    AdapterHead,
    DiffusionHead,
    FrozenProductHead,
    LearnedProductHead,
    PngOutputs,
)
from diffground.papers.png.map_operations import resize_maps
from diffground.papers.png.mlma import MLMA
from diffground.papers.png.narratives import PngBatch
from diffground.seeds import derive_seed
from diffground.training.checkpoint import load_weights, put_weights, save_weights, trainable_state

# Raised when the same parts are put together, or read off, in another way; heads as well.
CODE_VERSION: Final = 1

WEIGHTS, CONFIG = "png.safetensors", "png.json"
WRITE_AGAIN = "train with the same settings: what is finished is written again from last.pt"
TRAIN_ANEW = "train anew with the same settings and png.train.restart=true"
OUTPUT = "conv_out"  # the UNet's last module


class PngModel(nn.Module):
    """Phrases and images to masks.

    Args:
        backbone: stays outside of the module tree: it is moved with the model, but is no part of
            its parameters or state, so checkpoints hold what is trained and nothing else.
        category_ids: the panoptic categories in the order of the class indices.
    """

    def __init__(
        self, backbone: FrozenDiffusion, config: PngModelConfig, category_ids: tuple[int, ...]
    ) -> None:
        super().__init__()
        self._outside = (backbone,)
        self.config, self.category_ids = config, tuple(category_ids)
        classes, context = len(self.category_ids), backbone.context_dim
        sites = cross_sites(backbone.unet)
        self.levels = ImageLevels.of(backbone.unet)
        self.diffusion_head = DiffusionHead(sites)
        self.diffusion_head.logits.requires_grad_(config.learns_fusion)
        self.eipa: EIPA | None = None
        self.adapter_head: AdapterHead | None = None
        self.inner_head: FrozenProductHead | LearnedProductHead | None = None
        self.mlma: MLMA | None = None
        if config.insertion != "none":
            modules = dict(backbone.unet.named_modules())
            widths: dict[str, int] = {
                site: modules[site].to_q.in_features
                for site in insertion_sites(sites, config.insertion)
            }
            self.eipa = EIPA(widths, context, config.eipa, self.diffusion_head.weight)
            self.adapter_head = AdapterHead(len(self.eipa.sites), context, classes)
        if config.inner_product == "frozen":
            self.inner_head = FrozenProductHead(sites)
        elif config.inner_product == "learned":
            width = self.levels.widths[0]
            self.inner_head = LearnedProductHead(width, context, config.inner_width)
        if config.decode:
            width = config.mlma.width
            self.mlma = MLMA(self.levels.widths, context, config.mlma)
            self.mask_feature = MaskFeature(width, backbone.decoder_width)
            self.decoder = PhraseDecoder(width, classes, config.decoder)

    @property
    def backbone(self) -> FrozenDiffusion:
        """The frozen diffusion model."""
        return self._outside[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PngModel:
        self.backbone._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def forward(self, batch: PngBatch) -> PngOutputs:
        """All heads' predictions for a batch on the model's device."""
        config, backbone = self.config, self.backbone
        with torch.no_grad():
            inputs = frozen_inputs(backbone, batch, config.long_captions, config.frozen_precision)
            seeds = None
            if config.noise == "seeded":
                seeds = [derive_seed(0, item) for item in batch.ids]
            noisy = backbone.add_noise(inputs.latents, config.time_step, seeds)
        seen = inputs.unprompted() if config.unet_context == "zeros" else inputs
        with nullcontext() if self.eipa is not None else torch.no_grad():
            result = backbone.probe(
                noisy,
                config.time_step,
                seen.context,
                self._request(),
                context_mask=seen.valid,
                pooled=seen.pooled,
                adapter=self.eipa,
                checkpoint=config.checkpoint and self.training,
            )
            fine = self._fine_feature(inputs.latents, noisy, result)
        adapter = None
        scores: tuple[Tensor, ...] = ()
        phrases: list[Tensor] = [inputs.context]
        if self.eipa is not None and self.adapter_head is not None:
            assert result.state is not None
            sites = self.eipa.outputs(result.state)
            phrases, scores = sites.phrases, tuple(sites.scores)
            adapter = self.adapter_head(phrases, scores, batch.mask_size)
        diffusion = self.diffusion_head(result.cross, batch.mask_size)
        inner = None
        if isinstance(self.inner_head, FrozenProductHead):
            inner = self.inner_head(result.scores, diffusion)
        elif self.inner_head is not None:
            image = result.features[self.levels.modules[0]]
            inner = self.inner_head(image, phrases[-1], diffusion)
        decoder = None
        if fine is not None:
            decoder = self._decode(result, phrases, inputs, fine, batch.mask_size)
        return PngOutputs(diffusion, inputs.valid, inner, adapter, decoder, scores)

    def _request(self) -> ProbeRequest:
        """What is probed: the cross maps, and the features that the heads read."""
        sites = self.diffusion_head.sites
        scores = sites if self.config.inner_product == "frozen" else ()
        features: tuple[str, ...] = ()
        if self.mlma is not None:
            last = () if self.config.mask_latent == "clean" else (OUTPUT,)
            features = (*self.levels.modules, *last)
        elif self.config.inner_product == "learned":
            features = self.levels.modules[:1]
        return ProbeRequest(cross=sites, features=features, scores=scores)

    def _fine_feature(self, clean: Tensor, noisy: Tensor, result: ProbeResult) -> Tensor | None:
        """The VAE decoder's feature at 1/4 of the image, (B, C, 2h, 2w), float32."""
        if self.mlma is None:
            return None
        latents = clean
        if self.config.mask_latent != "clean":
            latents = result.features[OUTPUT]
        if self.config.mask_latent == "denoised":
            latents = self.backbone.denoised(noisy, self.config.time_step, latents)
        if self.config.checkpoint and self.training and latents.requires_grad:
            feature = run_checkpointed(self.backbone.decoder_feature, latents, use_reentrant=False)
        else:
            feature = self.backbone.decoder_feature(latents)
        assert isinstance(feature, Tensor)
        return feature.float()

    def _decode(
        self,
        result: ProbeResult,
        phrases: list[Tensor],
        inputs: FrozenInputs,
        fine: Tensor,
        size: tuple[int, int],
    ) -> DecoderMasks:
        """Section 3.3: MLMA, the mask feature, and the decoder's masks at ``size``."""
        assert self.mlma is not None
        chosen = (0,) * len(STRIDES)
        if self.eipa is not None:
            chosen = phrase_levels(self.eipa.sites, self.backbone.unet)
        merged = self.mlma(
            [result.features[name].float() for name in self.levels.modules],
            [phrases[index].float() for index in chosen],
            inputs.valid,
            checkpoint=self.config.checkpoint and self.training,
        )
        feature = self.mask_feature(merged.images[0], fine)
        masks = self.decoder(merged.phrases[-1], merged.images, feature, inputs.valid)
        return DecoderMasks([resize_maps(m, size) for m in masks.layers], masks.categories)

    @torch.no_grad()
    def predict(self, batch: PngBatch) -> Tensor:
        """Mask probabilities ``(B, K, h, w)`` in [0, 1] of the final head.

        0 for padded phrases and for those that a truncated caption lost. The logits' are a sigmoid.
        The Diffusion head's maps are stretched to [0, 1] per phrase (``minmax``) or taken as they
        are, the phrase's share of the pixel (``raw``).
        """
        outputs = self(batch)
        return self.probabilities(outputs) * outputs.valid[:, :, None, None]

    def probabilities(self, outputs: PngOutputs) -> Tensor:
        """What the final head of ``outputs`` gives every phrase, as :meth:`predict` reads it."""
        head = self.config.final_head
        if head == "decoder":
            assert outputs.decoder is not None
            return outputs.decoder.final.float().sigmoid()
        if head == "inner":
            assert outputs.inner is not None
            return outputs.inner.float().sigmoid()
        if head == "adapter":
            assert outputs.adapter is not None
            return outputs.adapter.combined.sigmoid()
        maps = outputs.diffusion
        return minmax(maps) if self.config.probability == "minmax" else maps.clamp(0, 1)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What training changes: EIPA and the heads, never the backbone."""
        return [p for p in self.parameters() if p.requires_grad]

    def save(self, folder: Path) -> None:
        """Writes the trained weights (safetensors), the configuration and the backbone's hash."""
        save_weights(trainable_state(self), folder / WEIGHTS)
        content = {
            "model": self.config.model_dump(mode="json"),
            "category_ids": list(self.category_ids),
            "backbone": {
                "fingerprint": self.backbone.fingerprint(),
                "name": self.backbone.folder.name,
            },
        }
        write_json(folder / CONFIG, content, sealed=True)  # last: its presence means finished

    @classmethod
    def load(cls, path: Path, backbone: FrozenDiffusion) -> PngModel:
        """The model that :meth:`save` wrote, in eval mode on the backbone's device.

        Args:
            path: its folder, or a file of weights in it, say ``best.safetensors``.

        Raises:
            InputError: no such model, a damaged one, or one trained in another backbone.
        """
        weights = path if path.suffix == Path(WEIGHTS).suffix else path / WEIGHTS
        path = weights.with_name(CONFIG)
        if not path.exists():
            raise InputError(path, "file", "no trained PNG model lies here")
        check_seal(path, WRITE_AGAIN)
        content = read_json(path)
        if content is None:
            raise InputError(path, "json", f"it cannot be read; {WRITE_AGAIN}")
        try:
            config = PngModelConfig.model_validate(content["model"])
            category_ids = tuple(int(i) for i in content["category_ids"])
            name, wanted = content["backbone"]["name"], content["backbone"]["fingerprint"]
        except ValidationError as error:
            raise refused(path, error, "model") from error
        except (KeyError, TypeError, ValueError) as error:
            reason = f"not a PNG model's configuration: {shortened(error)}"
            raise InputError(path, "model", reason) from error
        if wanted != backbone.fingerprint():
            raise InputError(
                path,
                "backbone",
                f"trained in {name!r} ({wanted}), which is not the model in {backbone.folder} "
                f"({backbone.fingerprint()}): its weights mean nothing there",
            )
        model = cls(backbone, config, category_ids).to(backbone.device)
        remedy = WRITE_AGAIN if weights.name == WEIGHTS else TRAIN_ANEW
        put_weights(model, load_weights(weights, remedy), weights)
        return model.eval()
