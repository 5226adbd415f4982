"""The prompts that pictures are generated from, in the words of the three works."""

from __future__ import annotations

from typing import Final, Literal

TemplateName = Literal[
    "improved", "grounded_diffusion", "iosd", "iosd_balanced", "iosd_balanced_official"
]

#: A class takes the place of each {}. The article is "a" before vowels too, as in all of them.
TEMPLATES: Final[dict[str, tuple[str, ...]]] = {
    # 003, section 3.3
    "improved": ("a photograph of a {} and a {}",),
    # The public code of Grounded Diffusion, train_data = random
    "grounded_diffusion": ("a photograph of a {}", "a photograph of a {} and a {}"),
    # The public code of 004
    "iosd": ("A modern photograph of a {}",),
    # 004, section 3.4; the second as its public code has it
    "iosd_balanced": ("A cinematic shot of {} and {}, portrayed naturally and realistically.",),
    "iosd_balanced_official": ("A cinematic shot of a {} and a {}, naturally and realistically.",),
}


def places(template: str) -> int:
    """How many classes a template takes; 0 if it has braces for anything else."""
    count = template.count("{}")
    return 0 if {"{", "}"} & {*template.replace("{}", "")} else count
