"""The console command ``diffground``: masks, a page, the doctor, the mini world, grids, URLs.

    diffground ground photo.jpg "a cat; a sofa"
    diffground ground photos "a cat; a sofa"
    diffground page
    diffground doctor
    diffground doctor path/to/coco
    diffground world path/to/new/folder
    diffground ablate png_components
    diffground sync png_features

A thin layer over the functions of the rooms. It works wherever the package is installed, in any
folder; pipelines are run by ``kedro run`` (:mod:`diffground.cli`) in a checkout.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from diffground import __version__
from diffground.config import refused
from diffground.errors import InputError
from diffground.failures import told
from diffground.ground.config import METHODS, GroundConfig, MethodName
from diffground.shipped import CONF, MINI_MODEL, shipped
from diffground.world.datasets import DATASETS, make_dataset

if TYPE_CHECKING:
    from diffground.adapters.doctor.findings import Finding

_MODEL = click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="A Stable Diffusion folder in diffusers layout. Default: the mini model.",
)
_DEVICE = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps."
)

ENVIRONMENTS = ("base", "mini")  # of the configuration, the later ones say what differs


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Frozen text-to-image diffusion models as open-vocabulary segmenters."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are local folders


@main.command()
@click.argument("source", required=False)
@click.argument("words", required=False)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="Default: whose the checkpoint is; text2mask without one.",
)
@_MODEL
@click.option(
    "--checkpoint",
    multiple=True,
    help="A folder of what was trained in the model: by png_train, by grounding_train, or a "
    "learned token (several may be given).",
)
@click.option(
    "--vocabulary", help="voc, coco, mini or a JSON file: their words alone, with synonyms."
)
@click.option("--prompt", help="Generates an image in which WORDS are: no SOURCE. For grounded.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="The folder that a table's images count from. Default: the table's.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The folder to make. Default: here, named like SOURCE.",
)
@click.option("--seed", default=42, show_default=True, help="Of noises.")
@_DEVICE
def ground(
    *,
    source: str | None,
    words: str | None,
    method: MethodName | None,
    model: Path | None,
    checkpoint: tuple[str, ...],
    vocabulary: str | None,
    prompt: str | None,
    images: Path | None,
    out: Path | None,
    seed: int,
    device: str,
) -> None:
    """Finds WORDS in SOURCE: an image, a folder of images, or a table of them.

    It makes a folder with an overlay, a mask for each phrase as PNG, masks.json, and COCO's lists.
    Of a folder or a table, images that cannot be used are named and left out, and the same command
    goes on where it was stopped.

    WORDS are phrases between semicolons, "a cat; a sofa", or a narrative with its phrases in
    brackets, "a [puppy] stands on the [bench]". What png_train trained finds the nouns of a
    narrative without brackets. A table (.csv, .jsonl) has the columns image, or prompt, and
    phrases, or narrative.
    """
    with told():
        if prompt is not None and words is None:
            source, words = None, source
        if source is None and prompt is None:
            raise click.UsageError("Missing argument 'SOURCE': an image, a folder or a table.")
        from diffground.ground.grounding import ground as ground_all
        from diffground.ground.methods import method_of, open_method
        from diffground.training.processes import check_device, chosen_device

        if model is None:
            model = shipped(MINI_MODEL)
            said = "the mini model, which knows the mini world only; --model names another"
            click.echo(f"{model.name}: {said}", err=True)
        check_device(device, "--device")
        if method is None:
            method = method_of(Path(checkpoint[0])) if checkpoint else "text2mask"
        try:
            config = GroundConfig(
                method=method,
                source=None if source is None else Path(source),
                words=words,
                prompt=prompt,
                images=images,
                model=model,
                checkpoint=checkpoint,
                vocabulary=vocabulary,
                max_phrases=None,
                seed=seed,
                device=device,
            )
        except ValidationError as error:
            raise refused("diffground ground", error) from error
        opened = open_method(
            method, model, [Path(name) for name in checkpoint],
            vocabulary=vocabulary, seed=seed, device=chosen_device(device),
        )  # fmt: skip
        folder = Path(f"{Path(source or 'generated').stem}_masks") if out is None else out
        _tell(ground_all(config, opened, folder), folder)


def _tell(report: Mapping[str, Any], folder: Path) -> None:
    """What was found, and where it is; what was left out goes to the error stream."""
    from diffground.ground.grounding import MANY, ONE, STORE

    for found in report["grounded"]:
        if report["total"] > 1:
            click.echo(f"{found['name']}:")
        for row in found["phrases"]:
            click.echo(f"{row['text']}: {100 * row['share']:.1f} % of the image, {row['note']}")
    for problem in report["problems"]:
        click.echo(f"{problem['item']} is left out: {problem['reason']}", err=True)
    click.echo(f"{folder}: {MANY if (folder / STORE).is_dir() else ONE}")


@main.command()
@_MODEL
@click.option("--port", default=7860, show_default=True, help="0 takes one that is free.")
@_DEVICE
def page(model: Path | None, port: int, device: str) -> None:
    """Opens a page to play with, for this machine alone.

    Choose a picture, type words, choose a method: the page shows masks and attention maps. It asks
    for no network and keeps nothing. Ctrl-C ends it.
    """
    with told():
        try:
            from diffground.page.server import serve
        except ModuleNotFoundError as error:
            if error.name not in ("starlette", "uvicorn"):
                raise
            reason = "it is not installed: pip install starlette uvicorn"
            raise InputError(error.name, "package", reason) from error
        from diffground.backbone.folder import ModelFolder
        from diffground.page.asking import Asking
        from diffground.training.processes import check_device, chosen_device

        check_device(device, "--device")
        folder = shipped(MINI_MODEL) if model is None else model
        ModelFolder.check(folder)
        serve(
            Asking(folder, chosen_device(device)),
            port,
            lambda url: click.echo(f"{url} (Ctrl-C ends it)"),
        )


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
@click.argument("entries", nargs=-1)
@click.option("--env", help="Whose entries: mini (the default), paper, gpu.")
def sync(entries: tuple[str, ...], env: str | None) -> None:
    """Fetches what is newer at the URLs of the catalog's ENTRIES, and sends what is newer here.

    Runs do so by themselves. This is for notebooks, which read the working copies, and for what a
    run had made when it was killed. Without ENTRIES it is all that are at a URL.
    """
    with told():
        project = _checkout()
        if project is None:
            raise click.UsageError("the catalog is in a checkout, and this folder is in none")
        from diffground.adapters.remote import sync as sync_all

        sync_all(project, env, entries, click.echo)


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
