"""CBP and DAAM, against their definitions."""

import torch

from diffground.attention.baselines import (
    cbp,
    daam,
    daam_layers,
    daam_timesteps,
    daam_trajectory,
    segments_of,
)
from diffground.backbone.layers import CROSS_SITES
from diffground.backbone.probe import ProbeResult


def blocks(*sizes: int) -> torch.Tensor:
    """A self map whose pixels attend to their own block only."""
    return torch.block_diag(*(torch.full((size, size), 1 / size) for size in sizes))


def test_pixels_that_attend_alike_are_a_segment() -> None:
    labels = segments_of(blocks(3, 5, 4), count=3, seed=0)
    assert [len(set(part.tolist())) for part in labels.split([3, 5, 4])] == [1, 1, 1]
    assert len(labels.unique()) == 3
    assert torch.equal(labels, segments_of(blocks(3, 5, 4), count=3, seed=0))


def test_segments_are_as_many_as_rows_differ() -> None:
    assert len(segments_of(blocks(3, 5, 4), count=9, seed=1).unique()) == 3
    assert segments_of(torch.full((6, 6), 1 / 6), count=4, seed=0).tolist() == [0] * 6


def test_segments_of_noisy_rows() -> None:
    torch.manual_seed(0)
    noisy = (20 * blocks(20, 12, 32) + torch.randn(64, 64)).softmax(dim=-1)
    shuffled = torch.randperm(64)
    for seed in range(4):
        labels = segments_of(noisy[shuffled][:, shuffled], 3, seed)
        assert labels.max() < 3


def test_cbp_is_the_mean_of_the_segment() -> None:
    cross = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = cbp(blocks(3, 5, 4), cross, 3, seed=0).flatten(1)
    for part, of_cross in zip(
        found.split([3, 5, 4], dim=1), cross.flatten(1).split([3, 5, 4], dim=1), strict=True
    ):
        torch.testing.assert_close(part, of_cross.mean(dim=1, keepdim=True).expand_as(part))
    one = cbp(torch.full((12, 12), 1 / 12), cross, 3, seed=0)
    torch.testing.assert_close(one, cross.mean(dim=(1, 2), keepdim=True).expand_as(cross))


def test_daam() -> None:
    torch.manual_seed(0)
    fine, coarse = torch.rand(1, 5, 4, 6), torch.rand(1, 5, 2, 3)
    result = ProbeResult(cross={"fine": fine, "coarse": coarse})
    found = daam(result, ["fine", "coarse"], [[1], [2, 4]], (8, 12))
    large = [
        torch.nn.functional.interpolate(maps, (8, 12), mode="bicubic").clamp_min(0)[0]
        for maps in (fine, coarse)
    ]
    mean = (large[0] + large[1]) / 2
    torch.testing.assert_close(found, torch.stack([mean[1], (mean[2] + mean[4]) / 2]))
    assert len(daam_layers(CROSS_SITES)) == 15


def test_daam_over_time_steps_cuts_every_head() -> None:
    """Against the loops of the definition: heads summed over steps, enlarged, cut, averaged."""
    random = torch.Generator().manual_seed(0)
    steps = [
        {"fine": torch.rand(3, 5, 4, 6, generator=random) ** 30}
        | {"coarse": torch.rand(2, 5, 2, 3, generator=random) ** 30}
        for _ in range(4)
    ]
    every = []
    for layer in ("fine", "coarse"):
        summed = sum(step[layer] for step in steps)
        every += [
            torch.nn.functional.interpolate(head[None], (8, 12), mode="bicubic")[0].clamp_min(0)
            for head in summed
        ]
    mean = sum(every) / len(every)
    sums = {layer: sum(step[layer] for step in steps) for layer in ("fine", "coarse")}
    found = daam_trajectory(sums, [[4, 2], [1]], (8, 12))
    torch.testing.assert_close(found, torch.stack([(mean[2] + mean[4]) / 2, mean[1]]))
    # After the mean over heads there is less to cut.
    later = sum(
        torch.nn.functional.interpolate(maps.mean(0)[None], (8, 12), mode="bicubic")[0]
        for maps in sums.values()
    )
    assert (later < 0).any() and not torch.allclose(found[1], later.clamp_min(0)[1] / 2, atol=1e-3)


def test_time_steps_of_a_generation() -> None:
    steps = daam_timesteps(1000)
    assert steps[:2] == (957, 924) and steps[-1] == 0 and len(steps) == 30
