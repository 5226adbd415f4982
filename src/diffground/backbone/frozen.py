"""The frozen text-to-image diffusion model that every method stands on.

model = FrozenDiffusion.from_pretrained("data/06_models/mini-sd")
encoding = model.encode_prompts(["a photo including dog, cat"])
noisy = model.add_noise(model.encode_images(images), timestep=150, seeds=[1])
request = ProbeRequest(cross=model.layers.cross, self_=(model.layers.self_layer,))
result = model.probe(noisy, 150, encoding.embeddings, request)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

import diffusers
import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffground.backbone import latents as of_latents
from diffground.backbone.adapter import SiteAdapter
from diffground.backbone.folder import Family, ModelFolder, check_vocabulary, loading
from diffground.backbone.layers import LayerTable
from diffground.backbone.probe import ProbeRequest, ProbeResult, probe_unet
from diffground.backbone.speed import quickened
from diffground.backbone.text import Overflow, PromptEncoding, TokenRoom, encode, phrase_means
from diffground.errors import InputError
from diffground.phrases.alignment import Span

# Raised when the same image or prompt gives other latents, embeddings or probed values, here or in
# the modules of this room that it calls.
CODE_VERSION: Final = 1


class FrozenDiffusion(nn.Module):
    """Stable Diffusion 1.x, 2.x or SDXL: encode, add noise, probe. No parameter is trainable.

    It generates by :func:`diffground.backbone.sampler.sample`.
    Gradients still flow *through* it, from what is probed to the context and the latents.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        tokenizers: list[CLIPTokenizer],
        text_encoders: Sequence[nn.Module],
        scheduler: Any,
        source: ModelFolder,
    ) -> None:
        super().__init__()
        self.unet, self.vae, self.scheduler, self.source = unet, vae, scheduler, source
        self.tokenizers = tokenizers
        self.text_encoders = nn.ModuleList(text_encoders)
        self.folder: Path = source.path
        self.family: Family = source.family
        self.layers = LayerTable.read(source.path, unet)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> Self:
        """Loads a local folder in diffusers layout, from safetensors only, never from the network.

        The VAE stays in float32 when ``dtype`` is float16, where its activations overflow. It is
        made faster on a GPU, and where it is to be ``compiled``, see :mod:`.speed`. Raises
        :class:`InputError` naming the folder and the piece that is missing or does not fit.
        """
        source = ModelFolder.check(folder)
        vae_dtype = torch.float32 if dtype == torch.float16 else dtype
        unet = _load(UNet2DConditionModel, source, "unet", dtype=dtype)
        vae = _load(AutoencoderKL, source, "vae", dtype=vae_dtype)
        if unet.config.in_channels != vae.config.latent_channels:
            raise InputError(
                source.path / "unet/config.json",
                "in_channels",
                f"{unet.config.in_channels}, but the VAE has {vae.config.latent_channels} latent "
                "channels: inpainting and depth models are not supported",
            )
        tokenizers, encoders = [], []
        for tokenizer, encoder in source.pairs:
            part = source.path / tokenizer
            with loading(part):
                tokenizers.append(CLIPTokenizer.from_pretrained(part, local_files_only=True))
            kind = CLIPTextModelWithProjection if encoder.endswith("_2") else CLIPTextModel
            encoders.append(_load(kind, source, encoder, dtype=dtype))
            check_vocabulary(tokenizers[-1], encoders[-1].config.vocab_size)
        width = sum(encoder.config.hidden_size for encoder in encoders)
        if width != unet.config.cross_attention_dim:
            raise InputError(
                source.path / "unet/config.json",
                "cross_attention_dim",
                f"{unet.config.cross_attention_dim}, but the text encoders give {width} channels",
            )
        model = cls(unet, vae, tokenizers, encoders, _load_scheduler(source), source).to(device)
        # On a processor the order of float sums stays what every mini-world figure was made with.
        if compiled or model.device.type == "cuda":
            quickened(unet, compiled=compiled)
            quickened(vae, compiled=compiled)
        return model

    def __repr__(self) -> str:
        precision = str(self.dtype).removeprefix("torch.")
        return f"<FrozenDiffusion {self.folder.name}: {self.family}, {precision} on {self.device}>"

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's precision, and that of latents and embeddings."""
        return next(self.unet.parameters()).dtype

    @property
    def context_dim(self) -> int:
        """Channels C of the context that cross-attention reads."""
        return int(self.unet.config.cross_attention_dim)

    @property
    def latent_stride(self) -> int:
        """Image pixels per latent pixel and side: 8 for every released model."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, also as a part of a module that trains."""
        return super().train(False)

    def encode_images(self, images: Tensor, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Latents (B, 4, H/8, W/8) of images (B, 3, H, W) in [-1, 1], scaled for the UNet.

        They are the posterior's mean, or drawn from it with one of ``seeds`` per image. Raises
        :class:`InputError` for sides that 8 does not divide, and for another number of seeds.
        """
        factor = self.latent_stride
        if images.ndim != 4 or images.shape[-2] % factor or images.shape[-1] % factor:
            raise InputError(
                "images", "shape", f"{tuple(images.shape)}: (B, 3, H, W) in multiples of {factor}"
            )
        posterior = self.vae.encode(images.to(self.device, self.vae.dtype)).latent_dist
        latents = posterior.mean
        if seeds is not None:
            latents = latents + posterior.std * self._noise(latents, seeds)
        shift = self.vae.config.shift_factor or 0.0
        return ((latents - shift) * self.vae.config.scaling_factor).to(self.dtype)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] of latents as :meth:`encode_images` makes them."""
        return self.vae.decode(of_latents.unscaled(self.vae, latents)).sample.clamp(-1, 1)

    @property
    def decoder_width(self) -> int:
        """Channels of :meth:`decoder_feature`: 512 in every released model."""
        return of_latents.decoder_width(self.vae)

    def decoder_feature(self, latents: Tensor) -> Tensor:
        """The VAE decoder's feature (B, :attr:`decoder_width`, 2h, 2w) at 1/4 of the image.

        ``latents`` (B, 4, h, w) as :meth:`encode_images` makes them. The decoder stops there. In
        the VAE's precision, which may differ from the UNet's; gradients flow to the latents.
        """
        return of_latents.decoder_feature(self.vae, latents)

    @property
    def token_room(self) -> TokenRoom:
        """How many tokens texts have, and how many fit into a prompt."""
        return TokenRoom.of(self.tokenizers, list(self.text_encoders))

    def encode_prompts(
        self, prompts: Sequence[str], *, overflow: Overflow = "error"
    ) -> PromptEncoding:
        """Token embeddings (B, L, C) of prompts, padded to the text encoder's limit of L tokens.

        A longer prompt raises :class:`InputError`, or loses its end with ``overflow="truncate"``.
        """
        return encode(self.tokenizers, list(self.text_encoders), prompts, overflow)

    def encode_phrases(
        self, encoding: PromptEncoding, spans: Sequence[Sequence[Span]]
    ) -> tuple[Tensor, Tensor]:
        """Each phrase's mean token embedding (B, N, C), and the mask (B, N) of real phrases.

        ``spans`` are characters of the prompts. A phrase that truncation cut is an
        :class:`InputError`. (The phrase features R of Dynamic Prompting, 000, §3.1.)
        """
        return phrase_means(encoding, spans)

    def add_noise(self, latents: Tensor, timestep: int, seeds: Sequence[int] | None) -> Tensor:
        """``√ᾱ_t · z + √(1 - ᾱ_t) · ε`` with one gaussian ε per seed; no seeds: z itself.

        ``timestep`` is the 0-based index into the training schedule. One latent and several seeds
        give one noisy copy per seed. Noise is drawn on the CPU item by item, so that batching,
        order and device do not change it.
        """
        alpha = of_latents.alpha_bar(self.scheduler, timestep)
        if seeds is None:
            return latents
        return math.sqrt(alpha) * latents + math.sqrt(1 - alpha) * self._noise(latents, seeds)

    def denoised(self, latents: Tensor, timestep: int, output: Tensor) -> Tensor:
        """The clean latents (B, 4, h, w) that the UNet's ``output`` implies for noisy ``latents``.

        By the scheduler's prediction type (epsilon, v_prediction or sample): see :mod:`.latents`.
        """
        where = str(self.folder / "scheduler")
        return of_latents.denoised(self.scheduler, latents, timestep, output, where)

    def probe(
        self,
        latents: Tensor,
        timestep: float,
        context: Tensor,
        request: ProbeRequest,
        *,
        context_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        adapter: SiteAdapter | None = None,
        checkpoint: bool = False,
    ) -> ProbeResult:
        """One UNet pass over latents (B, 4, h, w) with context (B, K, C), up to the last tap.

        A context, mask or ``pooled`` of batch 1 serves every latent, as when one image is probed
        under several noises. ``context_mask`` (B, K) is True for tokens to attend to; ``pooled``
        (B, P) is required by SDXL and by no other. ``checkpoint=True`` trades memory for a second
        pass in backward; maps and features carry gradients either way. See :func:`probe_unet`.
        """
        if context.ndim != 3 or context.shape[-1] != self.context_dim:
            raise InputError(
                "probe", "context", f"shape {tuple(context.shape)}, not (B, K, {self.context_dim})"
            )
        batch = latents.shape[0]
        return probe_unet(
            self.unet,
            latents,
            timestep,
            _repeated(context, batch),
            request,
            context_mask=None if context_mask is None else _repeated(context_mask, batch),
            added=self.added(latents, pooled),
            adapter=adapter,
            checkpoint=checkpoint,
            where=str(self.folder / "unet"),
        )

    def added(self, latents: Tensor, pooled: Tensor | None) -> dict[str, Tensor] | None:
        """What SDXL's UNet reads beside the context, for latents (B, 4, h, w); None for others.

        ``pooled`` (B or 1, P) is required by SDXL and by no other. The time ids say of each image
        its original size, crop corner and target size: that it is whole.
        """
        if (pooled is not None) != (self.family == "sdxl"):
            raise InputError(
                "probe",
                "pooled",
                f"{self.family} {'needs' if pooled is None else 'has no'} pooled text",
            )
        if pooled is None:
            return None
        batch = latents.shape[0]
        height, width = (side * self.latent_stride for side in latents.shape[-2:])
        ids = [height, width, 0, 0, height, width]
        time_ids = torch.tensor([ids] * batch, device=latents.device, dtype=latents.dtype)
        return {"text_embeds": _repeated(pooled, batch), "time_ids": time_ids}

    def fingerprint(self) -> str:
        """A hash of the model folder's weights and configs, for the run log. Reads them once."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        return self.source.fingerprint()

    def _noise(self, latents: Tensor, seeds: Sequence[int]) -> Tensor:
        """A gaussian (seeds, 4, h, w) in the latents' dtype, drawn in float32 on the CPU."""
        if latents.shape[0] not in (1, len(seeds)):
            raise InputError(
                "noise", "seeds", f"{len(seeds)} seeds for a batch of {latents.shape[0]}"
            )
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        drawn = of_latents.gaussian(latents.shape[1:], generators)
        return drawn.to(latents.device, latents.dtype)


def _load(kind: Any, source: ModelFolder, part: str, dtype: torch.dtype) -> Any:
    """One part of the model. Weights that lack a tensor are an error: it would start random."""
    with loading(source.path / part):
        model, info = kind.from_pretrained(
            source.path / part,
            variant=source.variants[part],
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=dtype,
        )
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            source.path / part,
            "weights",
            f"{len(missing)} tensors are missing, the first is {missing[0]!r}: the file is not of "
            "this model, or incomplete",
        )
    return model


def _load_scheduler(source: ModelFolder) -> Any:
    part = source.path / "scheduler"
    name = source.scheduler
    kind: Any = getattr(diffusers, name, None)
    # Any other class of that library would be loaded as what it is, weights and all.
    is_one = isinstance(kind, type) and issubclass(kind, SchedulerMixin)
    if not is_one:
        file = part / "scheduler_config.json"
        raise InputError(file, "_class_name", f"diffusers has no scheduler {name[:80]!r}")
    with loading(part):
        scheduler = kind.from_pretrained(part, local_files_only=True)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(part, "_class_name", f"{name} has no alphas_cumprod to noise latents by")
    return scheduler


def _repeated(tensor: Tensor, batch: int) -> Tensor:
    """A batch of one as a batch of ``batch``; any other batch must have that size already."""
    if tensor.shape[0] not in (1, batch):
        raise InputError("probe", "batch", f"{tensor.shape[0]} contexts for {batch} latents")
    return tensor.expand(batch, *tensor.shape[1:])
