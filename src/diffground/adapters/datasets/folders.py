"""Folders as Kedro datasets: what travels between nodes is the path, checked on both ends.

Models and image datasets are folders that libraries read by themselves, so loading one means
checking that it is there and whole, and handing over its path. A wrong folder fails here, at once
and by name, instead of deep inside a library that goes looking on the network.

In a catalog::

    stable_diffusion:
      type: diffground.adapters.datasets.DiffusionFolderDataset
      filepath: data/06_models/mini-sd
      remedy: "check the repository out again: the mini models are part of it"
    mini_coco_folder:            # where the maker writes; it need not exist
      type: diffground.adapters.datasets.TargetFolderDataset
      filepath: data/01_raw/mini/coco
    mini_coco:                   # what readers get; it must be whole
      type: diffground.adapters.datasets.DataFolderDataset
      filepath: data/01_raw/mini/coco
    png_model:                   # a folder below, by a name that its settings give it
      type: diffground.adapters.datasets.TrainedModelDataset
      filepath: data/06_models/png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from diffground.adapters.datasets.previews import Previewed
from diffground.errors import InputError
from diffground.io.files import read_json, write_json
from diffground.io.sums import check_sums
from diffground.store.manifest import MANIFEST, Manifest, fingerprint, is_valid, read_manifest


class FolderDataset(Previewed, AbstractDataset[Path, Path]):
    """A local folder that must hold certain files.

    Args:
        filepath: the folder. Kedro resolves relative ones against the project.
        markers: paths or glob patterns inside the folder; each must match something.
        remedy: what to do if the folder is missing or incomplete, said in the error.
        metadata: for the catalog's documentation and Kedro-Viz; not used here.

    ``load()`` returns the absolute path. ``save(path)`` writes nothing: it takes the path that a
    node filled and checks that this is the catalog's folder, and whole.

    Raises:
        DatasetError: with an :class:`InputError` that names the folder, what is missing and the
            remedy, on load and on save.
    """

    def __init__(
        self,
        *,
        filepath: str,
        markers: Sequence[str] = (),
        remedy: str = "",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if isinstance(markers, str):
            raise InputError(filepath, "markers", f"must be a list, not the text {markers!r}")
        self.root = Path(filepath).absolute()
        self.markers = tuple(markers)
        self.remedy = remedy
        self.metadata = metadata

    @property
    def folder(self) -> Path:
        """The absolute path."""
        return self.root

    def load(self) -> Path:
        self.check()
        return self.folder

    def save(self, data: Path) -> None:
        if Path(data).resolve() != self.folder.resolve():
            raise InputError(
                self.folder, "filepath", f"the node wrote to another folder: {Path(data)}"
            )
        self.check()

    def check(self) -> None:
        """Raises InputError unless the folder exists and every marker matches something in it."""
        if not self.folder.is_dir():
            raise self._error("folder", "there is no such folder")
        for marker in self.markers:
            if next(self.folder.glob(marker), None) is None:
                raise self._error(marker, "the folder lacks it")

    def fingerprint(self) -> str:
        """What the run log keeps: a short hash that changes with what is in the folder."""
        return fingerprint(self.folder)

    def _error(self, field: str, reason: str) -> InputError:
        return InputError(self.folder, field, f"{reason}; {self.remedy}" if self.remedy else reason)

    def _exists(self) -> bool:
        try:
            self.check()
        except InputError:
            return False
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self.folder.as_posix(), "markers": list(self.markers)}


class ModelFolderDataset(FolderDataset):
    """A model in the diffusers or transformers layout; weights and configs are fingerprinted."""

    def check(self) -> None:
        """As for every folder, and weights that came with checksums must still have them."""
        super().check()
        check_sums(self.folder, self.remedy or "fetch the folder again")


class TrainedModelDataset(ModelFolderDataset):
    """Of the folders below ``filepath``, one for each setting, the one that a run trained last.

    ``save(folder)`` takes a folder directly below ``filepath`` that a node filled, or found filled,
    and notes its name there in ``last.json``. ``load()`` returns what this process saved, also if
    another run has saved since; what was saved last if it saved nothing.
    """

    LAST = "last.json"
    _saved: Path | None = None

    @property
    def folder(self) -> Path:
        """The one below ``filepath``; ``filepath`` itself where there is none yet."""
        name = (read_json(self.root / self.LAST) or {}).get("folder")
        return self._saved or (self.root / Path(str(name)).name if name else self.root)

    def save(self, data: Path) -> None:
        if Path(data).resolve().parent != self.root.resolve():
            raise InputError(self.root, "filepath", f"the node wrote elsewhere: {Path(data)}")
        self._saved = self.root / Path(data).name
        self.check()
        write_json(self.root / self.LAST, {"folder": self._saved.name})

    def check(self) -> None:
        """As for every folder, and there must be one."""
        if self.folder == self.root:
            raise self._error(self.LAST, "nothing was trained here yet")
        super().check()

    def fingerprint(self) -> str:
        """Of the weights: what lies beside them grows with every evaluation."""
        return fingerprint(self.folder, ("*.safetensors",))


class DiffusionFolderDataset(ModelFolderDataset):
    """A Stable Diffusion 1.x, 2.x or SDXL folder, checked as the backbone will check it.

    Its fingerprint is the backbone's, over the files that are really loaded.
    """

    def check(self) -> None:
        """As for every folder, and all parts with configurations and weights must be there."""
        from diffground.backbone.folder import ModelFolder

        super().check()
        ModelFolder.check(self.folder)

    def fingerprint(self) -> str:
        """The same as :meth:`diffground.backbone.frozen.FrozenDiffusion.fingerprint`."""
        from diffground.backbone.folder import ModelFolder

        return ModelFolder.check(self.folder).fingerprint()


class DataFolderDataset(FolderDataset):
    """A dataset in its public layout.

    Args:
        manifest: True for folders made by :func:`diffground.store.manifest.make_folder`, which must
            then be whole; False for downloaded ones, where only the markers are checked.
    """

    def __init__(
        self,
        *,
        filepath: str,
        markers: Sequence[str] = (),
        manifest: bool = True,
        remedy: str = "",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, markers=markers, remedy=remedy, metadata=metadata)
        self.manifest_needed = manifest

    def check(self) -> None:
        """As for every folder, and the manifest must fit the files that are there."""
        super().check()
        if self.manifest_needed and not is_valid(self.folder):
            raise self._error(MANIFEST, "the folder is not whole: its making was interrupted, "
                              "or files were changed, added or removed since")  # fmt: skip

    def manifest(self) -> Manifest | None:
        """What made the folder and what is in it; None for a downloaded one."""
        return read_manifest(self.folder)

    def fingerprint(self) -> str:
        """The manifest's digest; for a downloaded folder, a hash of its JSON files."""
        manifest = self.manifest()
        return fingerprint(self.folder, ("*.json",)) if manifest is None else manifest.digest


class TargetFolderDataset(Previewed, AbstractDataset[Path, Path]):
    """The path of a folder that a node is about to make: nothing is checked, nothing is saved."""

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self.folder = Path(filepath).absolute()
        self.metadata = metadata

    def load(self) -> Path:
        return self.folder

    def save(self, data: Path) -> None:
        raise InputError(self.folder, "type", "a target folder is an input; save to its dataset")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self.folder.as_posix()}
