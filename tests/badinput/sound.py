"""Sound inputs of every reader, and how each is read: what the cases of the corpus spoil."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import tiny_png
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from kedro.io import AbstractDataset, DatasetError
from PIL import Image
from recipes import recipe
from safetensors.torch import save_file
from torch import nn
from transformers import ResNetConfig, ResNetModel

from diffground.adapters.datasets.files import ImageDataset, JSONDataset, RecordsDataset
from diffground.adapters.datasets.folders import MadeFolderDataset
from diffground.attention.aggregate import ClassMaps
from diffground.attention.preprocess import Geometry
from diffground.backbone.contrastive import Contrastive
from diffground.backbone.folder import ModelFolder
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.personal import PersonalToken, check_fit
from diffground.backbone.personal_formats import load_public as load_tokens
from diffground.data.image_lists import CocoSource, FolderSource, Source, VocSource
from diffground.data.labelled_images import read_samples
from diffground.data.mug19 import Mug19
from diffground.data.mug19_doctor import examine as examine_mug19
from diffground.data.png_benchmark import PngBenchmark
from diffground.data.png_doctor import examine, problems_of
from diffground.data.vocabulary import Vocabulary
from diffground.errors import InputError, Problem, ProblemReport
from diffground.failures import message
from diffground.ground.requests import Refused, read_table
from diffground.io.files import check_sums, write_sums
from diffground.io.images import read_image, write_png
from diffground.io.labels import read_labels, write_labels
from diffground.io.panoptic import encode_panoptic, read_panoptic
from diffground.papers.grounded.data_config import ChoiceConfig
from diffground.papers.grounded.data_report import thumbnail
from diffground.papers.grounded.feature_maps import feature_maps
from diffground.papers.grounded.module import GroundingModule
from diffground.papers.grounded.module_sizes import MODULES
from diffground.papers.grounded.public_weights import load_public as load_grounding
from diffground.papers.grounded.samples import (
    Instance,
    Record,
    SyntheticSet,
    in_8_bits,
    write_part,
)
from diffground.papers.personalized.config import PersonalLocaliserConfig
from diffground.papers.png.config import DecoderConfig, MlmaConfig
from diffground.papers.png.decoder import MaskFeature, PhraseDecoder
from diffground.papers.png.grounder import _trained_at
from diffground.papers.png.mlma import MLMA
from diffground.papers.png.model import PngModel
from diffground.papers.png.pretrained import load_panoptic_weights
from diffground.papers.text2mask.config import TextToMaskConfig
from diffground.papers.text2mask.map_files import _write, maps_path, read_maps
from diffground.segmenters.config import DeepLabConfig
from diffground.segmenters.deeplab import DeepLabV2
from diffground.segmenters.instance import InstanceSegmenter
from diffground.segmenters.resnet import load_resnet
from diffground.segmenters.vit import VitDescriptors
from diffground.store.items import Item, fill
from diffground.training.checkpoint import Average, Checkpoint

MODELS: Final = Path(__file__).parents[2] / "data/06_models"
SIZE: Final = (12, 16)  # (H, W) of all pictures
_FOLDERS = tempfile.TemporaryDirectory()  # removed when the tests end


@dataclass(frozen=True)
class Reader:
    """A sound folder, and reading all of it.

    Attributes:
        make: writes the folder.
        read: reads what is in it to the last pixel, and gives what it left out.
        files: that general faults befall, and the kind of each, see ``cases/general.yml``.
        harmless: general faults, as "file: fault", that rightly do no harm, and why.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], list[Problem]]
    files: Mapping[str, str] = field(default_factory=dict)
    harmless: Mapping[str, str] = field(default_factory=dict)
    sound: bool = True  # whether the folder is whole; else only how its file is opened is tried


def copy_of(name: str, target: Path) -> Path:
    """A sound folder of a reader, by hard links: whoever changes a file removes it first."""
    shutil.copytree(_made(name), target, copy_function=_linked)
    return target


@cache
def _made(name: str) -> Path:
    folder = Path(_FOLDERS.name) / name
    folder.mkdir()
    READERS[name].make(folder)
    return folder


