"""The console command ``diffground``: masks, the doctor, the mini world and grids of notebooks.

    diffground ground photo.jpg "a cat; a sofa"
    diffground doctor
    diffground doctor path/to/coco
    diffground world path/to/new/folder
    diffground ablate png_components

A thin layer over the functions of the rooms. It works wherever the package is installed, in any
folder; pipelines are run by ``kedro run`` (:mod:`diffground.cli`) in a checkout.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffground import __version__
from diffground.errors import InputError
from diffground.failures import told
from diffground.shipped import CONF, MINI_MODEL, shipped
from diffground.world.datasets import DATASETS, make_dataset

if TYPE_CHECKING:
    from diffground.adapters.doctor.findings import Finding

ENVIRONMENTS = ("base", "mini")  # of the configuration, the later ones say what differs


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Frozen text-to-image diffusion models as open-vocabulary segmenters."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are local folders


@main.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.argument("words")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="A Stable Diffusion folder in diffusers layout. Default: the mini model.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="What png_train trained in the model: grounds narratives. Default: TextToMask.",
)
@click.option(
    "--vocabulary", help="voc, coco, mini or a JSON file: their words alone, with synonyms."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The folder to make. Default: here, named like IMAGE.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps.")
def ground(
    image: Path,
    words: str,
    model: Path | None,
    checkpoint: Path | None,
    vocabulary: str | None,
    out: Path | None,
    device: str,
) -> None:
    """Finds WORDS in IMAGE.

    It makes a folder with an overlay, a mask for each phrase as PNG, and masks.json.

    WORDS are phrases between semicolons, "a cat; a sofa". With --checkpoint also a narrative:
    "a [puppy] stands on the [bench]"; without brackets its noun phrases are found.
    """
    with told():
        from diffground import NarrativeGrounder, PhraseMasks, TextToMask
        from diffground.training.processes import check_device, chosen_device

        if model is None:
            model = shipped(MINI_MODEL)
            said = "the mini model, which knows the mini world only; --model names another"
            click.echo(f"{model.name}: {said}", err=True)
        if checkpoint is not None and vocabulary is not None:
            raise click.UsageError("--vocabulary is of TextToMask, which --checkpoint replaces")
        check_device(device, "--device")
        device = chosen_device(device)
        result: PhraseMasks
        if checkpoint is None:
            segmenter = TextToMask.from_pretrained(model, vocabulary=vocabulary, device=device)
            result = segmenter(image, phrases(words), item=image.stem)
        else:
            grounder = NarrativeGrounder.from_pretrained(model, checkpoint, device=device)
            asked = phrases(words) if ";" in words else words
            result = grounder(image, asked, item=image.stem)
        folder = result.save(Path(f"{image.stem}_masks") if out is None else out)
        rows = zip(result.phrases, result.masks, result.notes(), strict=True)
        for phrase, mask, note in rows:
            click.echo(f"{phrase}: {100 * mask.mean():.1f} % of the image, {note}")
        click.echo(f"{folder}: overlay.png, masks.json, a PNG per phrase")


def phrases(words: str) -> list[str]:
    """The phrases between semicolons, without their articles: a prompt brings its own.

    Raises InputError if there is none.
    """
    parts = (part.strip() for part in words.split(";"))
    found = [re.sub(r"^(?:an?|the)\s+", "", part, flags=re.I) for part in parts if part]
    if not found:
        raise InputError("WORDS", "phrases", 'there is none; say what to look for: "a cat; a sofa"')
    return found


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--env", help="Whose models and datasets: mini (the default), paper, gpu.")
@click.option("--split", default="val2017", show_default=True, help="Of a FOLDER of COCO.")
@click.option("--deep", is_flag=True, help="Opens every picture and mask as well.")
def doctor(folder: Path | None, env: str | None, split: str, deep: bool) -> None:
    """Looks over this machine, or a FOLDER.

    Of the machine it tells packages, GPU, disk, the run log, and, in a checkout, every model and
    dataset that the catalog names: what is there, what is broken or missing, and what to do.

    A FOLDER may be a copy of COCO with panoptic narratives, of VOC 2012, COCO 2014 or Mug19, or a
    model. Of COCO it also tells how narratives and segments fit together.

    The exit code is 1 if anything is wrong.
    """
    with told():
        if folder is not None:
            if env is not None:
                raise click.UsageError("--env is of the machine, not of a folder")
            from diffground.adapters.doctor.folders import look

            text, found = look(folder, split=split, deep=deep)
            click.echo(text, nl=False)
            sections = {str(folder): found}
        else:
            sections = _machine(env, deep)
        from diffground.adapters.doctor.findings import rendered, summed_up

        for title, findings in sections.items():
            click.echo(rendered(title, findings))
        all_of_them = [finding for findings in sections.values() for finding in findings]
        click.echo(summed_up(all_of_them))
        if any(finding.state == "wrong" for finding in all_of_them):
            raise click.exceptions.Exit(1)


def _machine(env: str | None, deep: bool) -> dict[str, list[Finding]]:
    """The findings of a checkout; elsewhere those that need none, and the shipped model."""
    from diffground.adapters.doctor import folders, machine

    project = _checkout()
    if project is not None:
        from diffground.adapters.doctor.project import examine

        return examine(project, env, deep=deep)
    here = Path.cwd()
    if env is not None:
        raise click.UsageError("--env is of a checkout, and this folder is in none")
    return {
        "Packages": list(machine.packages(here / "constraints.txt")),
        "Machine": [*machine.accelerators(), machine.disk(here, "mini")],
        "Models": [folders.model(shipped(MINI_MODEL), "the mini model")],
    }


def _checkout() -> Path | None:
    """The checkout that this folder is in."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "conf/base").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return None


