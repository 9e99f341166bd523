"""`lmaas evaluate`: how well lengths are predicted on folders of texts."""

from pathlib import Path
from typing import get_args

import click
import msgspec
from rich.console import Console

from gateway.errors import LmaasError
from gateway.evaluation.corpus import read_corpus
from gateway.evaluation.experiment import EvaluationOptions, run
from gateway.evaluation.lengths import LengthRule
from gateway.evaluation.plots import draw
from gateway.evaluation.table import TABLE_WIDTH, tables
from gateway.evaluation.vectors import TextVectors

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--train", type=FOLDER, required=True, help="Folder to learn from.")
@click.option("--test", type=FOLDER, required=True, help="Folder to report on.")
@click.option(
    "--lengths",
    type=click.Choice(get_args(LengthRule)),
    default="words",
    show_default=True,
    help="What a token is: a word or sign, or one of a BPE trained on the lines learned from.",
)
@click.option(
    "--history/--no-history",
    default=False,
    show_default=True,
    help="Let earlier lengths of the app (and of its user, where lines name one) be known.",
)
@click.option("--baselines", is_flag=True, help="Measure simpler predictors beside ours.")
@click.option("--cache", type=FOLDER, help="Keeps the vectors the baselines need for a next run.")
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    help="Write the numbers as one JSON object; - prints it instead of the tables.",
)
@click.option("--plots", type=FOLDER, help="Draw pictures (PNG) into this folder.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
def evaluate(
    train: Path,
    test: Path,
    lengths: LengthRule,
    history: bool,
    baselines: bool,
    cache: Path | None,
    file: Path | None,
    plots: Path | None,
    threads: int,
) -> None:
    """Learn lengths from one folder of texts and report the errors on another.

    The folders hold *.jsonl or *.jsonl.gz, one object a line: app, instruction, input, output. With
    a column `split`, the `train` lines of the one and the `valid` lines of the other count, so both
    may be the same folder. An app that the first lacks counts as new.
    """
    if file and not file.absolute().parent.is_dir():
        raise LmaasError(f"there is no folder {file.absolute().parent} for the JSON")
    corpus = read_corpus(train, test)
    found = run(
        corpus,
        EvaluationOptions(
            lengths=lengths, history=history, baselines=baselines, threads=threads, cache=cache
        ),
        TextVectors(),
        lambda line: click.echo(line, err=True),
    )
    encoded = msgspec.json.format(msgspec.json.encode(found.summary), indent=1)
    if file == Path("-"):
        click.echo(encoded)
    else:
        console = Console()
        console.width = max(console.width, TABLE_WIDTH)
        console.print(tables(found.summary))
        if file:
            file.write_bytes(encoded + b"\n")
    if plots:
        written = draw(found, plots)
        click.echo(f"pictures: {', '.join(map(str, written))}", err=True)
