"""Personal words in CLIP's vocabulary, in the manner of PALAVRA (Cohen et al., ECCV 2022).

PALAVRA's second step: the word's embedding moves until the sentence with it is near the pictures,
and both are far from the same sentence with the class word alone. Its first step, which says where
the embedding begins, is a set encoder that learned on the captions of COCO and the names of Open
Images, and with it comes a map from texts to pictures; neither is to be had. Here an embedding
begins at the class word, and texts stay where CLIP puts them. What is learned so is ours.

``R`` pictures · ``C`` channels of the text encoder · ``P`` of CLIP's space
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from diffground.backbone.contrastive import Contrastive, carried, unit
from diffground.backbone.personal import PersonalToken
from diffground.io.files import sha256
from diffground.io.images import read_image
from diffground.io.locks import held
from diffground.papers.personalized.baselines.config import PalavraConfig
from diffground.papers.personalized.queries import Query
from diffground.store.manifest import config_hash
from diffground.training.loop import train
from diffground.training.processes import alone

# Raised when the same pictures give another word.
CODE_VERSION: Final = 1


class PalavraWords:
    """The personal words of items, learned when they are first asked for and kept in ``folder``.

    A word's folder is named by all that it depends on: pictures, class, CLIP and settings.
    """

    def __init__(self, clip: Contrastive, config: PalavraConfig, folder: str | Path) -> None:
        self.clip, self.config, self.folder = clip, config, Path(folder)

    def __call__(self, query: Query) -> Tensor:
        """The word's embedding (C,); InputError without pictures, or for a broken one."""
        return self.token(query).embeddings[0]

    def token(self, query: Query) -> PersonalToken:
        """The same as a personal token, of CLIP's and not of a diffusion model's."""
        pictures = query.pictures()
        folder = self.folder / f"{query.item}-{self._key(query)}"
        with held(folder.with_name(f".{folder.name}.lock"), f"the word for {query.item}"):
            if not (folder / "config.json").is_file():
                vector = learn_word(self.clip, pictures, query.token, query.word, self.config)
                mark = self.clip.fingerprint
                PersonalToken(query.token, query.word, (vector,), {}, mark).save(folder)
        return PersonalToken.load(folder)

    def token_for(self, query: Query, table: Tensor, model: str) -> PersonalToken:
        """The word in a diffusion model's vocabulary, for SelfCross to read.

        Args:
            table: (V, D) of its text encoder, see :func:`~diffground.backbone.contrastive.carried`.
            model: its fingerprint.
        """
        vector = carried(self(query), self.clip.table, table)
        return PersonalToken(query.token, query.word, (vector,), {}, model)

    def _key(self, query: Query) -> str:
        return config_hash(
            {
                "code": CODE_VERSION,
                "clip": self.clip.fingerprint,
                "token": query.token,
                "word": query.word,
                "pictures": [sha256(path) for path in query.references],
                "config": self.config.key_content(),
            }
        )[:12]


def learn_word(
    clip: Contrastive, pictures: Sequence[Path], token: str, word: str, config: PalavraConfig
) -> Tensor:
    """The embedding (C,) of ``token``, by which CLIP finds "<token> <word>" in the pictures."""
    features = unit(clip.images([read_image(path) for path in pictures])).mean(0)
    inversion = _Inversion(clip, token, word, config)
    # So short that it is begun anew, not resumed, and that nobody shares it.
    with tempfile.TemporaryDirectory() as folder, alone():
        train(
            model=inversion,
            loss_fn=lambda model, batch: model(*batch),
            dataset=TensorDataset(features[None].cpu()),
            config=config.train,
            folder=Path(folder),
            description=f"word for {token}",
        )
    return inversion.vector.detach().cpu()


class _Inversion(nn.Module):
    """A word's embedding, and the loss of it; CLIP is frozen, and no part of what is trained."""

    def __init__(self, clip: Contrastive, token: str, word: str, config: PalavraConfig) -> None:
        super().__init__()
        self.vector = nn.Parameter(clip.word(word).clone())
        self._clip = (clip,)  # in a tuple, so that its weights are not this module's
        self.token, self.temperature = token, config.temperature
        self.sentence = config.prompt.format(f"{token} {word}")
        with torch.no_grad():
            self.coarse = unit(clip.texts([config.prompt.format(word)]))[0]

    def forward(self, picture: Tensor) -> dict[str, Tensor]:
        """The loss of the pictures' mean feature (1, P)."""
        (clip,) = self._clip
        text = clip.texts([self.sentence], {self.token: self.vector})[0]
        pairs = torch.stack([picture[0].to(text), self.coarse]), torch.stack([text, self.coarse])
        return {"loss": contrastive_loss(*pairs, self.temperature)}


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """How badly rows (n, P) find their partners in (n, P): each against all other rows of both.

    The normalised temperature-scaled cross-entropy of the public code, in cosines.
    """
    rows = unit(torch.cat([first, second]))
    logits = rows @ rows.T / temperature
    logits = logits.masked_fill(
        torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf
    )
    partners = torch.arange(len(rows), device=rows.device).roll(len(first))
    return nn.functional.cross_entropy(logits, partners)
