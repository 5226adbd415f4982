"""diffground: frozen text-to-image diffusion models as open-vocabulary segmenters.

from diffground import (
    FrozenDiffusion, GroundedGenerator, NarrativeGrounder, PersonalLocaliser, TextToMask,
)

What is named here is imported when it is first asked for: ``import diffground`` itself costs
nothing, and loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffground.backbone.frozen import FrozenDiffusion
    from diffground.masks.phrase_masks import PhraseMasks
    from diffground.papers.grounded.generator import GroundedGenerator
    from diffground.papers.personalized.personal_localiser import PersonalLocaliser
    from diffground.papers.png.grounder import NarrativeGrounder
    from diffground.papers.text2mask.text_to_mask import TextToMask

__all__ = [
    "FrozenDiffusion",
    "GroundedGenerator",
    "NarrativeGrounder",
    "PersonalLocaliser",
    "PhraseMasks",
    "TextToMask",
]
__version__ = "0.1.0"

_HOMES = {
    "FrozenDiffusion": "diffground.backbone.frozen",
    "GroundedGenerator": "diffground.papers.grounded.generator",
    "NarrativeGrounder": "diffground.papers.png.grounder",
    "PersonalLocaliser": "diffground.papers.personalized.personal_localiser",
    "PhraseMasks": "diffground.masks.phrase_masks",
    "TextToMask": "diffground.papers.text2mask.text_to_mask",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
