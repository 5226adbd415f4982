"""The libraries' datasets of single files, and of memory, with a page for Kedro-Viz.

Each is Kedro's of the same name; only :meth:`~diffground.datasets.previews.Previewed.preview` is
ours.
"""

from __future__ import annotations

from kedro.io import MemoryDataset as KedroMemoryDataset
from kedro_datasets import json, matplotlib, pillow, text

from diffground.datasets.previews import Previewed


class JSONDataset(Previewed, json.JSONDataset):
    """JSON."""


class TextDataset(Previewed, text.TextDataset):
    """Text, say Markdown."""


class ImageDataset(Previewed, pillow.ImageDataset):
    """A picture, as PIL has it."""


class MatplotlibDataset(Previewed, matplotlib.MatplotlibDataset):
    """A figure, which is only written."""


class MemoryDataset(Previewed, KedroMemoryDataset):
    """What is handed on within a run."""
