"""The demo from first to last: traffic, training, traffic, another policy, traffic."""

import asyncio
from contextlib import ExitStack

from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.demo.admin import Admin, policy_kept, use_policy
from gateway.demo.examples import Examples, Instructions
from gateway.demo.figures import Passes
from gateway.demo.other_traffic import others, read_load
from gateway.demo.sending import Outcome, Sender
from gateway.demo.tenant import demo_tenant
from gateway.demo.traffic import Arrival, plan_traffic
from gateway.demo.training import Learned, active_version, train
from gateway.errors import LmaasError


class Wanted(Struct, frozen=True):
    """What to show, and where; of `examples`, the apps that have an instruction."""

    url: str
    model: str
    examples: Examples
    instructions: Instructions
    requests: int
    concurrency: int


def demonstrate(admin: Admin, wanted: Wanted, console: Console) -> tuple[Passes, Learned]:
    """The outcomes of all passes, and what the training between the first two read.

    Keys and policy are as before when it ends, however it ends. LmaasError where the gateway is
    away, refuses the admin key or fails to train.
    """
    apps = {app: text for app, text in wanted.instructions.items() if app in wanted.examples}
    if not apps:
        raise LmaasError("no app of the model's folder has both an instruction and examples")
    asked = {app: wanted.examples[app] for app in apps}
    first, second = (plan_traffic(asked, wanted.requests, half) for half in (0, 1))
    with ExitStack() as stack:
        stack.enter_context(policy_kept(admin, console.print))
        tenant = stack.enter_context(demo_tenant(admin, apps, console.print))
        _report_state(admin, console)
        progress = stack.enter_context(_progress(console))
        sender = Sender(wanted.url, wanted.model, tenant.keys, wanted.concurrency)
        measured = _Measured(admin, sender, progress)
        use_policy(admin, "lmaas")
        before = measured.send(first, "1 of 3: before training")
        learned = _train(admin, tenant.id, progress)
        after = measured.send(second, "2 of 3: after training, new questions")
        use_policy(admin, "fixed")
        fixed = measured.send(second, "3 of 3: the same in fixed batches")
        return Passes(before, after, fixed), learned


def _report_state(admin: Admin, console: Console) -> None:
    """Say what makes the figures others than on a new server: earlier training, other traffic."""
    if active_version(admin):
        console.print("The predictor has been trained before: it starts with what it knows.")
    present = read_load(admin).present
    if present:
        console.print(
            f"Warning: {present} requests that are not the demo's wait or run on this server. "
            "The demo shows what it should on a server without other traffic."
        )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<38}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


class _Measured:
    """Sends passes of traffic, and warns where the server had other requests meanwhile."""

    def __init__(self, admin: Admin, sender: Sender, progress: Progress) -> None:
        self._admin = admin
        self._sender = sender
        self._progress = progress

    def send(self, plan: list[Arrival], title: str) -> list[Outcome]:
        """The outcomes of a pass."""
        task = self._progress.add_task(title, total=len(plan))
        before = read_load(self._admin)
        outcomes = asyncio.run(self._sender.send(plan, lambda: self._progress.advance(task)))
        foreign = others(before, read_load(self._admin), len(plan))
        if foreign:
            self._progress.console.print(
                f"Warning: meanwhile the server had {foreign} requests that are not the demo's, "
                "so these response times are not of the demo's requests alone."
            )
        return outcomes


def _train(admin: Admin, tenant: str, progress: Progress) -> Learned:
    task = progress.add_task("training the length predictor", total=1)
    learned = train(admin, tenant)
    if not learned.activated:
        progress.console.print(
            "The new predictor was no better on the newest requests: the one there stays at work."
        )
    progress.advance(task)
    return learned
