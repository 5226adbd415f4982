"""Scores of pictures, counts of a set, the grid, and the whole pipeline at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_grounded
import tiny_png
import torch
from memory_runs import run_in_memory
from PIL import Image

from diffground.backbone.contrastive import Contrastive
from diffground.errors import InputError
from diffground.papers.grounded.data_config import ScoringConfig
from diffground.papers.grounded.samples import SyntheticSet
from diffground.papers.grounded.scoring import Antonyms, read_scores, score_set
from diffground.pipelines.grounded import create_pipeline
from diffground.shipped import shipped

CLIP = shipped("data/06_models/mini-clip")
PAIRS = (("Good photo.", "Bad photo."), ("a red ball", "a blue car"))


def test_scores_are_the_softmax_of_antonyms() -> None:
    clip = Contrastive.from_pretrained(CLIP)
    images = [np.full((64, 64, 3), shade, np.uint8) for shade in (0, 200)]
    found = Antonyms(clip, ScoringConfig(antonyms=PAIRS))(images)
    for image, score in zip(images, found, strict=True):
        pixels = clip.processor(images=image, return_tensors="pt")["pixel_values"]
        chances = []
        for pair in PAIRS:
            ids = clip.tokenizer(list(pair), padding="max_length", return_tensors="pt")
            logits = clip.model(**ids, pixel_values=pixels).logits_per_image[0]
            chances.append(float(logits.softmax(0)[0]))
        assert score == pytest.approx(np.mean(chances), abs=1e-5)
    assert found[0] != found[1]


def test_scores_of_a_set(tmp_path: Path) -> None:
    config = tiny_grounded.config()
    synthetic = SyntheticSet.open(
        tmp_path / "sets" / tiny_grounded.made(tmp_path / "sets")["folder"]
    )
    frozen = tiny_grounded.frozen()
    summary = score_set(synthetic, frozen, CLIP, tmp_path / "scores", config)
    scores = read_scores(tmp_path / "scores" / summary["folder"])
    assert {*scores} == {record.id for record in synthetic.records}
    assert all(0 <= score <= 1 for score in scores.values())
    assert score_set(synthetic, frozen, CLIP, tmp_path / "scores", config)["made"] == 0
    with pytest.raises(InputError, match="not all of them"):
        read_scores(tmp_path / "scores")


def test_the_pipeline(tmp_path: Path) -> None:
    sets = {
        name: {"classes": classes, "attempts": 3, "draw": "random"}
        for name, classes in (("train", "seen"), ("test", "mixed"))
    }
    changes = {"sets": sets, "prompts": {"absent": 1}, "choice": {"top": 0.67}}
    inputs = {
        "params:grounding_data": tiny_grounded.config(**changes),
        "stable_diffusion": tiny_png.backbone().folder,
        "grounding_segmenter": tiny_grounded.segmenter(),
        "grounding_clip": CLIP,
        **{f"grounding_{n}_folder": tmp_path / n for n in ("samples", "scores")},
    }
    out = run_in_memory(create_pipeline(["data"]), inputs)
    assert {*out["grounding_samples"]} == {*out["grounding_scores"]} == {"train", "test"}
    assert out["grounding_samples_report"]["train"]["made"] == 2
    report = out["grounding_data_report"]["sets"]["test"]
    assert (report["attempts"], report["kept"], report["taken"]) == (3, 3, 2)
    assert report["refused"] == {"low quality": 1}
    # Latents of 4 x 8 x 8 in 16 and in 8 bits are 768 bytes; the rest are masks and the thumbnail.
    assert 768 < report["bytes_per_sample"] < report["bytes"] < 100_000
    assert sum(asked for _, asked in report["classes"].values()) == 6
    assert report["absent_but_found"] == 2, "the detector of this test sees everything"
    passing = [report["passing"][score] for score in sorted(report["passing"], key=float)]
    assert passing == sorted(passing, reverse=True)
    assert isinstance(out["grounding_grid"], Image.Image)
    json.dumps([report, out["grounding_samples_report"]])
    again = run_in_memory(create_pipeline(["data"]), inputs)
    assert again["grounding_samples_report"]["test"]["made"] == 0
    assert again["grounding_data_report"] == out["grounding_data_report"]
    # Rejected pictures are those of the lower score.
    scores = read_scores(out["grounding_scores"]["test"])
    synthetic = SyntheticSet.open(out["grounding_samples"]["test"])
    _, refused = synthetic.chosen(inputs["params:grounding_data"].choice, scores)
    assert [*refused] == [min(scores, key=lambda item: scores[item])]
    assert torch.is_tensor(synthetic.chosen(tiny_grounded.config().choice)[0][0].latent)
