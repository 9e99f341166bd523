"""The demo from first to last: traffic, training, traffic, another policy, traffic."""

import asyncio
from contextlib import ExitStack

from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.demo.admin import Admin, keys_for, policy_kept, use_policy
from gateway.demo.examples import Examples
from gateway.demo.figures import Passes
from gateway.demo.sending import Outcome, Sender
from gateway.demo.traffic import Arrival, plan_traffic
from gateway.demo.training import active_version, train


class Wanted(Struct, frozen=True):
    """What to show, and where."""

    url: str
    model: str
    requests: int
    concurrency: int


def demonstrate(admin: Admin, examples: Examples, wanted: Wanted, console: Console) -> Passes:
    """The outcomes of all passes. Keys and policy are as before when it ends, however it ends.

    LmaasError where the gateway is away, refuses the admin key or fails to train.
    """
    with ExitStack() as stack:
        stack.enter_context(policy_kept(admin, console.print))
        keys = stack.enter_context(keys_for(admin, examples, console.print))
        if active_version(admin):
            console.print("The predictor has been trained before: it starts with what it knows.")
        progress = stack.enter_context(_progress(console))
        sender = Sender(wanted.url, wanted.model, keys, wanted.concurrency)
        asked = {app: examples[app] for app in keys}
        first, second = (plan_traffic(asked, wanted.requests, half) for half in (0, 1))
        use_policy(admin, "lmaas")
        before = _sent(sender, first, progress, "1 of 3: before training")
        _train(admin, progress)
        after = _sent(sender, second, progress, "2 of 3: after training, new questions")
        use_policy(admin, "fixed")
        fixed = _sent(sender, second, progress, "3 of 3: the same in fixed batches")
        return Passes(before, after, fixed)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<38}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _sent(sender: Sender, plan: list[Arrival], progress: Progress, title: str) -> list[Outcome]:
    task = progress.add_task(title, total=len(plan))
    return asyncio.run(sender.send(plan, lambda: progress.advance(task)))


def _train(admin: Admin, progress: Progress) -> None:
    task = progress.add_task("training the length predictor", total=1)
    if not train(admin):
        progress.console.print(
            "The new predictor was no better on the newest requests: the one there stays at work."
        )
    progress.advance(task)
