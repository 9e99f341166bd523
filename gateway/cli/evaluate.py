"""`lmaas evaluate`: measures the length predictor on texts with known answers."""

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
@click.option("--train", type=FOLDER, required=True, help="Folder to train on.")
@click.option("--test", type=FOLDER, required=True, help="Folder to test on.")
@click.option(
    "--lengths",
    type=click.Choice(get_args(LengthRule)),
    default="words",
    show_default=True,
    help="How answers are counted: in words and signs, in tokens of a BPE trained on --train, or "
    "as measured, given with each line.",
)
@click.option(
    "--history/--no-history",
    default=False,
    show_default=True,
    help="Let the predictor see earlier answer lengths of the same app (and user, if given).",
)
@click.option("--baselines", is_flag=True, help="Measure simpler predictors, too, for comparison.")
@click.option(
    "--cache", type=FOLDER, help="Folder that keeps the baselines' text vectors for the next run."
)
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True, path_type=Path),
    help="Write the results as one JSON object; - prints it instead of the tables.",
)
@click.option("--plots", type=FOLDER, help="Write plots (PNG) into this folder.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=2, show_default=True, help="CPU threads."
)
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
    """Measure the length predictor on folders of texts.

    Trains on one folder and reports the errors on the other. The folders have *.jsonl or *.jsonl.gz
    files, one object per line with the fields app, instruction, input and output. If the objects
    have a field split, only the lines with "train" are trained on and only those with "valid" are
    tested, so both may be the same folder. Apps that occur only in the test folder are reported as
    new.
    """
    if file and not file.absolute().parent.is_dir():
        raise LmaasError(f"there is no folder {file.absolute().parent} for the JSON file")
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
        click.echo(f"plots: {', '.join(map(str, written))}", err=True)
