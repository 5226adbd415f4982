"""Small copies of result pictures for README: ``make pictures`` writes catalog_docs/pictures/.

The pictures themselves are made by pipelines (README names the commands) and lie in
``data/08_reporting``, which is not in the repository.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PIL import Image

from diffground.adapters.catalog_docs import load_catalog
from diffground.errors import InputError
from diffground.io.files import write_whole

FOLDER = Path("catalog_docs") / "pictures"
# Catalog entry -> what makes it, with as few rows as README has room for.
PICTURES = {
    "foundation_generations": "kedro run --pipelines foundation_eval",
    "png_overlays": "kedro run --pipelines png_train --params png.eval.overlays=2",
    "text2mask_figure4": "kedro run --pipelines pseudo_labels --params text2mask.figures=3",
}
WIDTH = 1000  # pixels, at most: about README's column
COLOURS = 256  # of the palette: less than 160 kB a picture


def small(picture: Image.Image) -> Image.Image:
    """The picture at most 1000 pixels wide, in 256 colours of its own, rare ones too."""
    height = round(picture.height * WIDTH / picture.width)
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    return picture.convert("RGB").quantize(
        COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )


def write_pictures(project: Path) -> list[Path]:
    """Copies every picture of :data:`PICTURES`; raises InputError for one that was not made."""
    catalog = load_catalog(project)
    written = []
    for name, command in PICTURES.items():
        source = project / catalog[name]["filepath"]
        if not source.exists():
            raise InputError(source, name, f"not there yet; `{command}` makes it")
        with Image.open(source) as picture:
            reduced = small(picture)
        target = project / FOLDER / f"{name}.png"
        save = partial(reduced.save, format="PNG", optimize=True)
        written.append(write_whole(target, save))
    return written


def main() -> None:
    """Copies the pictures of the project in the current folder."""
    write_pictures(Path.cwd())


if __name__ == "__main__":
    main()
