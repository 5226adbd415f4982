"""Learning a personal token from a few photos: Custom Diffusion and textual inversion (002, §5.3).

config = TokenLearningConfig()
token = learn(model, photos, "mug", config, Path("my-mug/training"), token="<new1>")
token.save("my-mug")

Custom Diffusion (Kumari et al., CVPR 2023) learns a token's embedding, and what is added to the
keys and values of the cross-attention, all by the diffusion loss. The model stays frozen: what is
learned hangs beside its modules, so neither a table of embeddings nor a weight of the UNet is
trained, checkpointing computes the same twice, and a half-precision model learns in full precision.
Gradients do not pass the start token's key and value, which is the same in every prompt.

``B`` samples · ``T`` things that are learned together
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from diffground.backbone import frozen
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.latents import lesson
from diffground.backbone.personal import PersonalToken, input_table, worn
from diffground.errors import InputError, ProblemReport
from diffground.io.images import ImageSource
from diffground.papers.personalized import prior_images as of_prior
from diffground.papers.personalized.learning_config import TokenLearningConfig
from diffground.papers.personalized.lessons import Lessons, Thing, collate
from diffground.papers.personalized.prior_images import prior_images, prior_recipe
from diffground.training import loop
from diffground.training.batches import drawn
from diffground.training.config import TrainConfig
from diffground.training.loop import train
from diffground.training.processes import only_training, processes

# Raised when the same photos, model and settings give another token, here or in the lessons.
CODE_VERSION: Final = 1

_TRAINED: Final[Mapping[str, tuple[str, ...]]] = {
    "kv": ("to_k.weight", "to_v.weight"),
    "attention": (
        "to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight", "to_out.0.bias",
    ),
}  # fmt: skip


def learn(
    model: FrozenDiffusion,
    photos: Sequence[ImageSource],
    word: str,
    config: TokenLearningConfig,
    folder: Path,
    *,
    token: str = "<new1>",
    prior: Path | None = None,
    report: ProblemReport | None = None,
) -> PersonalToken:
    """Learns a token for the thing in some photos, or goes on with it.

    Args:
        photos: files, pictures or arrays, of any sides. One that cannot be read is named and
            skipped.
        word: its class, "mug".
        folder: of the training's checkpoints, from which it goes on; may be removed afterwards.
        token: how prompts are to name it; new to the model.
        prior: where class pictures are kept, to be shared by all things of a class; None is a
            folder within ``folder``.
        report: takes the photos that were skipped.

    Raises:
        InputError: no photo can be read; the token's name is taken; the folder is of another
            training; or the loss is not finite.
    """
    thing = Thing.read(token, word, photos, report)
    (learned,) = learn_together(model, [thing], config, folder, prior=prior)
    return learned


def learn_together(
    model: FrozenDiffusion,
    things: Sequence[Thing],
    config: TokenLearningConfig,
    folder: Path,
    *,
    prior: Path | None = None,
) -> list[PersonalToken]:
    """Learns a token for each of several things at once (CD, section 3.2, joint training).

    The tokens share what is added to the UNet, so that they may be worn together. Folders and
    errors as of :func:`learn`.
    """
    device, training = model.device, _training(model, config)
    try:
        # Before any picture is made: names and starts may be refused.
        with Learner(model, things, config).hung() as learner, only_training(folder):
            # Hooks and rows of other tokens leave pictures of the class as they are.
            lessons = lessons_of(model, things, config, prior or folder / "prior")
            train(
                model=learner,
                loss_fn=lambda learner, batch: learner(batch),
                dataset=lessons,
                config=training,
                folder=folder,
                collate=collate,
                key=_key(model, things, config),
                description=f"learning {', '.join(thing.subject for thing in things)}",
            )
            return learner.tokens()
    finally:
        model.to(device)  # training may have taken it elsewhere


def lessons_of(
    model: FrozenDiffusion, things: Sequence[Thing], config: TokenLearningConfig, prior: Path
) -> Lessons:
    """What some things are learned from; class pictures that are missing below ``prior`` are made.

    Raises InputError where these cannot be made.
    """
    pictures = {}
    if config.class_pictures is not None:
        for word in dict.fromkeys(thing.word for thing in things):
            pictures[word] = prior_images(model, word, config.class_pictures, prior)
    return Lessons(things, pictures, config, side=side_of(model), stride=model.latent_stride)


class Learner(nn.Module):
    """What is learned of some things, and the frozen model that it hangs in."""

    def __init__(
        self, model: FrozenDiffusion, things: Sequence[Thing], config: TokenLearningConfig
    ) -> None:
        """The embeddings begin as known tokens', and what is added to the UNet as zeros.

        Raises:
            InputError: there are more things than rare tokens to begin with; or one of these, or a
                class word, has no token.
        """
        super().__init__()
        self.model, self.things, self.config = model, things, config
        starts = _starts(model, things, config)
        self.embeddings = nn.ParameterList(starts)  # (T, C) per text encoder
        self.names = _trained_names(model, config)
        shapes = [model.unet.get_parameter(name).shape for name in self.names]
        self.deltas = nn.ParameterList(torch.zeros(shape) for shape in shapes)

    def tokens(self) -> list[PersonalToken]:
        """What has been learned so far, on the CPU."""
        kept: torch.dtype = getattr(torch, self.config.precision)
        deltas = {
            name: delta.detach().cpu().to(kept, copy=True)
            for name, delta in zip(self.names, self.deltas, strict=True)
        }
        return [
            PersonalToken(
                thing.token,
                thing.word,
                tuple(rows[i].detach().cpu().clone() for rows in self.embeddings),
                deltas,
                self.model.fingerprint(),
            )
            for i, thing in enumerate(self.things)
        ]

    @contextmanager
    def hung(self) -> Iterator[Learner]:
        """Within the block the frozen model computes with what is learned, gradients and all."""
        model, things = self.model, self.things
        # The tables get a row per token, which is not read: the hooks below put the learned one.
        places = [
            PersonalToken(thing.token, thing.word, tuple(rows[i] for rows in self.embeddings))
            for i, thing in enumerate(things)
        ]
        with worn(model, places, other_models=True), ExitStack() as stack:
            for rows, tokenizer, encoder in zip(
                self.embeddings, model.tokenizers, model.text_encoders, strict=True
            ):
                ids = tokenizer.convert_tokens_to_ids([thing.token for thing in things])
                hook = input_table(encoder).register_forward_hook(_rows_hook(rows, ids))
                stack.callback(hook.remove)
            for handle in self._hang_deltas():
                stack.callback(handle.remove)
            if self.config.checkpointing:
                model.unet.enable_gradient_checkpointing()
                stack.callback(model.unet.disable_gradient_checkpointing)
            yield self

    def _hang_deltas(self) -> Iterator[RemovableHandle]:
        by_module: dict[str, dict[str, nn.Parameter]] = {}
        for name, delta in zip(self.names, self.deltas, strict=True):
            path, _, leaf = name.rpartition(".")
            by_module.setdefault(path, {})[leaf] = delta
        for path, added in by_module.items():
            of_text = path.endswith(("to_k", "to_v"))
            hook = _added_hook(added["weight"], added.get("bias"), of_text)
            yield self.model.unet.get_submodule(path).register_forward_hook(hook)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The losses of a batch of lessons: of the photos, of the class pictures, and their sum."""
        prior, count = self.config.class_pictures, len(batch["image"])
        images, prompts = batch["image"], batch["prompt"]
        if prior is not None:
            images = torch.cat([images, batch["class_image"]])
            prompts = prompts + batch["class_prompt"]
        error = self._error(images, prompts)
        mask = batch["mask"]
        photos = (error[:count] * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) * error.shape[1])
        losses = {"loss": photos.mean()}
        if prior is not None:
            losses |= {"photos": losses["loss"], "prior": error[count:].mean()}
            losses["loss"] = losses["photos"] + prior.weight * losses["prior"]
        return losses

    def _error(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The squared error (B, 4, h, w) of the UNet's output, at a random time step each."""
        model, count = self.model, len(images)
        schedule = model.scheduler
        # Drawn on the CPU, so that a GPU sees the same numbers.
        seeds = drawn(lambda n: torch.randint(2**62, (n,)), count).tolist()
        timesteps = drawn(lambda n: torch.randint(len(schedule.alphas_cumprod), (n,)), count)
        # Not in half precision, in which the VAE may overflow.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            latents = model.encode_images(images, seeds=seeds)
        noise = drawn(lambda n: torch.randn(n, *latents.shape[1:]), count).to(latents)
        where = str(model.folder / "scheduler")
        noisy, target = lesson(schedule, latents, noise, timesteps, where)
        encoding = model.encode_prompts(prompts)
        output = model.unet(
            noisy,
            timesteps.to(noisy.device),
            encoder_hidden_states=encoding.embeddings,
            added_cond_kwargs=model.added(noisy, encoding.pooled),
            return_dict=False,
        )[0]
        return (output.float() - target.float()).square()


def _rows_hook(rows: nn.Parameter, ids: Sequence[int]) -> Callable[..., Tensor]:
    """Puts the learned rows (T, C) where a table of embeddings was asked for ``ids``."""

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for row, index in zip(rows, ids, strict=True):
            output = torch.where((args[0] == index)[..., None], row.to(output.dtype), output)
        return output

    return hook


def _added_hook(weight: Tensor, bias: Tensor | None, of_text: bool) -> Callable[..., Tensor]:
    """Makes a linear layer that of its weights and the learned ones.

    ``of_text``: it reads the prompt, whose start token teaches nothing.
    """

    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        read = args[0]
        added = None if bias is None else bias.to(read.dtype)
        output = output + functional.linear(read, weight.to(read.dtype), added)
        if of_text:
            output = torch.cat([output[:, :1].detach(), output[:, 1:]], dim=1)
        return output

    return hook


def _training(model: FrozenDiffusion, config: TokenLearningConfig) -> TrainConfig:
    """The loop's settings: with a scaled loss for a model in float16, else gradients vanish."""
    if model.dtype != torch.float16:
        return config.train
    if processes().device.type == "cpu":
        reason = "float16 learns on a GPU only; load the model in float32 or bfloat16"
        raise InputError(model.folder, "precision", reason)
    return config.train.model_copy(update={"mixed_precision": "fp16"})


def _trained_names(model: FrozenDiffusion, config: TokenLearningConfig) -> list[str]:
    """The UNet's parameters that are added to."""
    if config.method == "textual_inversion":
        return []
    ends = tuple(f".attn2.{end}" for end in _TRAINED[config.trained])
    return [name for name, _ in model.unet.named_parameters() if name.endswith(ends)]


def _starts(
    model: FrozenDiffusion, things: Sequence[Thing], config: TokenLearningConfig
) -> list[Tensor]:
    """What the tokens begin as, (T, C) float32 per text encoder."""
    texts = [thing.word for thing in things]
    if config.start == "rare":
        if len(things) > len(config.rare):
            reason = f"{len(config.rare)} tokens to begin with for {len(things)} things; name more"
            raise InputError("token_learning", "rare", reason)
        texts = list(config.rare[: len(things)])
    starts = []
    for tokenizer, encoder in zip(model.tokenizers, model.text_encoders, strict=True):
        rows = []
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            if not ids:
                reason = f"the tokenizer has no token for {text!r} to begin with"
                raise InputError("token_learning", "start", reason)
            rows.append(input_table(encoder).weight[ids].detach().float().mean(0))
        starts.append(torch.stack(rows))
    return starts


def side_of(model: FrozenDiffusion) -> int:
    """The pixels of the side that the model was trained on."""
    trained = model.unet.config.sample_size
    return int(trained if isinstance(trained, int) else min(trained)) * model.latent_stride


def _key(model: FrozenDiffusion, things: Sequence[Thing], config: TokenLearningConfig) -> str:
    """All that the result depends on beside the training's own settings."""
    photos = hashlib.blake2b(digest_size=16)
    for thing in things:
        for photo in thing.photos:
            photos.update(f"{thing.token} {photo.shape} ".encode() + photo.tobytes())
    prior = config.class_pictures
    words = dict.fromkeys(thing.word for thing in things)
    content = {
        "code": {"token_learning": CODE_VERSION, "prior_images": of_prior.CODE_VERSION,
                 "frozen": frozen.CODE_VERSION, "loop": loop.CODE_VERSION},
        "model": model.fingerprint(),
        "things": [(thing.token, thing.word) for thing in things],
        "photos": photos.hexdigest(),
        "config": config.key_content(),
        "prior": prior and [prior_recipe(model, word, prior) for word in words],
    }  # fmt: skip
    return json.dumps(content, sort_keys=True)
