"""A Stable Diffusion folder of a released model's true sizes, with random weights.

python -m diffground.backbone.random_weights sd15 data/06_models/stable-diffusion-v1-5

It rehearses ``--env paper`` where the released weights are not: everything has the true shapes and
costs, and no figure means anything. Architectures: sd14, sd15, sd21, sdxl-turbo, and tiny for
tests. Options: ``--dtype bfloat16|float16|float32``, ``--seed 0``, ``--tokenizer <folder>``.

Size on disk in bfloat16: 2.1 GB for sd14 and sd15, 2.6 GB for sd21, 6.9 GB for sdxl-turbo; one part
after the other is made and written, so memory holds the UNet at most. CLIP's vocabulary is not
shipped with this project: the folder gets the mini model's tokenizer, whose ids lie within CLIP's.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import CLIPTokenizer
from transformers.modeling_utils import local_torch_dtype

from diffground.backbone.architectures import ARCHITECTURES, Architecture
from diffground.backbone.folder import RANDOM_FILE, without_bars
from diffground.errors import InputError
from diffground.io.files import write_json
from diffground.progress import Progress
from diffground.seeds import derive_seed
from diffground.store.manifest import MANIFEST, fingerprint, is_valid, make_folder

log = logging.getLogger(__name__)

TOKENIZER = Path("data/06_models/mini-sd/tokenizer")  # from the project's folder
DTYPES = {name: getattr(torch, name) for name in ("bfloat16", "float16", "float32")}
# Raised when this module writes other files for the same options.
CODE_VERSION: Final = 2


def random_part(
    architecture: Architecture,
    part: str,
    *,
    tokenizer: CLIPTokenizer | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> nn.Module:
    """One part in memory: "unet", "vae", "text_encoder" (SDXL: also "text_encoder_2").

    The weights are the libraries' own initialisation, drawn from ``(seed, part)`` in ``dtype``, so
    two precisions have different ones.
    """
    with torch.random.fork_rng(devices=[]), local_torch_dtype(dtype):
        torch.manual_seed(derive_seed(seed, part))
        return architecture.build(part, tokenizer)


def write_random(
    folder: str | Path,
    name: str,
    *,
    architecture: Architecture | None = None,
    tokenizer: str | Path = TOKENIZER,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> Path:
    """Writes the folder in diffusers layout, with safetensors, unless this very one is there.

    Args:
        folder: appears under its name when it is whole. ``diffground_random.json`` in it says that
            the weights are random, and the folder's fingerprint begins with ``random-``.
        name: a key of :data:`ARCHITECTURES`, or whatever ``architecture`` is to be called.
        tokenizer: a folder whose vocabulary fits into the text encoders'.

    Raises:
        InputError: the folder holds something that was not written here or was changed since; no
            such architecture or tokenizer; not enough space on the disk.
    """
    folder, tokenizer = Path(folder), Path(tokenizer)
    if architecture is None:
        if name not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise InputError(folder, "architecture", f"{name!r} is not known, only {known} are")
        architecture = ARCHITECTURES[name]
    if not (tokenizer / "tokenizer_config.json").is_file():
        raise InputError(
            tokenizer, "tokenizer", "there is no tokenizer; name its folder with --tokenizer"
        )
    _check_free(folder)
    config = {
        "architecture": name,
        "dtype": str(dtype).removeprefix("torch."),
        "seed": seed,
        "tokenizer": fingerprint(tokenizer),
        "code": {"random_weights": CODE_VERSION},
    }

    def make(partial: Path) -> None:
        _fill(partial, config, architecture, tokenizer, dtype)

    make_folder(folder, config, make)
    return folder


def _fill(
    folder: Path, config: dict[str, Any], architecture: Architecture, source: Path, dtype: Any
) -> None:
    tokenizers = {
        encoder: _write_tokenizer(source, folder / tokenizer, text.pad)
        for (tokenizer, encoder), text in zip(architecture.pairs, architecture.texts, strict=True)
    }
    with torch.device("meta"):  # shapes alone
        parts = {
            part: architecture.build(part, tokenizers.get(part)) for part in architecture.parts
        }
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    total = sum(counts.values()) * dtype.itemsize
    if (free := shutil.disk_usage(folder).free) < 1.05 * total:
        raise InputError(
            folder.parent,
            "disk",
            f"{total / 1e9:.1f} GB are to be written, and {free / 1e9:.1f} GB are free",
        )
    scheduler = architecture.build_scheduler()
    scheduler.save_pretrained(folder / "scheduler")
    words = {tokenizer: tokenizers[encoder] for tokenizer, encoder in architecture.pairs}
    architecture.pipeline({**parts, **words, "scheduler": scheduler}).save_config(folder)
    with Progress(total, str(config["architecture"]), unit="B") as bar:
        for part in parts:
            bar.update(0, part)
            module: Any = random_part(
                architecture,
                part,
                tokenizer=tokenizers.get(part),
                dtype=dtype,
                seed=config["seed"],
            )
            with without_bars():
                module.save_pretrained(folder / part)
            del module  # before the next one is made
            bar.update(counts[part] * dtype.itemsize)
    write_json(folder / RANDOM_FILE, {**config, "parameters": counts})
    (folder / "README.md").write_text(_CARD.format(**config), "utf-8")


def _check_free(folder: Path) -> None:
    """The folder is new, empty, or was written by this module and not changed since."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / RANDOM_FILE).is_file():
        raise InputError(
            folder,
            RANDOM_FILE,
            "something is there that was not written by this command, so it is left alone; "
            "choose another folder",
        )
    if not is_valid(folder):
        raise InputError(
            folder,
            MANIFEST,
            "files were changed since this command wrote them, so they are left alone; remove the "
            "folder, or choose another one",
        )


def _write_tokenizer(source: Path, target: Path, pad: str | None) -> CLIPTokenizer:
    """The tokenizer of ``source``, padding with ``pad``, in the two formats that are read."""
    special = {} if pad is None else {"pad_token": pad}
    tokenizer = CLIPTokenizer.from_pretrained(source, local_files_only=True, **special)
    tokenizer.save_pretrained(target)
    tokenizer.backend_tokenizer.model.save(str(target))  # vocab.json and merges.txt
    return tokenizer


_CARD = """# Random weights: a rehearsal, not a model

The true sizes of `{architecture}` in diffusers layout, {dtype}, seed {seed}, written by
`python -m diffground.backbone.random_weights`. Nothing was trained: every figure made with this
folder is meaningless. The tokenizer is not CLIP's but the mini model's.

Remove the whole folder before the released weights take its place: `diffground_random.json` marks
whatever lies beside it as random.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m diffground.backbone.random_weights",
        description="Writes a Stable Diffusion folder of the true sizes with random weights.",
    )
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("folder", type=Path, help="where it goes; an own folder, new or empty")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="default: %(default)s")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        folder = write_random(
            options.folder,
            options.architecture,
            tokenizer=options.tokenizer,
            dtype=DTYPES[options.dtype],
            seed=options.seed,
        )
    except InputError as error:
        parser.exit(2, f"{error}\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    log.info("%s: %s with random weights, %.2f GB", folder, options.architecture, size / 1e9)


if __name__ == "__main__":
    main()
