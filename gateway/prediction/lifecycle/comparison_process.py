"""The comparison process: evaluates two versions, given by id, on the same newest rows.

A child process because it loads LightGBM. It reads DATABASE_URL from the environment and writes
JSON to stdout: the two scorecards and the number of rows, or an error with exit code 1.
"""

import argparse
import asyncio
import os
import sys
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec

from gateway.database.connection import Database
from gateway.errors import Conflict, LmaasError
from gateway.logs import set_up_child_logging
from gateway.prediction.features.embedder_model import (
    EmbedderModel,
    find_embedder,
    packaged_embedder,
)
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.model.artefact import decode
from gateway.prediction.serving.warm_start import newest_start
from gateway.prediction.training.fitting import judge_version
from gateway.prediction.training.samples import EPOCH, Samples, read_samples

MAX_ROWS: Final = 2_000
MIN_ROWS: Final = 20
MIN_UNSEEN_ROWS: Final = 200
TICK: Final = timedelta(microseconds=1)
NICENESS: Final = 10  # live requests take precedence


async def compare(
    database: Database, first: UUID, second: UUID, embedder: EmbedderModel | None = None
) -> dict[str, Any]:
    """Both scorecards on the newest MAX_ROWS outcomes of their model.

    NotFound; Conflict if they are of different models or there is too little history;
    PredictorRefused if one cannot be used.
    """
    embedder = embedder or packaged_embedder()
    registry = Registry(database.sessions)
    versions = [await registry.show(each) for each in (first, second)]
    if versions[0].model_hash != versions[1].model_hash:
        raise Conflict("the two versions were trained for different models")
    models = [
        decode(await registry.artefact(each.id), model_hash=each.model_hash, embedder=embedder.id)
        for each in versions
    ]
    trained = [each.trained_until for each in versions if each.trained_until is not None]
    samples, unseen = await _newest_samples(
        database, versions[0].model, max(trained, default=EPOCH), embedder
    )
    cards = [judge_version(each, samples) for each in models]
    if not cards[0].rows:
        raise Conflict(f"none of the newest {len(samples)} requests ended naturally")
    return {"rows": len(samples), "unseen": unseen, "cards": msgspec.to_builtins(cards)}


async def _newest_samples(
    database: Database, model: str, trained: datetime, embedder: EmbedderModel
) -> tuple[Samples, bool]:
    """The newest outcomes, and whether they are later than both versions' training data.

    They are if there are at least MIN_UNSEEN_ROWS of those. Conflict with too few rows.
    """
    since = await newest_start(database.sessions, model, MAX_ROWS)
    samples, _ = await read_samples(
        database.sessions, model, embedder=embedder, since=max(since, trained + TICK)
    )
    if len(samples) >= MIN_UNSEEN_ROWS:
        return samples, True
    samples, _ = await read_samples(database.sessions, model, embedder=embedder, since=since)
    if len(samples) < MIN_ROWS:
        raise Conflict(
            f"a comparison needs at least {MIN_ROWS} finished requests, found {len(samples)}"
        )
    return samples, False


async def _main(first: UUID, second: UUID, embedder: EmbedderModel) -> int:
    database = await Database.open(os.environ["DATABASE_URL"], statement_s=None)
    try:
        answer, code = await compare(database, first, second, embedder), 0
    except LmaasError as error:
        answer, code = {"error": error.message}, 1
    finally:
        await database.close()
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return code


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Score two predictors on the newest history.")
    parser.add_argument("first", type=UUID)
    parser.add_argument("second", type=UUID)
    parser.add_argument("--embedder", help="folder of a sentence-transformers model")
    arguments = parser.parse_args()
    set_up_child_logging("warning")
    os.nice(NICENESS)
    sys.exit(
        asyncio.run(_main(arguments.first, arguments.second, find_embedder(arguments.embedder)))
    )


if __name__ == "__main__":
    main()
