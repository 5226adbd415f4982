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
      type: diffground.adapters.datasets.MadeFolderDataset
      filepath: data/06_models/png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from diffground.adapters.datasets.previews import Previewed
from diffground.errors import InputError
from diffground.io.files import check_sums, read_json, write_json
from diffground.store.manifest import MANIFEST, Manifest, fingerprint, is_valid, read_manifest
from diffground.store.mirror import POINTER

_WEIGHTS = ("*.safetensors",)


class FolderDataset(Previewed, AbstractDataset[Any, Any]):
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

    def load(self) -> Any:
        self.check()
        return self.folder

    def save(self, data: Any) -> None:
        if Path(data).resolve() != self.folder.resolve():
            raise InputError(
                self.folder, "filepath", f"the node wrote to another folder: {Path(data)}"
            )
        self.check()

    def check(self) -> None:
        """Raises InputError unless the folder is there and as it should be."""
        self.check_folder(self.folder)

    def check_folder(self, folder: Path) -> None:
        """Raises InputError unless the folder exists and every marker matches something in it."""
        if not folder.is_dir():
            raise self._error("folder", "there is no such folder", folder)
        for marker in self.markers:
            if next(folder.glob(marker), None) is None:
                raise self._error(marker, "the folder lacks it", folder)

    def fingerprint(self) -> str:
        """What the run log keeps: a short hash that changes with what is in the folder."""
        return fingerprint(self.folder)

    def _error(self, field: str, reason: str, folder: Path | None = None) -> InputError:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return InputError(folder or self.folder, field, f"{reason}{remedy}")

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

    def check_folder(self, folder: Path) -> None:
        """As for every folder, and weights that came with checksums must still have them."""
        super().check_folder(folder)
        check_sums(folder, self.remedy or "fetch the folder again")


class MadeFolderDataset(ModelFolderDataset):
    """Of the folders below ``filepath``, one for each setting, what a run made last.

    ``save(made)`` takes a folder directly below ``filepath`` that a node filled, or found filled;
    or several by the name of what they are of: ``{"source": folder, "val": folder}``. It notes
    their names in ``last.json``. ``load()`` returns the same: what this process saved, also if
    another run has saved since; what was saved last if it saved nothing.
    """

    LAST = POINTER
    _saved: Path | dict[str, Path] | None = None

    @property
    def folder(self) -> Path:
        """The one that was made, or where several are."""
        made = self._made()
        return made if isinstance(made, Path) else self.root

    def load(self) -> Path | dict[str, Path]:
        self.check()
        return self._made()

    def save(self, data: Path | dict[str, Path]) -> None:
        folders = [data] if isinstance(data, Path) else list(data.values())
        for folder in folders:
            if folder.resolve().parent != self.root.resolve():
                raise InputError(self.root, "filepath", f"the node wrote elsewhere: {folder}")
        self._saved = data
        self.check()
        named = data.name if isinstance(data, Path) else {n: f.name for n, f in data.items()}
        write_json(self.root / self.LAST, {"folder": named})

    def check(self) -> None:
        """As for every folder, and there must be one."""
        if not self.folders():
            raise self._error(self.LAST, "nothing was made here yet")
        for folder in self.folders():
            self.check_folder(folder)

    def folders(self) -> list[Path]:
        """What was made last, as far as anything was."""
        made = self._made()
        return [made] if isinstance(made, Path) else list(made.values())

    def fingerprint(self) -> str:
        """Of the manifests, or of the weights: what lies beside them grows with evaluations."""
        manifests = [(folder, read_manifest(folder)) for folder in self.folders()]
        return "+".join(m.digest if m else fingerprint(f, _WEIGHTS) for f, m in manifests)

    def _made(self) -> Path | dict[str, Path]:
        if self._saved is not None:
            return self._saved
        named = (read_json(self.root / self.LAST) or {}).get("folder") or {}
        if isinstance(named, dict):
            return {str(of): self.root / Path(str(name)).name for of, name in named.items()}
        return self.root / Path(str(named)).name


class DiffusionFolderDataset(ModelFolderDataset):
    """A Stable Diffusion 1.x, 2.x or SDXL folder, checked as the backbone will check it.

    Its fingerprint is the backbone's, over the files that are really loaded.
    """

    def check_folder(self, folder: Path) -> None:
        """As for every folder, and all parts with configurations and weights must be there."""
        from diffground.backbone.folder import ModelFolder

        super().check_folder(folder)
        ModelFolder.check(folder)

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

    def check_folder(self, folder: Path) -> None:
        """As for every folder, and the manifest must fit the files that are there."""
        super().check_folder(folder)
        if self.manifest_needed and not is_valid(folder):
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
