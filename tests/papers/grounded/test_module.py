"""The grounding modules: their sizes, their masks against the plain order, batches, learning."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from plain_grounding import PlainModule
from random_model import TINY, TINY_XL, random_model
from tiny_grounded import module as tiny
from torch.nn import functional

from diffground.backbone.architectures import ARCHITECTURES
from diffground.backbone.probe import ProbeRequest
from diffground.errors import InputError
from diffground.papers.grounded.feature_maps import feature_maps
from diffground.papers.grounded.losses import grounding_loss
from diffground.papers.grounded.module import GroundingModule
from diffground.papers.grounded.module_config import GroundingModuleConfig, LossConfig
from diffground.papers.grounded.module_sizes import MODULES
from diffground.papers.grounded.public_weights import load_public

VARIANTS = ("gd", "improved", "iosd")
STEPS = 120
TEXT = 16  # channels of the tiny text embeddings


@cache
def maps_of(config: GroundingModuleConfig):
    architecture = TINY_XL if config.pyramid else TINY
    with torch.device("meta"):
        return feature_maps(architecture.build("unet"), config.features)


def module_of(config: GroundingModuleConfig) -> GroundingModule:
    torch.manual_seed(0)
    return GroundingModule(maps_of(config), TEXT, 8, config)


def inputs(config: GroundingModuleConfig, batch: int, queries: int, size=(16, 16)):
    random = torch.Generator().manual_seed(1)
    folded = 2 if config.guided else 1
    features = {
        each.name: torch.randn(
            batch,
            folded * each.channels,
            size[0] >> each.level,
            size[1] >> each.level,
            generator=random,
        )
        for each in maps_of(config)
    }
    text = torch.randn(batch, queries, TEXT, generator=random)
    return features, text, torch.ones(batch, queries, dtype=torch.bool)


def pair(config: GroundingModuleConfig, tmp_path: Path) -> tuple[GroundingModule, PlainModule]:
    """A module, and one in the plain order with the same weights and running statistics."""
    torch.manual_seed(2)
    plain = PlainModule(maps_of(config), TEXT, 8, config)
    for name, buffer in plain.named_buffers():
        if "stored_mean" in name:  # as after some training
            buffer.uniform_(-0.2, 0.2)
        elif "stored_var" in name:
            buffer.uniform_(0.5, 1.5)
    torch.save(plain.state_dict(), tmp_path / "checkpoint.pth")
    module = module_of(config)
    load_public(module, tmp_path / "checkpoint.pth")
    return module, plain


@pytest.mark.parametrize(
    ("name", "architecture", "text_width", "maps", "parameters"),
    [
        ("gd", "sd15", 768, 25, 18_796_560),
        ("improved", "sd15", 768, 9, 17_608_720),
        ("iosd", "sdxl-turbo", 2048, 19, 50_032_256),
    ],
)
def test_the_public_codes_sizes(name, architecture, text_width, maps, parameters):
    config = MODULES[name]
    with torch.device("meta"):
        read = feature_maps(ARCHITECTURES[architecture].build("unet"), config.features)
    module = GroundingModule(read, text_width, 8, config)
    assert len(read) == maps
    assert sum(p.numel() for p in module.parameters()) == parameters


@pytest.mark.parametrize("name", VARIANTS)
def test_the_mini_modules_fit_the_mini_models(name):
    config = MODULES[f"mini-{name}"]
    module = GroundingModule(maps_of(config), 64, 8, config)
    assert sum(p.numel() for p in module.parameters()) < 1_000_000


@pytest.mark.parametrize("features", ["layers", "blocks"])
def test_maps_are_those_that_the_unet_gives(features):
    model = random_model("tiny")
    maps = feature_maps(model.unet, features)
    context = model.encode_prompts(["a cat"]).embeddings
    request = ProbeRequest(features=tuple(each.name for each in maps))
    found = model.probe(torch.randn(1, 4, 16, 24), 1, context, request).features
    assert list(found) == [each.name for each in maps]  # in the order of execution
    for each in maps:
        size = (16 >> each.level, 24 >> each.level)
        assert found[each.name].shape == (1, each.channels, *size), each


def test_channels_by_level_are_the_public_codes():
    def of(name: str, architecture: str) -> list[int]:
        config = MODULES[name]
        with torch.device("meta"):
            maps = feature_maps(ARCHITECTURES[architecture].build("unet"), config.features)
            encoder = GroundingModule(maps, 8, 8, config).encoder
        return [project.in_channels for project in encoder.project]

    assert of("gd", "sd15") == [15360, 14080, 8320, 5120]
    assert of("improved", "sd15") == [7680, 3840, 3200, 1920]
    assert of("iosd", "sdxl-turbo") == [7040, 4160, 2560]


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("name", VARIANTS)
def test_masks_are_those_of_the_plain_order(name, queries, tmp_path):
    config = tiny(name)
    module, plain = pair(config, tmp_path)
    features, text, valid = inputs(config, 1, queries)
    with torch.no_grad():
        found = module.eval()(features, text, valid)
        expected = plain.eval()(features, text)
    assert found.shape == (1, queries, 128, 128)
    assert float(expected.std()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradients_are_those_of_the_plain_order(name, tmp_path):
    """In training: the norms' statistics are the batch's. Spectral norms stay as loaded."""
    config = tiny(name, dropout=0.0)
    module, plain = pair(config, tmp_path)
    features, text, valid = inputs(config, 1, 1)
    for each in (module, plain):
        each.train()
        for part in each.modules():
            if type(part).__name__ in ("_SpectralNorm", "NormedConv"):
                part.eval()
    found = module(features, text, valid)
    expected = plain(features, text)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(3)) / 1000
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    theirs = dict(plain.named_parameters())
    pairs = [
        (module.fusion.stages[0].to_tokens, "to_k.0" if config.pyramid else "to_k"),
        (module.fusion.leave[4], ("output_mlp" if config.pyramid else "mlp") + ".layers.2"),
        (
            module.encoder.project[0],
            "low_feature_conv" if config.pyramid else "low_feature_conv.0",
        ),
    ]
    for ours, known in pairs:
        expected = theirs[f"{known}.weight"].grad
        assert float(expected.abs().max()) > 0
        torch.testing.assert_close(ours.weight.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_batch_is_its_images_one_by_one(name):
    config = tiny(name)
    module = module_of(config).eval()
    features, text, valid = inputs(config, 3, 3, size=(16, 24))
    valid[1, 2] = valid[2, 1] = valid[2, 2] = False
    with torch.no_grad():
        together = module(features, text, valid)
        for item in range(3):
            alone = module(
                {key: each[item : item + 1] for key, each in features.items()},
                text[item : item + 1, valid[item]],
                torch.ones(1, int(valid[item].sum()), dtype=torch.bool),
            )
            torch.testing.assert_close(together[item, valid[item]], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_queries_see_each_other_only_if_they_are_joint(name):
    config = tiny(name)
    module = module_of(config).eval()
    features, text, valid = inputs(config, 1, 2)
    with torch.no_grad():
        before = module(features, text, valid)[0, 0]
        text[0, 1] += 1.0
        after = module(features, text, valid)[0, 0]
    assert torch.allclose(before, after, atol=1e-6) != config.joint


def test_a_batch_without_real_queries_has_finite_masks():
    config = tiny("gd")
    module = module_of(config).eval()
    features, text, valid = inputs(config, 2, 2)
    valid[1] = False
    with torch.no_grad():
        assert bool(module(features, text, valid).isfinite().all())


def test_dropout_is_off_in_evaluation():
    config = tiny("iosd")
    module = module_of(config)
    features, text, valid = inputs(config, 1, 1)
    with torch.no_grad():
        training = [module.train()(features, text, valid) for _ in range(2)]
        evaluation = [module.eval()(features, text, valid) for _ in range(2)]
    assert not torch.allclose(*training)
    assert torch.equal(*evaluation)


def learned(name: str, negatives: bool) -> tuple[float, float]:
    """IoU of classes that are there, and the share of the image that absent ones are given.

    Of two classes an image has one, in channels of its own. Lessons have ``negatives`` if they ask
    for the other too.
    """
    config = tiny(name, dropout=0.0, layers=1)
    torch.manual_seed(0)
    module = GroundingModule(maps_of(config), TEXT, 2, config).train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    random = torch.Generator().manual_seed(0)
    loss = LossConfig(loss="log_cosh", compat="paper")

    def lesson(batch: int):
        features, _, valid = inputs(config, batch, 2, size=(8, 8))
        masks = torch.zeros(batch, 2, 16, 16)
        present = torch.randint(0, 2, (batch,), generator=random).tolist()
        for item, kind in enumerate(present):
            left, top = torch.randint(0, 9, (2,), generator=random).tolist()
            masks[item, kind, top : top + 8, left : left + 8] = 1.0
        for each in module.maps:
            features[each.name] = tensor = 0.1 * features[each.name]
            there = functional.adaptive_avg_pool2d(masks, tensor.shape[-2:])
            for kind in range(2):
                tensor[:, kind::2] += 2 * there[:, kind : kind + 1]
        text = 4 * torch.eye(2, TEXT).expand(batch, -1, -1)
        return features, text, valid, masks

    for _ in range(STEPS):
        *given, masks = lesson(6)
        optimizer.zero_grad()
        asked = given[2] & (negatives | masks.bool().flatten(2).any(dim=-1))
        grounding_loss(module(*given), masks, asked, loss).backward()
        optimizer.step()
    module.eval()
    *given, masks = lesson(12)
    with torch.no_grad():
        found = module(*given) > 0
    absent = ~masks.bool().flatten(2).any(dim=-1)
    overlap = (found & masks.bool())[~absent].sum() / (found | masks.bool())[~absent].sum()
    return float(overlap), float(found[absent].float().mean())


@pytest.mark.parametrize("name", VARIANTS)
def test_an_absent_class_has_an_empty_mask(name):
    overlap, wrong = learned(name, negatives=True)
    assert overlap > 0.7
    assert wrong < 0.02


def test_without_negatives_an_absent_class_has_a_mask():
    """The limitation that 003 names in section 5: it is the lessons that end it."""
    overlap, wrong = learned("improved", negatives=False)
    assert overlap > 0.7
    assert wrong > 0.1


def test_features_of_another_model_are_refused():
    config = tiny("improved")
    module = module_of(config)
    features, text, valid = inputs(config, 1, 1)
    name = module.maps[-1].name
    cases = {
        "is missing": {k: v for k, v in features.items() if k != name},
        "channels, but the module reads": features | {name: features[name][:, 1:]},
        "cells, but": features | {name: features[name][..., 1:]},
    }
    for reason, wrong in cases.items():
        with pytest.raises(InputError, match=reason):
            module(wrong, text, valid)
    with pytest.raises(InputError, match="4 widths, but the UNet's maps have 3 levels"):
        GroundingModule(maps_of(tiny("iosd")), TEXT, 8, config)


def test_public_weights_of_another_module_are_refused(tmp_path):
    config = tiny("improved")
    module, plain = pair(config, tmp_path)
    before = {name: each.clone() for name, each in module.state_dict().items()}
    state = plain.state_dict()
    wrong = {
        "is missing": {k: v for k, v in state.items() if k != "to_q.weight"},
        "tensors that this module lacks": state | {"more.weight": torch.zeros(1)},
        "but the module's has": state | {"to_q.weight": torch.zeros(3, 3)},
    }
    for number, (reason, content) in enumerate(wrong.items()):
        torch.save(content, tmp_path / f"{number}.pth")
        with pytest.raises(InputError, match=reason):
            load_public(module, tmp_path / f"{number}.pth")
    torch.save({"module." + name: each for name, each in state.items()}, tmp_path / "wrapped.pth")
    load_public(module, tmp_path / "wrapped.pth")
    torch.save(plain, tmp_path / "pickled.pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        load_public(module, tmp_path / "pickled.pth")
    with pytest.raises(InputError, match="does not exist"):
        load_public(module, tmp_path / "nothing.pth")
    for name, each in module.state_dict().items():
        assert torch.equal(each, before[name]), name


@pytest.mark.parametrize("name", VARIANTS)
def test_standardized_maps_count_by_what_they_show_not_by_their_size(name: str) -> None:
    """One map a thousand times larger than its neighbours does not drown them."""
    outputs = {}
    for standardized in (True, False):
        network = module_of(tiny(name, standardized=standardized, dropout=0.0))
        features, text, valid = inputs(network.config, 4, 2)
        one = max(network.maps, key=lambda each: each.level).name
        large = {**features, one: features[one] * 1000}
        with torch.no_grad():
            outputs[standardized] = network(features, text, valid), network(large, text, valid)
    plain, larger = outputs[True]
    assert float((plain - larger).abs().max()) < 0.01 * float(plain.std())
    plain, larger = outputs[False]
    assert float((plain - larger).abs().max()) > 0.2 * float(plain.std())


def test_a_config_that_does_not_fit_is_refused():
    for changes in ({"heads": 3}, {"final_width": 8}, {"pyramid": True}):
        with pytest.raises(ValueError, match="heads|final_width"):
            tiny("gd", **changes)