def _linked(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


def _picture_file(path: Path) -> None:
    write_png(path, np.full((*SIZE, 3), 120, np.uint8))


def _mask_file(path: Path, label: int = 1) -> None:
    labels = np.zeros(SIZE, np.uint8)
    labels[2:6, 2:6] = label
    write_labels(path, labels)


def _json_file(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")


def _text_file(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, "utf-8")


# Data.


def _make_mug19(folder: Path) -> None:
    items = [
        {"id": name, "token": "<new1>", "class": "mug", "images": [f"items/{name}/0.png"]}
        for name in ("mug01", "mug02")
    ]
    triplets = [
        {
            "item": item,
            "instance": item,
            "context": f"a mug filled with {what}",
            "description": f"a <new1> mug filled with {what}",
            "image": f"scenes/scene{number}/000.png",
            "mask": f"masks/scene{number}/000.png",
            "segment": 1,
            "others": [],
            "splits": ["all"],
        }
        for number, (item, what) in enumerate((("mug01", "cola"), ("mug02", "milk")))
    ]
    _json_file(folder / "items.json", items)
    _json_file(folder / "triplets.json", triplets)
    for name in ("mug01", "mug02"):
        _picture_file(folder / f"items/{name}/0.png")
    for number in (0, 1):
        _picture_file(folder / f"scenes/scene{number}/000.png")
        _mask_file(folder / f"masks/scene{number}/000.png")


def _read_mug19(folder: Path) -> list[Problem]:
    data = Mug19.read(folder)
    found = examine_mug19(data, deep=True)
    return [Problem(**row) for part in ("problems", "deep") for row in found[part]["problems"]]


def _read_panoptic(folder: Path) -> list[Problem]:
    found = examine(PngBenchmark(folder, "val2017"), deep=True)
    return [Problem(**row) for row in problems_of(found)]


VOC: Final = "VOCdevkit/VOC2012"


def _make_voc(folder: Path) -> None:
    base = folder / VOC
    for name in ("a", "b"):
        _picture_file(base / f"JPEGImages/{name}.jpg")
        for masks in ("SegmentationClass", "SegmentationClassAug"):
            _mask_file(base / masks / f"{name}.png", 4)
        boat = "<annotation><object><name>boat</name></object></annotation>"
        _text_file(base / f"Annotations/{name}.xml", boat)
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in ("a", "b")]
    _text_file(base / "ImageSets/SegmentationAug/train.txt", "\n".join(lines))
    for split in ("train", "test"):
        _text_file(base / f"ImageSets/Segmentation/{split}.txt", "a\nb\n")


def _make_coco(folder: Path) -> None:
    base, lines = folder / "COCO2014", []
    for number in (1, 2):
        name = f"COCO_train2014_{number:012d}"
        _picture_file(base / f"JPEGImages/train2014/{name}.jpg")
        _mask_file(base / f"Annotations/{number:012d}.png")
        lines.append(f"{name} 0")
    _text_file(base / "ImageSets/SegmentationClass/train.txt", "\n".join(lines))


def _make_folder(folder: Path) -> None:
    for name in ("a", "b"):
        _picture_file(folder / f"images/{name}.png")
        _mask_file(folder / f"masks/{name}.png")
    rows = [f"images/{name}.png,cat;dog,masks/{name}.png" for name in ("a", "b")]
    _text_file(folder / "labels.csv", "\n".join(["image,labels,mask", *rows]))


def _read_labelled(source: Source, vocabulary: str | None, folder: Path) -> list[Problem]:
    words = Vocabulary.load(vocabulary) if vocabulary else Vocabulary.from_names(["cat", "dog"])
    report = ProblemReport()
    for sample in read_samples(source, folder, words, report):
        size = sample.load_image().shape[:2]
        if sample.mask_path is not None:
            sample.load_mask(size, classes=max(words.classes) + 1)
    return report.problems


def _make_table(folder: Path, name: str = "table.csv") -> None:
    _picture_file(folder / "a.png")
    rows = {
        "table.csv": 'image,narrative\na.png,"a [cat] sits"\na.png,a [dog] lies\n',
        "table.jsonl": '{"image": "a.png", "narrative": "a [cat] sits"}\n' * 2,
    }
    _text_file(folder / name, rows[name])


def _read_table(name: str, folder: Path) -> list[Problem]:
    problems = []
    for request in read_table(folder / name, folder):
        if isinstance(request, Refused):
            problems.append(Problem.of(request.name, request.error))
        else:
            read_image(request.image or "nothing")
    return problems


def _fails(read: Callable[[Path], object]) -> Callable[[Path], list[Problem]]:
    """A reader that leaves nothing out: all or an error."""

    def whole(folder: Path) -> list[Problem]:
        read(folder)
        return []

    return whole


# Models.


def _backbone() -> FrozenDiffusion:
    return tiny_png.backbone()


def _copied(source: Path, folder: Path) -> None:
    """Without checksums, by which every change would be noticed at once."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    (folder / "SHA256SUMS").unlink(missing_ok=True)


def _make_diffusion(folder: Path) -> None:
    _copied(_backbone().folder, folder)
    shutil.copy(MODELS / "mini-sd/diffground_layers.json", folder)


def _make_sharded(folder: Path) -> None:
    _copied(_backbone().folder, folder)
    unet, name = folder / "unet", "diffusion_pytorch_model"
    (unet / f"{name}.safetensors").rename(unet / f"{name}-00001-of-00001.safetensors")
    shards = {"weight_map": {"a": f"{name}-00001-of-00001.safetensors"}}
    _json_file(unet / f"{name}.safetensors.index.json", shards)


def _make_sealed(folder: Path) -> None:
    save_file({"x": torch.zeros(3)}, folder / "model.safetensors")
    write_sums(folder)


def _make_resnet(folder: Path) -> None:
    shape = {"layer_type": "basic", "depths": [1], "hidden_sizes": [8], "embedding_size": 8}
    ResNetModel(ResNetConfig(**shape)).save_pretrained(folder)


def _make_deeplab(folder: Path) -> None:
    content = {
        "init": "random",
        "shape": {
            "layer_type": "basic",
            "depths": [1, 1],
            "hidden_sizes": [8, 8],
            "embedding_size": 8,
        },
        "stem_pooling": False,
        "output_stride": 4,
        "rates": [1],
        "scales": [1.0],
        "batch_norm": "trained",
    }
    DeepLabV2.build(DeepLabConfig(**content), ["background", "cat"], seed=0).save_pretrained(folder)
    _unsealed(folder)


def _unsealed(folder: Path) -> None:
    """As a folder without seals comes, so that what is in a file is looked at."""
    for path in folder.rglob("*.sha256"):
        path.unlink()


def _row(model: FrozenDiffusion) -> torch.Tensor:
    return torch.zeros(model.context_dim)


def _make_token(folder: Path) -> None:
    model = _backbone()
    PersonalToken("<new1>", "mug", (_row(model),), {}, model.fingerprint()).save(folder)
    _unsealed(folder)


def _read_token(folder: Path) -> None:
    check_fit(_backbone(), PersonalToken.load(folder))


def _cross() -> dict[str, torch.Tensor]:
    named = _backbone().unet.named_parameters()
    return {n: p.detach().clone() for n, p in named if n.endswith("attn2.to_k.weight")}


def _make_delta(folder: Path) -> None:
    content = {"unet": _cross(), "modifier_token": {"<new1>": _row(_backbone())}}
    torch.save(content, folder / "delta.bin")


def _make_compvis(folder: Path) -> None:
    torch.save({"state_dict": {"embed": _row(_backbone())[None]}}, folder / "delta.ckpt")


def _make_processors(folder: Path) -> None:
    weights = {
        name.replace(".to_k.", ".processor.to_k_custom_diffusion."): each
        for name, each in _cross().items()
    }
    save_file(weights, folder / "pytorch_custom_diffusion_weights.safetensors")
    save_file({"<new1>": _row(_backbone())}, folder / "<new1>.bin")


def _make_png_model(folder: Path) -> None:
    tiny_png.model(insertion="none", decode=False, inner_product="learned").save(folder)
    _json_file(folder / "training.json", {"data": tiny_png.DATA.model_dump(mode="json")})
    _unsealed(folder)


def _read_png_model(folder: Path) -> None:
    PngModel.load(folder, _backbone())
    _trained_at(folder)


@cache
def _panoptic_parts() -> tuple[MLMA, MaskFeature, PhraseDecoder]:
    mlma = {"width": 64, "layers": 2, "heads": 4, "ffn": 256}
    decoder = recipe(DecoderConfig, layers=3, heads=4, ffn=256)
    return (
        MLMA((48, 64, 96), 16, recipe(MlmaConfig, **mlma)),
        MaskFeature(64, 32),
        PhraseDecoder(64, 5, decoder),
    )


def _read_panoptic_weights(name: str, folder: Path) -> None:
    load_panoptic_weights(*_panoptic_parts(), folder / name)


@cache
def _module() -> GroundingModule:
    config = MODULES["mini-gd"].model_copy(update={"widths": (4, 4, 4, 4), "width": 16, "ffn": 16})
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(_backbone().unet.config)
    maps = feature_maps(unet, config.features)
    return GroundingModule(maps, tiny_png.TEXT, 8, config)


def _make_grounding(folder: Path) -> None:
    torch.save({"module.x": torch.zeros(2)}, folder / "module.pth")


# What runs leave behind.


def _checkpoint(folder: Path) -> Checkpoint:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    return Checkpoint(folder, "a key", model, optimizer, Average(model, 0), _accelerator())


@cache
def _accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def _make_checkpoint(folder: Path) -> None:
    _checkpoint(folder).save()
    _unsealed(folder)


def _record(number: int) -> Record:
    return Record(
        id=f"train-{number:05d}",
        prompt="a cat",
        names=("cat",),
        absent=(),
        seed=number,
        kept=True,
        reason=None,
        size=(8, 8),
        timestep=1.0,
        guided=False,
        ranges=((0.0, 1.0),) * 4,
        instances=(Instance(name="cat", score=0.9, segmentation={"size": [8, 8], "counts": "P2"}),),
    )


def _make_synthetic(folder: Path) -> None:
    def finish(item: str, record: Record) -> None:
        levels, _ = in_8_bits(torch.rand(4, 2, 2))
        picture = Path(_FOLDERS.name) / "thumbnail.jpg"
        Image.new("RGB", (4, 4)).save(picture)
        tensors = {
            f"{record.id}.latent": torch.zeros(4, 2, 2, dtype=torch.float16),
            f"{record.id}.picture": levels,
            f"{record.id}.thumbnail": torch.frombuffer(
                bytearray(picture.read_bytes()), dtype=torch.uint8
            ),
        }
        write_part(folder / f"{item}.safetensors", [record], tensors)

    items = [Item(f"part-{n:05d}", (f"part-{n:05d}.safetensors",)) for n in range(2)]
    fill(folder, {}, items, lambda item: _record(int(item[-5:])), finish, what="sets", hidden=True)


def _read_synthetic(folder: Path) -> None:
    found = SyntheticSet.open(folder)
    samples, _ = found.chosen(ChoiceConfig(least_score=0, instances="all", top=1))
    for sample in samples:
        assert sample.masks.shape == (1, 8, 8)
    for record in found.records:
        thumbnail(found, record)


def _make_maps(folder: Path) -> None:
    maps = torch.rand(1, 2, 2)
    sizes = dict.fromkeys(Geometry.__dataclass_fields__, (2, 2))
    _write(maps_path(folder, "a"), ClassMaps(("cat",), maps, maps, maps, Geometry(**sizes)))


def _make_reports(folder: Path) -> None:
    _json_file(folder / "table.json", {"a": 1})
    _json_file(folder / "problems.json", asdict(Problem("a", "b", "c", "d")))
    _picture_file(folder / "picture.png")


def _read_reports(folder: Path) -> None:
    _loaded(JSONDataset(filepath=str(folder / "table.json")))
    records = {"filepath": str(folder / "problems.json"), "of": "diffground.errors.Problem"}
    _loaded(RecordsDataset(**records))
    _loaded(ImageDataset(filepath=str(folder / "picture.png")))


def _loaded(dataset: AbstractDataset) -> None:
    """Kedro's error as a command tells it."""
    try:
        dataset.load()
    except DatasetError as error:
        text = message(error)
        assert text is not None, "a traceback would be shown"
        raise InputError("a catalog entry", "file", text) from error


def _make_made(folder: Path) -> None:
    (folder / "one").mkdir()
    _json_file(folder / "last.json", {"folder": "one"})


def _read_made(folder: Path) -> None:
    _loaded(MadeFolderDataset(filepath=str(folder)))


_VOC_AUG = VocSource(split="train", labels="mask")
_VOC_KIT = VocSource(split="train", labels="annotation", masks="voc")
_VOC_TEST = VocSource(split="test", labels="none")
_DEFAULTS: Final = "there are defaults"
_NO_IMAGE: Final = "no image is listed, and none is read"

READERS: Final[dict[str, Reader]] = {
    "mug19": Reader(
        _make_mug19,
        _read_mug19,
        {
            "items.json": "json",
            "triplets.json": "json",
            "items/mug01/0.png": "image",
            "scenes/scene0/000.png": "image",
            "masks/scene0/000.png": "mask",
        },
    ),
    "panoptic narratives": Reader(
        lambda folder: tiny_png.make_benchmark(folder, ("val2017",)),
        _read_panoptic,
        {
            "annotations/panoptic_val2017.json": "json",
            "annotations/png_coco_val2017.json": "json",
            "images/val2017/000000000001.png": "image",
            "annotations/panoptic_segmentation/val2017/000000000001.png": "panoptic",
        },
        {"annotations/png_coco_val2017.json: empty list": "no narrative, and none is read"},
    ),
    "voc": Reader(
        _make_voc,
        partial(_read_labelled, _VOC_AUG, "voc"),
        {
            f"{VOC}/ImageSets/SegmentationAug/train.txt": "text",
            f"{VOC}/JPEGImages/a.jpg": "image",
            f"{VOC}/SegmentationClassAug/a.png": "mask",
        },
        {f"{VOC}/ImageSets/SegmentationAug/train.txt: empty": _NO_IMAGE},
    ),
    "voc annotations": Reader(
        _make_voc,
        partial(_read_labelled, _VOC_KIT, "voc"),
        {f"{VOC}/Annotations/a.xml": "xml", f"{VOC}/ImageSets/Segmentation/train.txt": "text"},
        {f"{VOC}/ImageSets/Segmentation/train.txt: empty": _NO_IMAGE},
    ),
    "voc test": Reader(_make_voc, partial(_read_labelled, _VOC_TEST, "voc")),
    "coco2014": Reader(
        _make_coco,
        partial(_read_labelled, CocoSource(split="train", labels="annotation"), "coco"),
        {
            "COCO2014/ImageSets/SegmentationClass/train.txt": "text",
            "COCO2014/Annotations/000000000001.png": "mask",
        },
        {"COCO2014/ImageSets/SegmentationClass/train.txt: empty": _NO_IMAGE},
    ),
    "folder": Reader(
        _make_folder,
        partial(_read_labelled, FolderSource(), None),
        {"labels.csv": "text", "masks/a.png": "mask"},
    ),
    "table": Reader(
        _make_table, partial(_read_table, "table.csv"), {"table.csv": "text", "a.png": "image"}
    ),
    "table of lines": Reader(
        partial(_make_table, name="table.jsonl"),
        partial(_read_table, "table.jsonl"),
        {"table.jsonl": "text"},
    ),
    "vocabulary": Reader(
        lambda folder: _json_file(folder / "words.json", ["cat", "dog"]),
        _fails(lambda folder: Vocabulary.load(folder / "words.json")),
        {"words.json": "json"},
    ),
    "image": Reader(
        lambda folder: _picture_file(folder / "a.png"),
        _fails(lambda folder: read_image(folder / "a.png")),
        {"a.png": "image"},
    ),
    "labels": Reader(
        lambda folder: _mask_file(folder / "a.png"),
        _fails(lambda folder: read_labels(folder / "a.png", size=SIZE, classes=3)),
        {"a.png": "mask"},
    ),
    "panoptic png": Reader(
        lambda folder: write_png(folder / "a.png", encode_panoptic(np.full(SIZE, 7))),
        _fails(lambda folder: read_panoptic(folder / "a.png")),
        {"a.png": "panoptic"},
    ),
    "diffusion": Reader(
        _make_diffusion,
        _fails(FrozenDiffusion.from_pretrained),
        {
            "unet/config.json": "json",
            "vae/config.json": "json",
            "text_encoder/config.json": "json",
            "scheduler/scheduler_config.json": "json",
            "tokenizer/tokenizer.json": "json",
            "tokenizer/tokenizer_config.json": "json",
            "diffground_layers.json": "json",
            "unet/diffusion_pytorch_model.safetensors": "safetensors",
            "vae/diffusion_pytorch_model.safetensors": "safetensors",
            "text_encoder/model.safetensors": "safetensors",
        },
        {
            **{f"diffground_layers.json: {fault}": _DEFAULTS for fault in ("removed", "loop")},
            **{
                f"tokenizer/{name}.json: {fault}": "vocab.json and merges.txt are enough"
                for name in ("tokenizer", "tokenizer_config")
                for fault in ("removed", "folder", "loop")
            },
            "tokenizer/tokenizer_config.json: foreign object": _DEFAULTS,
        },
    ),
    "sharded weights": Reader(_make_sharded, _fails(ModelFolder.check)),
    "checksums": Reader(_make_sealed, _fails(lambda folder: check_sums(folder, "fetch it again"))),
    "segmenter": Reader(
        lambda folder: _copied(MODELS / "mini-segmenter", folder),
        _fails(InstanceSegmenter.from_pretrained),
        {
            "config.json": "json",
            "preprocessor_config.json": "json",
            "model.safetensors": "safetensors",
        },
        {"preprocessor_config.json: foreign object": _DEFAULTS},
    ),
    "vision transformer": Reader(
        lambda folder: _copied(MODELS / "mini-vit", folder),
        _fails(VitDescriptors.from_pretrained),
        {
            "config.json": "json",
            "preprocessor_config.json": "json",
            "model.safetensors": "safetensors",
        },
    ),
    "clip": Reader(
        lambda folder: _copied(MODELS / "mini-clip", folder),
        _fails(Contrastive.from_pretrained),
        {
            "config.json": "json",
            "processor_config.json": "json",
            "tokenizer.json": "json",
            "tokenizer_config.json": "json",
            "model.safetensors": "safetensors",
        },
        {"tokenizer_config.json: foreign object": _DEFAULTS},
    ),
    "resnet": Reader(
        _make_resnet,
        _fails(load_resnet),
        {"config.json": "json", "model.safetensors": "safetensors"},
    ),
    "deeplab": Reader(
        _make_deeplab,
        _fails(DeepLabV2.from_pretrained),
        {"config.json": "json", "model.safetensors": "safetensors"},
    ),
    "text2mask settings": Reader(
        lambda folder: shutil.copy(MODELS / "mini-sd/diffground_text2mask.json", folder),
        _fails(TextToMaskConfig.of),
        {"diffground_text2mask.json": "json"},
        {f"diffground_text2mask.json: {fault}": _DEFAULTS for fault in ("removed", "loop")},
    ),
    "personalized settings": Reader(
        lambda folder: shutil.copy(MODELS / "mini-sd/diffground_personalized.json", folder),
        _fails(PersonalLocaliserConfig.of),
        {"diffground_personalized.json": "json"},
        {f"diffground_personalized.json: {fault}": _DEFAULTS for fault in ("removed", "loop")},
    ),
    "token": Reader(
        _make_token,
        _fails(_read_token),
        {"config.json": "json", "token.safetensors": "safetensors"},
    ),
    "delta": Reader(
        _make_delta,
        _fails(lambda folder: load_tokens(folder / "delta.bin", _backbone(), "mug")),
        {"delta.bin": "torch"},
    ),
    "compvis delta": Reader(
        _make_compvis,
        _fails(lambda folder: load_tokens(folder / "delta.ckpt", _backbone(), "mug")),
        {"delta.ckpt": "torch"},
    ),
    "processors": Reader(
        _make_processors,
        _fails(lambda folder: load_tokens(folder, _backbone(), "mug")),
        {
            "pytorch_custom_diffusion_weights.safetensors": "safetensors",
            "<new1>.bin": "torch",
        },
    ),
    "png model": Reader(
        _make_png_model,
        _fails(_read_png_model),
        {"png.json": "json", "training.json": "json", "png.safetensors": "safetensors"},
    ),
    "panoptic weights": Reader(
        lambda folder: _copied(MODELS / "mini-segmenter", folder / "m"),
        _fails(partial(_read_panoptic_weights, "m")),
        {"m/config.json": "json", "m/model.safetensors": "safetensors"},
    ),
    "panoptic weights file": Reader(
        lambda folder: torch.save({"model": {}}, folder / "m.pth"),
        _fails(partial(_read_panoptic_weights, "m.pth")),
        {"m.pth": "torch"},
        sound=False,
    ),
    "grounding weights": Reader(
        _make_grounding,
        _fails(lambda folder: load_grounding(_module(), folder / "module.pth")),
        {"module.pth": "torch"},
        sound=False,
    ),
    "checkpoint": Reader(
        _make_checkpoint,
        _fails(lambda folder: _checkpoint(folder).load()),
        {"last.pt": "torch"},
        {"last.pt: removed": "the training begins"},
    ),
    "synthetic samples": Reader(_make_synthetic, _fails(_read_synthetic)),
    "class maps": Reader(
        _make_maps, _fails(lambda folder: read_maps(folder, "a")), {"a.safetensors": "safetensors"}
    ),
    "reports": Reader(
        _make_reports,
        _fails(_read_reports),
        {"table.json": "any json", "problems.json": "json", "picture.png": "whole image"},
        {"problems.json: utf-16": "the library reads that as well"},
    ),
    "made folder": Reader(_make_made, _fails(_read_made), {"last.json": "json"}),
}
