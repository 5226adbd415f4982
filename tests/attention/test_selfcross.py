"""Text2Mask's equations 3 and 4, against the matrices written out."""

import pytest
import torch

from diffground.attention.selfcross import (
    aggregate_cross,
    effective_positions,
    minmax,
    propagate,
)
from diffground.backbone.probe import ProbeResult
from diffground.errors import InputError


@pytest.fixture
def self_map() -> torch.Tensor:
    torch.manual_seed(0)
    return (3 * torch.randn(12, 12)).softmax(dim=-1)


@pytest.mark.parametrize("iterations", [0, 1, 2, 5])
def test_propagation_is_the_power_of_self(iterations: int, self_map: torch.Tensor) -> None:
    maps = torch.rand(4, 3, 4)
    power = torch.linalg.matrix_power(self_map, iterations)
    expected = torch.stack([(power @ one.flatten()).reshape(3, 4) for one in maps])
    torch.testing.assert_close(propagate(self_map, maps, iterations), expected)


def test_propagation_of_a_batch(self_map: torch.Tensor) -> None:
    maps, selves = torch.rand(2, 4, 3, 4), torch.stack([self_map, self_map.flip(1)])
    both = propagate(selves, maps, 2)
    for one, affinity, single in zip(both, selves, maps, strict=True):
        torch.testing.assert_close(one, propagate(affinity, single, 2))


def test_sharpening(self_map: torch.Tensor) -> None:
    maps = torch.rand(4, 3, 4)
    sharp = self_map**2 / (self_map**2).sum(dim=1, keepdim=True)
    torch.testing.assert_close(propagate(self_map, maps, 2, 2.0), propagate(sharp, maps, 2))
    assert effective_positions(sharp) < effective_positions(self_map)


def test_minmax() -> None:
    maps = torch.stack([torch.arange(6.0).reshape(2, 3) + 5, torch.full((2, 3), 7.0)])
    stretched = minmax(maps)
    torch.testing.assert_close(stretched[0], torch.arange(6.0).reshape(2, 3) / 5)
    assert torch.equal(stretched[1], torch.zeros(2, 3))


def test_effective_positions() -> None:
    assert effective_positions(torch.eye(5)) == pytest.approx(1)
    assert effective_positions(torch.full((2, 5, 5), 0.2)) == pytest.approx(5)


def test_aggregation() -> None:
    """Two layers, the coarser one doubled by bilinear interpolation; two tokens for a phrase."""
    torch.manual_seed(0)
    fine, coarse = torch.rand(1, 5, 4, 6), torch.rand(1, 5, 2, 3)
    result = ProbeResult(cross={"fine": fine, "coarse": coarse})
    maps = aggregate_cross(result, ["fine", "coarse"], [[1], [2, 4]], (4, 6))
    resized = torch.nn.functional.interpolate(coarse, (4, 6), mode="bilinear")[0]
    expected = torch.stack([fine[0, 1] + resized[1], (fine[0] + resized)[[2, 4]].mean(dim=0)]) / 2
    torch.testing.assert_close(maps, expected)
    with pytest.raises(InputError, match="'other' was not probed"):
        aggregate_cross(result, ["other"], [[1]], (4, 6))
    with pytest.raises(InputError, match="no layer"):
        aggregate_cross(result, [], [[1]], (4, 6))
