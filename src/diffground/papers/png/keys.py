"""One PNG experiment: the key that names its results, and where they lie.

Everything that trained weights depend on goes into the key, and settings of parts that a model
lacks stay out of it: variants never mix, and equal ones are trained once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from diffground.backbone import frozen
from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.png_reading import data_fingerprint, left_out
from diffground.errors import InputError
from diffground.io.files import read_json
from diffground.masks import mask_loss
from diffground.metrics import average_recall
from diffground.papers.png import decoder, eipa, evaluate, features, losses, mlma, model
from diffground.papers.png import narratives as data
from diffground.papers.png.config import PngConfig, PngFolders, PngModelConfig
from diffground.provenance import RECIPE, claim, code_of
from diffground.store.manifest import config_hash, fingerprint
from diffground.training import loop

# How a trained model is read off and run: a run's choice, whatever the training's was.
READING = ("head", "probability", "threshold", "checkpoint")


@dataclass(frozen=True, eq=False)
class Variant:
    """One experiment: its settings, where it reads and writes, and the key of its results.

    Attributes:
        content: what the key was made of.
    """

    config: PngConfig
    folders: PngFolders
    backbone: FrozenDiffusion
    content: dict[str, Any]

    @classmethod
    def of(cls, config: PngConfig, folders: PngFolders, backbone: FrozenDiffusion) -> Variant:
        """From all that the trained weights depend on; zero-shot variants have no training.

        Narratives that the doctor, asked last, found without usable files are among it: weights
        that never saw them are other weights. What changes the rounding alone is not: precision,
        accumulation, processes. So a model that four GPUs trained is found by one, and
        ``training.json`` says how it was made.
        """
        content = _settings(config, folders.coco, backbone)
        if config.model.learns:
            absent = left_out(folders.coco, config.splits, config.data.max_phrases, folders.doctor)
            if absent:
                content["left_out"] = absent
        if config.model.pretrained:
            content["panoptic"] = _weights_fingerprint(folders.panoptic)
        return cls(config, folders, backbone, content)

    @classmethod
    def found(
        cls, folder: Path, config: PngConfig, folders: PngFolders, backbone: FrozenDiffusion
    ) -> Variant:
        """What lies in ``folder``; InputError if ``config`` or the data are other ones by now."""
        content = read_json(folder / RECIPE) or {}
        for name, part in _settings(config, folders.coco, backbone).items():
            if content.get(name) != part:
                reason = f"the model has another {name}: begin with train_png or find_png_model"
                raise InputError(folder / RECIPE, name, reason)
        return cls(config, folders, backbone, content)

    @cached_property
    def name(self) -> str:
        """``<insertion>-<key>``."""
        return f"{self.config.model.insertion}-{config_hash(self.content)[:12]}"

    @property
    def folder(self) -> Path:
        """Where its results lie."""
        return self.folders.models / self.name

    def claim(self) -> None:
        """Notes in its folder what it is made of."""
        claim(self.folder, self.content)

    @cached_property
    def rule(self) -> dict[str, Any]:
        """All that its Average Recall depends on besides its weights."""
        config = self.config
        return {
            "code": code_of(average_recall, evaluate),
            "eval": config.eval.key_content(),
            "precision": config.precision,
            "head": config.model.final_head,
            "probability": config.model.probability,
            "threshold": config.model.threshold,
            "val": config.splits.val,
            "held_out": list(config.splits.held_out),
            "coco": data_fingerprint(self.folders.coco),
        }

    def measured(self, what: Literal["evaluation", "phrases"]) -> Path:
        """Where its Average Recall lies, or the IoU of every phrase behind it."""
        return self.folder / f"{what}-{config_hash(self.rule)[:12]}.json"


def _settings(config: PngConfig, coco: Path, backbone: FrozenDiffusion) -> dict[str, Any]:
    """What weights depend on, but for what others left: findings, weights to start from."""
    content: dict[str, Any] = {
        "code": _code(config.model),
        "model": _relevant(config.model),
        "backbone": backbone.fingerprint(),
        "data": config.data.model_dump(mode="json"),
    }
    if config.model.learns:
        training = config.train.key_content()
        if config.model.insertion == "none":
            del training["adapter_rate"]
        content |= {
            "coco": data_fingerprint(coco),
            "splits": config.splits.model_dump(mode="json", exclude={"val"}),
            "loss": config.loss.model_dump(mode="json"),
            "train": training,
        }
    return content


def _code(config: PngModelConfig) -> dict[str, int]:
    """The code versions that results depend on: of parts that a model lacks, none."""
    modules = [frozen, data, features, model]
    if config.insertion != "none":
        modules.append(eipa)
    if config.decode:
        modules += [decoder, mlma]
    if config.learns:
        modules += [losses, mask_loss, loop]
    return code_of(*modules)


def _relevant(model: PngModelConfig) -> dict[str, Any]:
    """The model's settings that its weights depend on: of parts it lacks, none."""
    aside = set(READING)
    if model.insertion == "none":
        aside.add("eipa")
    if model.inner_product != "learned":
        aside.add("inner_width")
    if not model.decode:
        aside |= {"mlma", "decoder", "mask_latent"}
    return model.model_dump(mode="json", exclude=aside)


def _weights_fingerprint(path: Path) -> str:
    """A hash of the weights to start from; of a file (gigabytes) its name, size and date."""
    if path.is_dir() or not path.exists():
        return fingerprint(path)
    stamp = path.stat()
    return config_hash({"file": path.name, "size": stamp.st_size, "modified": stamp.st_mtime_ns})
