"""Pictures of README and the documentation: ``make pictures`` writes catalog_docs/pictures/.

Those of results are small copies of what pipelines made (README names the commands) in
``data/08_reporting``, which is not in the repository. Samples of the datasets are drawn.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PIL import Image

from diffground.adapters.catalog_docs import load_catalog
from diffground.adapters.site.samples import SAMPLES
from diffground.errors import InputError
from diffground.io.files import write_whole
from diffground.io.images import open_image
from diffground.reporting.small import small

FOLDER = Path("catalog_docs") / "pictures"
# Catalog entry -> what makes it, with as few rows as README has room for.
PICTURES = {
    "foundation_generations": "kedro run --pipelines foundation_eval",
    "png_overlays": "kedro run --pipelines png_train --params png.eval.overlays=2",
    "text2mask_figure4": "kedro run --pipelines pseudo_labels --params text2mask.figures=3",
    "personalized_token_pictures": "kedro run --pipelines personalized_checks",
}
WIDTH = 1000  # pixels, at most: about README's column; less than 160 kB a picture


def write_pictures(project: Path) -> list[Path]:
    """Copies every picture of :data:`PICTURES`; raises InputError for one that was not made."""
    catalog = load_catalog(project)
    written = []
    for name, command in PICTURES.items():
        source = project / catalog[name]["filepath"]
        if not source.exists():
            raise InputError(source, name, f"not there yet; `{command}` makes it")
        with open_image(source) as picture:
            written.append(_write(picture, project, name))
    return written


def write_samples(project: Path) -> list[Path]:
    """Draws samples of the mini world; raises InputError for a dataset that was not made."""
    catalog = load_catalog(project)
    written = []
    for name, draw in SAMPLES.items():
        folder = project / catalog[name]["filepath"]
        if not folder.exists():
            raise InputError(folder, name, "not there yet; `kedro run --pipelines world` makes it")
        written.append(_write(Image.fromarray(draw(folder)), project, f"sample_{name}"))
    return written


def _write(picture: Image.Image, project: Path, name: str) -> Path:
    save = partial(small(picture, WIDTH).save, format="PNG", optimize=True)
    return write_whole(project / FOLDER / f"{name}.png", save)


def main() -> None:
    """Writes the pictures of the project in the current folder."""
    write_samples(Path.cwd())
    write_pictures(Path.cwd())


if __name__ == "__main__":
    main()
