"""A model folder in diffusers layout: what must be in it, checked before anything is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffground.backbone.layers import LAYERS_FILE
from diffground.errors import InputError, shortened
from diffground.io.files import check_sums, load_json
from diffground.io.paths import inside

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

Family = Literal["sd1", "sd2", "sdxl"]

RESTORE = "fetch the folder again; one of the repository comes back by `git checkout -- <folder>`"
RANDOM_FILE = "diffground_random.json"  # marks a folder whose weights are random


@dataclass(frozen=True)
class ModelFolder:
    """A folder that passed :meth:`check`.

    ``pairs`` names the ``(tokenizer, text_encoder)`` subfolders, one pair or (SDXL) two.
    ``variants`` says for every part with weights whether they come as "fp16" files only.
    ``scheduler`` is the name of its class.
    """

    path: Path
    family: Family
    pairs: tuple[tuple[str, str], ...]
    variants: dict[str, str | None]
    scheduler: str

    @classmethod
    def check(cls, folder: str | Path) -> ModelFolder:
        """Looks at the layout, without loading weights and without ever asking the network.

        Weights that came with checksums are compared with them (:mod:`diffground.io.files`). Raises
        :class:`InputError` naming the folder, the missing or damaged piece, and what to do.
        """
        path = Path(folder)
        if not path.is_dir():
            raise InputError(
                path,
                "model folder",
                "there is no such folder. Models are read from disk only: download the model first "
                "(`hf download <name> --local-dir <folder>`) and give the path of that folder",
            )
        unet = _read_json(path, "unet", "config.json")
        if unet.get("_class_name") != "UNet2DConditionModel":
            raise InputError(
                path / "unet/config.json",
                "_class_name",
                f"{unet.get('_class_name')!r} is not supported, only the UNet2DConditionModel of "
                "Stable Diffusion 1.x, 2.x and SDXL is",
            )
        family = _family(unet)
        suffixes = ("", "_2") if family == "sdxl" else ("",)
        pairs = tuple((f"tokenizer{suffix}", f"text_encoder{suffix}") for suffix in suffixes)
        scheduler = _read_json(path, "scheduler", "scheduler_config.json")
        variants = {}
        for part in ("unet", "vae", *(encoder for _, encoder in pairs)):
            _read_json(path, part, "config.json")
            variants[part] = _variant(path, part)
            _check_shards(path / part)
        for tokenizer, _ in pairs:
            check_tokenizer(path, tokenizer)
        check_sums(path, RESTORE)
        return cls(path, family, pairs, variants, str(scheduler.get("_class_name")))

    def fingerprint(self) -> str:
        """A hash (32 hex digits) over every file that is loaded: weights, configs, vocabularies.

        That of a folder with random weights begins with ``random-``, so that run logs and trained
        models tell.
        """
        digest = hashlib.blake2b(digest_size=16)
        for file in self.files():
            digest.update(f"{file.relative_to(self.path).as_posix()}\n".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "blake2b").digest())
        return f"{'random-' if self.random else ''}{digest.hexdigest()}"

    @property
    def random(self) -> bool:
        """Whether :mod:`.random_weights` wrote the folder: a rehearsal, whose weights are drawn."""
        return (self.path / RANDOM_FILE).exists()

    def files(self) -> list[Path]:
        """The files of :meth:`fingerprint`, sorted."""
        found = [self.path / LAYERS_FILE] if (self.path / LAYERS_FILE).exists() else []
        for part in ("scheduler", *(tokenizer for tokenizer, _ in self.pairs)):
            found += [f for f in (self.path / part).iterdir() if f.suffix in (".json", ".txt")]
        for part, variant in self.variants.items():
            found += [self.path / part / "config.json"]
            found += _weights(self.path / part, variant)
        return sorted(found)


def _family(unet: dict[str, Any]) -> Family:
    if unet.get("addition_embed_type") == "text_time":
        return "sdxl"
    return "sd2" if unet.get("use_linear_projection") else "sd1"


def _read_json(path: Path, part: str, name: str) -> dict[str, Any]:
    file = path / part / name
    if not file.exists():
        raise InputError(
            path,
            part,
            f"{part}/{name} is missing. Every part of the model must be there in diffusers layout: "
            "complete the download, or export it with `pipeline.save_pretrained(folder)`",
        )
    content = load_json(file)
    if not isinstance(content, dict):
        raise InputError(file, "content", "not a JSON object")
    return content


def _weights(part: Path, variant: str | None) -> list[Path]:
    """The weight files ``<stem>[.<variant>][-00001-of-00002].safetensors``, not other variants."""
    marks = [
        (file, file.stem.split("-0")[0].partition(".")[2]) for file in part.glob("*.safetensors")
    ]
    return [file for file, mark in marks if mark == (variant or "")]


def _variant(path: Path, part: str) -> str | None:
    """None for full-precision weights, "fp16" where only those are there."""
    for variant in (None, "fp16"):
        if _weights(path / part, variant):
            return variant
    pickled = any((path / part).glob("*.bin"))
    remedy = "export it again with `pipeline.save_pretrained(folder, safe_serialization=True)`"
    raise InputError(
        path,
        part,
        f"{part}/ has pickled weights (*.bin) only, which are never loaded: {remedy}"
        if pickled
        else f"{part}/ has no weights (*.safetensors): complete the download, or {remedy}",
    )


def _check_shards(part: Path) -> None:
    """Weights in several files come with a list of them: it may name no other files."""
    for file in part.glob("*.index.json"):
        content = load_json(file)
        shards = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(shards, dict) or not all(isinstance(x, str) for x in shards.values()):
            raise InputError(file, "weight_map", f"it has to name tensors by file; {RESTORE}")
        for name in sorted(set(shards.values())):
            inside(part, name, file, "weight_map")
            if not name.endswith(".safetensors") and ".safetensors." in file.name:
                raise InputError(file, "weight_map", f"only safetensors are read, not {name[:80]}")


def check_tokenizer(path: Path, part: str) -> None:
    """InputError unless ``path / part`` has a tokenizer's words: without, one is made of none."""
    names, place = ("vocab.json", "merges.txt"), f"{part}/" if part else ""
    whole = (path / part / "tokenizer.json").is_file()
    missing = [name for name in names if not (path / part / name).is_file()]
    if missing and not whole:
        raise InputError(
            path,
            part or "tokenizer",
            f"{place}{missing[0]} is missing: the tokenizer needs {names[0]} and {names[1]} "
            "(or tokenizer.json). Complete the download",
        )


def check_vocabulary(tokenizer: CLIPTokenizer, embedded: int) -> None:
    """InputError if a tokenizer has more tokens than the ``embedded`` ones of its text encoder."""
    if len(tokenizer) > embedded:
        raise InputError(
            tokenizer.name_or_path,
            "vocabulary",
            f"{len(tokenizer)} tokens, but the text encoder embeds {embedded}",
        )


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Within it, diffusers or transformers load what is in ``folder``, :func:`without_bars`.

    Whatever they stumble over is an InputError: each configuration and each file has its own kinds
    of errors there, few of which name it.
    """
    import torch  # takes seconds; whoever loads a model has it

    try:
        with without_bars():
            yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        kind, said = type(error).__name__, shortened(" ".join(str(error).split()))
        reason = f"it cannot be loaded ({kind}: {said}); {RESTORE}"
        raise InputError(folder, "content", reason) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """diffusers and transformers show no progress in the block: they load in a moment, and where
    nobody watches they write a line per update. Afterwards they do as they did before.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    chatty = [each for each in (of_diffusers, of_transformers) if each.is_progress_bar_enabled()]
    for library in chatty:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in chatty:
            library.enable_progress_bar()