@main.command()
@click.argument("grids", nargs=-1)
def ablate(grids: tuple[str, ...]) -> None:
    """Runs notebooks over GRIDS of their parameters.

    A grid is a file in conf/ablations, by its name or its path. Cells that are finished are not run
    again: a grid that was killed goes on. A cell that fails is listed, and the others run. Each is
    a run of the log, all of a grid under one; data/08_reporting/ablations/index.html shows them.

    Without GRIDS it lists those that there are. The exit code is 1 if a cell failed.
    """
    with told():
        project = _checkout()
        if project is None:
            raise click.UsageError("notebooks are in a checkout, and this folder is in none")
        from diffground.adapters.ablations import pages, running
        from diffground.adapters.ablations.grids import read_grid

        known = running.known_grids(project)
        asked = [known.get(name) or read_grid(project, name) for name in grids]
        failed = 0
        try:
            for grid in asked:
                done = running.run_grid(project, grid, click.echo)
                failed += done["skipped"]["skipped"]
                click.echo(running.summed_up(grid, done))
        finally:
            known |= {grid.name: grid for grid in asked}
            index = pages.write_pages(project, list(known.values()))
        for grid in [] if asked else known.values():
            click.echo(running.state(project, grid))
        click.echo(str(index))
        if failed:
            raise click.exceptions.Exit(1)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--only", multiple=True, type=click.Choice(list(DATASETS)), help="May be repeated.")
def world(folder: Path, only: tuple[str, ...]) -> None:
    """Draws the mini world.

    Its datasets have the layouts of the public ones, each in a folder of FOLDER. What is there
    already is not made again.
    """
    from omegaconf import OmegaConf

    from diffground.world.config import WorldConfig

    with told():
        files = [shipped(CONF) / env / "parameters_world.yml" for env in ENVIRONMENTS]
        content = OmegaConf.merge(*(OmegaConf.load(file) for file in files if file.is_file()))
        settings = OmegaConf.to_container(OmegaConf.select(content, "world"))
        config = WorldConfig.model_validate(settings)
        for name in DATASETS:
            if name in (only or DATASETS):
                make_dataset(name, folder / name, config)
                click.echo(str(folder / name))
