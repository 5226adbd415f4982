"""Mini models of the tiny recipe, trained once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_foundation import CANVAS, QUALITY, RECIPE

from diffground.foundation import build
from diffground.foundation.fitting import Workshop


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All parts, trained for two steps, and assembled."""
    root = tmp_path_factory.mktemp("foundation")
    work = root / "work"
    shop = Workshop(RECIPE, CANVAS, work)
    draft = build.make_draft(shop)
    vae = build.make_autoencoder(shop, draft)
    words = build.make_diffusion(shop, vae)
    sd = build.assemble(RECIPE, CANVAS, QUALITY, vae, words, root / "mini-sd")
    return {
        "work": work,
        "draft": draft,
        "vae": vae,
        "sd": sd,
        "turbo": build.make_turbo(shop, vae, sd, root / "mini-sdxl-turbo"),
        "clip": build.make_clip(shop, words, root / "mini-clip"),
        "vit": build.make_vit(shop, root / "mini-vit"),
        "segmenter": build.make_segmenter(shop, draft, vae, root / "mini-segmenter"),
    }
