"""Settings as ``conf/base`` has them, and changes: for classes whose values stand there alone."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel

from diffground.data.config import PngSplits
from diffground.foundation.config import FineTuning, FoundationRecipe, QualityConfig
from diffground.ground.config import GroundConfig
from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.grounded.export_config import ExportConfig, TeachingConfig
from diffground.papers.grounded.figure_config import GroundingFigureConfig
from diffground.papers.grounded.learning_config import LearningConfig, MeasuringConfig
from diffground.papers.grounded.tables_config import GroundedTablesConfig, IosdTablesConfig
from diffground.papers.personalized.checks_config import TokenChecksConfig
from diffground.papers.personalized.config import PersonalizedConfig
from diffground.papers.personalized.tables_config import PersonalizedTablesConfig
from diffground.papers.png.config import (
    DecoderConfig,
    EipaConfig,
    FeatureExtractionConfig,
    LossConfig,
    MlmaConfig,
    PngConfig,
    PngDataConfig,
    PngEvalConfig,
    PngModelConfig,
)
from diffground.papers.png.tables_config import PngTablesConfig
from diffground.papers.text2mask.config import Text2MaskConfig
from diffground.papers.text2mask.tables_config import Text2MaskTablesConfig
from diffground.world.config import WorldConfig

CONF = Path(__file__).resolve().parents[1] / "conf/base"
#: Where the values of a class stand.
SECTIONS: Final[dict[type[BaseModel], str]] = {
    PngConfig: "png",
    PngSplits: "png.splits",
    PngDataConfig: "png.data",
    PngModelConfig: "png.model",
    EipaConfig: "png.model.eipa",
    MlmaConfig: "png.model.mlma",
    DecoderConfig: "png.model.decoder",
    LossConfig: "png.loss",
    PngEvalConfig: "png.eval",
    PngTablesConfig: "png_tables",
    FeatureExtractionConfig: "feature_extraction",
    GroundConfig: "ground",
    GroundingDataConfig: "grounding_data",
    GroundedTablesConfig: "grounded_tables",
    IosdTablesConfig: "iosd_tables",
    ExportConfig: "grounding_export",
    TeachingConfig: "grounding_teaching",
    LearningConfig: "grounding_train",
    MeasuringConfig: "grounding_eval",
    GroundingFigureConfig: "grounding_figure",
    PersonalizedConfig: "personalized",
    PersonalizedTablesConfig: "personalized_tables",
    TokenChecksConfig: "personalized_checks",
    Text2MaskConfig: "text2mask",
    Text2MaskTablesConfig: "text2mask_tables",
    WorldConfig: "world",
    FoundationRecipe: "foundation",
    FineTuning: "foundation_fine_tuning",
    QualityConfig: "foundation_quality",
}
MERGED: Final = {path.rpartition(".")[2] for path in SECTIONS.values() if "." in path}

Kind = TypeVar("Kind", bound=BaseModel)


def recipe(kind: type[Kind], **changes: Any) -> Kind:
    """A paper's settings but for ``changes``, as ``recipe(PngModelConfig, eipa={"zoom": 16})``.

    A part whose class has defaults of its own, ``train`` say, is what the change says, without
    anything of the paper's.
    """
    content: Any = _base()
    for name in SECTIONS[kind].split("."):
        content = content[name]
    return kind.model_validate(_laid_over(content, changes))


@cache
def _base() -> dict[str, Any]:
    files = sorted(CONF.glob("parameters_*.yml"))
    return {k: v for file in files for k, v in yaml.safe_load(file.read_text("utf-8")).items()}


def _laid_over(below: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    content = deepcopy(below)
    for name, value in changes.items():
        merged = name in MERGED and isinstance(value, dict)
        content[name] = _laid_over(content[name], value) if merged else value
    return content
