"""What the tests of the probe share: a model with something to probe."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import CROSS_SITES, cross_sites, paper_layer
from diffground.backbone.probe import ProbeRequest, ProbeResult

SELF = f"{paper_layer(11)}.attn1"
TEXT2MASK = ProbeRequest(cross=CROSS_SITES[4:9], self_=(SELF,))


@dataclass
class Case:
    """A model with something to probe: two images of 64 x 96 pixels under two prompts."""

    model: FrozenDiffusion
    latents: Tensor = field(init=False)
    args: dict = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(1)
        encoding = self.model.encode_prompts(["a dog and a red cup", "two people"])
        self.latents = torch.randn(2, 4, 8, 12)
        self.context = encoding.embeddings
        self.args = {"context_mask": encoding.mask, "pooled": encoding.pooled}

    def probe(self, request: ProbeRequest, **changes: object) -> ProbeResult:
        latents = changes.pop("latents", self.latents)
        context = changes.pop("context", self.context)
        return self.model.probe(latents, 150, context, request, **{**self.args, **changes})

    def plain(self) -> Tensor:
        """The noise prediction of diffusers' forward pass, untouched."""
        added = None
        if self.model.family == "sdxl":
            ids = torch.tensor([[64, 96, 0, 0, 64, 96]] * 2)
            added = {"text_embeds": self.args["pooled"], "time_ids": ids}
        return self.model.unet(
            self.latents,
            torch.tensor(150),
            self.context,
            encoder_attention_mask=self.args["context_mask"],
            added_cond_kwargs=added,
        ).sample


def everything(model: FrozenDiffusion) -> ProbeRequest:
    cross = cross_sites(model.unet)
    self_ = tuple(name.replace("attn2", "attn1") for name in cross)
    return ProbeRequest(cross, self_, ("conv_out",))


def assert_same(result: ProbeResult, other: ProbeResult, tolerance: float = 1e-5) -> None:
    for maps, others in zip(
        (result.cross, result.self_, result.features),
        (other.cross, other.self_, other.features),
        strict=True,
    ):
        for name in maps.keys() & others.keys():
            torch.testing.assert_close(maps[name], others[name], atol=tolerance, rtol=1e-4)
