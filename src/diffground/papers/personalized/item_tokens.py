"""The learned tokens of a dataset's items, as a store: each is learned once, and found by all rows.

::

    <folder>/<item>/token.safetensors, config.json     see `PersonalToken.save`

The folder is named by what all tokens depend on, see :func:`tokens_recipe`. A run that is killed
goes on within the item that it was at.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from diffground.backbone.on_demand import Frozen
from diffground.backbone.personal import CARD, WEIGHTS, PersonalToken
from diffground.errors import InputError
from diffground.io.files import seal_of
from diffground.io.images import read_image
from diffground.papers.personalized import token_learning
from diffground.papers.personalized.config import PersonalizedConfig
from diffground.papers.personalized.queries import Query
from diffground.papers.personalized.scenes import Scenes
from diffground.papers.personalized.token_checks import Learned
from diffground.papers.personalized.token_learning import learn
from diffground.provenance import code_of
from diffground.reporting.few import evenly
from diffground.store.items import Item, Summary
from diffground.store.manifest import config_hash
from diffground.training.processes import alone
from diffground.training.sharing import fill_together, spent_together

PRIOR: Final = "class_pictures"  # below the folder of all tokens: one for every seed and row
_TRAINING: Final = ".training"  # hidden: not a part of what is kept

_CACHED = 32  # tokens in memory; of a full-size model each takes some 77 MB


def tokens_recipe(fingerprint: str, config: PersonalizedConfig) -> dict[str, Any]:
    """What all tokens depend on beside the pictures of their item."""
    return {
        "code": code_of(token_learning),
        "model": fingerprint,
        "precision": config.precision,
        "learning": config.seeded_learning.key_content(),
    }


def tokens_folder(root: Path, fingerprint: str, config: PersonalizedConfig) -> Path:
    """Where the tokens of these settings are."""
    return root / f"tokens-{config_hash(tokens_recipe(fingerprint, config))[:12]}"


def learn_items(scenes: Scenes, frozen: Frozen, config: PersonalizedConfig, root: Path) -> Summary:
    """Learns the tokens of all items that are asked for, as far as they are missing.

    Processes that a launcher started learn items of their own. An item whose pictures cannot be
    read is reported, and the others go on. Seconds are those of all runs that learned these tokens.
    """
    folder = tokens_folder(root, frozen.fingerprint, config)
    # Outside of the folder, whose files are counted.
    training = folder.with_name(f"{_TRAINING}-{folder.name}")
    by_id = scenes.items

    def make(item: str) -> PersonalToken:
        asked = by_id[item]
        with alone():
            return learn(
                frozen.model,
                asked.pictures,
                asked.word,
                config.seeded_learning,
                training / item,
                token=asked.token,
                prior=root / PRIOR,
            )

    def finish(item: str, token: PersonalToken) -> None:
        token.save(folder / item)
        shutil.rmtree(training / item, ignore_errors=True)

    items = [
        Item(
            item.id,
            _files(item.id),
            {"token": item.token, "word": item.word},
            {path.name: path for path in item.pictures},
        )
        for item in by_id.values()
    ]
    recipe, work = tokens_recipe(frozen.fingerprint, config), config.work.unfinished()
    summary = fill_together(folder, recipe, items, make, finish, what="tokens", work=work)
    return {**summary, "seconds": spent_together(folder, summary)["seconds"]}


def read_tokens(folder: Path) -> Callable[[Query], PersonalToken]:
    """Reads tokens below ``folder`` as they are asked for; the last ones stay in memory."""

    @lru_cache(maxsize=_CACHED)
    def read(item: str) -> PersonalToken:
        return PersonalToken.load(folder / item)

    def of(query: Query) -> PersonalToken:
        token = read(query.item)
        if (token.token, token.word) != (query.token, query.word):
            reason = f"{token.token} {token.word}, and {query.token} {query.word} is asked for"
            raise InputError(folder / query.item, "token", f"{reason}: learn it anew")
        return token

    return of


def read_learned(scenes: Scenes, folder: Path, count: int) -> list[Learned]:
    """So many of the items that were learned in ``folder``, spread evenly, with their photos.

    Raises InputError if none was.
    """
    known = [item for item in scenes.items.values() if (folder / item.id / CARD).is_file()]
    if not known:
        raise InputError(folder, "tokens", "no item was learned; run `personalized` first")
    return [
        Learned(
            item.id,
            PersonalToken.load(folder / item.id),
            [read_image(path) for path in item.pictures],
        )
        for item in evenly(known, count)
    ]


def token_files(folder: Path, items: list[str]) -> dict[str, Path]:
    """The weights of some items' tokens, by item."""
    return {f"token {item}": folder / item / WEIGHTS for item in items}


def _files(item: str) -> tuple[str, ...]:
    names = [Path(item, name) for name in (WEIGHTS, CARD)]
    return tuple(name.as_posix() for one in names for name in (one, seal_of(one)))
