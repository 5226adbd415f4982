"""Kedro datasets for folders: models and image datasets that are read file by file."""

from diffground.adapters.datasets.folders import (
    DataFolderDataset,
    DiffusionFolderDataset,
    FolderDataset,
    MadeFolderDataset,
    ModelFolderDataset,
    TargetFolderDataset,
)

__all__ = [
    "DataFolderDataset",
    "DiffusionFolderDataset",
    "FolderDataset",
    "ModelFolderDataset",
    "TargetFolderDataset",
    "MadeFolderDataset",
]
