"""The batch job of `lmaas replay`: from a JSONL file of OpenAI's format, or synthetic."""

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeAlias

import click
import msgspec
import numpy as np
from msgspec import Struct

from gateway.errors import InvalidRequest, LmaasError, NotFound, StartupFailure
from gateway.jobs.prompts import Ints, JobPrompts
from gateway.replay.cost.model import EngineModel
from gateway.replay.workload.job import ReplayJob, job_of_prompts, synthetic_job
from gateway.replay.workload.workload import Workload

POSITIVE: Final = click.IntRange(min=1)
ANSWERS_SEED: Final = 0
MAX_LINE_BYTES: Final = 64 << 20

Encode: TypeAlias = Callable[["_Body"], list[int]]


OPTIONS: Final = (
    click.option(
        "--job",
        "job_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Replay everything again next to this batch job: JSONL, as for /v1/batches.",
    ),
    click.option(
        "--job-lines", type=POSITIVE, help="The same with a job of this number of equal lines."
    ),
    click.option(
        "--job-shared",
        type=click.IntRange(min=0),
        default=2_000,
        show_default=True,
        help="Prompt tokens that the lines of a group have in common.",
    ),
    click.option(
        "--job-own",
        type=POSITIVE,
        default=200,
        show_default=True,
        help="Prompt tokens of a line's own.",
    ),
    click.option(
        "--job-degree", type=POSITIVE, default=16, show_default=True, help="Lines in a group."
    ),
    click.option(
        "--job-answer",
        type=POSITIVE,
        help="Tokens of each line's answer.  [default: drawn from the replayed requests]",
    ),
    click.option(
        "--job-start",
        "job_start_s",
        type=click.FloatRange(min=0),
        default=0.0,
        show_default=True,
        help="Seconds from the first request to the start of the job.",
    ),
)


class JobOptions(Struct, frozen=True, kw_only=True):
    """The options that describe a job; None if not given."""

    file: Path | None
    lines: int | None
    shared: int
    own: int
    answer: int | None
    degree: int
    start_s: float

    def check(self) -> None:
        """UsageError for options that exclude each other."""
        if self.file is not None and self.lines is not None:
            raise click.UsageError("give --job or --job-lines, not both")


class _Part(Struct):
    text: str = ""


class _Message(Struct):
    role: str = "user"
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _Body(Struct):
    messages: list[_Message] = []
    prompt: str | list[str] = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None


class _Line(Struct):
    body: _Body


def job_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of a job; the command gets them as `job`."""

    @wraps(command)
    def wrapped(**given: Any) -> None:
        names = msgspec.structs.fields(JobOptions)
        taken = {field.name: given.pop(f"job_{field.name}") for field in names}
        command(**given, job=JobOptions(**taken))

    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def read_job(
    options: JobOptions, requests: Workload, engine: EngineModel, say: Callable[[str], None]
) -> ReplayJob | None:
    """The job that the options describe, without lines too long for the engine; None for none.

    Answers of unknown length are drawn from those of `requests`. InvalidRequest and NotFound name
    what is wrong with a file.
    """
    options.check()
    page_tokens = engine.shape.page_tokens
    if options.file is not None:
        job = _read(options.file, options, requests, page_tokens, say)
    elif options.lines is not None:
        job = synthetic_job(
            options.lines,
            shared=options.shared,
            own=options.own,
            answer=options.answer or 1,
            degree=options.degree,
            page_tokens=page_tokens,
            start_s=options.start_s,
        )
        if options.answer is None:
            job = job.with_answers(_drawn(requests, np.full(len(job), np.iinfo(np.int32).max)))
    else:
        return None
    fitting = job.within(engine.shape.max_sequence_tokens)
    if len(fitting) < len(job):
        left_out = len(job) - len(fitting)
        say(f"{left_out:,} lines of the job are left out: longer than the engine allows")
    return fitting


def _read(
    path: Path,
    options: JobOptions,
    requests: Workload,
    page_tokens: int,
    say: Callable[[str], None],
) -> ReplayJob:
    encode = _encoder(say)
    limits: list[int] = []

    def prompts() -> Iterator[list[int]]:
        for number, body in _bodies(path):
            try:
                yield encode(body) or [0]
            except LmaasError as error:
                raise InvalidRequest(f"{path}:{number}: {error.message}") from error
            limit = body.max_completion_tokens or body.max_tokens
            limits.append(limit or np.iinfo(np.int32).max)

    tokens = JobPrompts.of(prompts())
    if not limits:
        raise InvalidRequest(f"{path} has no lines")
    most = np.array(limits, np.int64)
    answers = (
        _drawn(requests, most)
        if options.answer is None
        else np.minimum(np.full(len(most), options.answer), most)
    )
    longest = max(int(requests.max_tokens.max()), int(answers.max()))
    return job_of_prompts(
        f"{len(most):,} lines of {path.name}",
        tokens,
        answers,
        np.minimum(most, longest),
        page_tokens=page_tokens,
        start_s=options.start_s,
    )


def _bodies(path: Path) -> Iterator[tuple[int, _Body]]:
    """The number and the body of each line."""
    decode = msgspec.json.Decoder(_Line).decode
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if line.strip():
                    yield number, decode(line).body
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"{path}:{number} is no line of a batch file: {error}") from error


def _encoder(say: Callable[[str], None]) -> Encode:
    """The served model's tokenizer if its files are here; else a token is a word."""
    from gateway.generation.text.tokenizer import ChatTokenizer  # noqa: PLC0415 - tokenizers
    from gateway.served_model import served_model  # noqa: PLC0415
    from gateway.settings import read_settings  # noqa: PLC0415

    try:
        model = served_model(read_settings())
        tokenizer = ChatTokenizer(Path(model.location))  # a hub name is not fetched for this
    except StartupFailure as error:
        say(f"prompts of the job are counted in words: {error.message}")
        return _word_encoder()
    say(f"prompts of the job are tokenised for {model.name}")

    def encode(body: _Body) -> list[int]:
        if body.messages:
            return tokenizer.encode_chat(
                [{"role": each.role, "content": each.text} for each in body.messages]
            )
        return tokenizer.encode_prompt(_prompt_text(body))

    return encode


def _word_encoder() -> Encode:
    words: dict[str, int] = {}

    def encode(body: _Body) -> list[int]:
        texts = [f"{each.role} {each.text}" for each in body.messages] or [_prompt_text(body)]
        return [words.setdefault(word, len(words)) for text in texts for word in text.split()]

    return encode


def _prompt_text(body: _Body) -> str:
    return body.prompt if isinstance(body.prompt, str) else "".join(body.prompt)


def _drawn(requests: Workload, most: Ints) -> Ints:
    """Lengths of answers drawn from those of the requests, at most `most` each."""
    random = np.random.default_rng(ANSWERS_SEED)
    drawn = requests.generation_tokens[random.integers(len(requests), size=len(most))]
    return np.minimum(drawn.astype(np.int64), most)
