"""The demo's sequence: traffic, training, traffic, another policy, traffic."""

import asyncio
from contextlib import ExitStack

from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.demo.admin import Admin, restored_policy, use_policy
from gateway.demo.apps import DemoApp, apps_of
from gateway.demo.figures import DemoPasses
from gateway.demo.other_traffic import count_other_requests, read_request_counts
from gateway.demo.sending import DemoResult, Sender, served_model
from gateway.demo.tenant import demo_tenant
from gateway.demo.traffic import PlannedRequest, plan_traffic
from gateway.demo.training import TrainingResult, active_version, train
from gateway.errors import LmaasError


class DemoPlan(Struct, frozen=True):
    """How much to send, and to which gateway."""

    url: str
    requests: int
    concurrency: int


def demonstrate(
    admin: Admin, plan: DemoPlan, console: Console
) -> tuple[DemoPasses, TrainingResult]:
    """The results of all passes, and of the training between the first two.

    The demo's keys are revoked and the policy restored at the end, also after an error. LmaasError
    if the gateway is unreachable, refuses the admin key or fails to train.
    """
    apps = _apps(admin)
    first, second = (plan_traffic(apps, plan.requests, half) for half in (0, 1))
    with ExitStack() as stack:
        stack.enter_context(restored_policy(admin, console.print))
        tenant = stack.enter_context(demo_tenant(admin, apps, console.print))
        _report_state(admin, console)
        progress = stack.enter_context(_progress(console))
        model = served_model(plan.url, tenant.keys[apps[0].name])
        sender = Sender(plan.url, model, tenant.keys, plan.concurrency)
        runner = _PassRunner(admin, sender, progress)
        use_policy(admin, "lmaas")
        before = runner.send(first, "1 of 3: before training")
        training = _train(admin, tenant.id, progress)
        after = runner.send(second, "2 of 3: after training, new questions")
        use_policy(admin, "fixed")
        fixed = runner.send(second, "3 of 3: the same in fixed batches")
        return DemoPasses(before, after, fixed), training


def _apps(admin: Admin) -> list[DemoApp]:
    """The apps for the model that the gateway's engine has loaded."""
    engine = admin.get("/admin/engine")["info"]
    if engine is None:
        raise LmaasError("the gateway has no engine yet")
    return apps_of(engine["model"])


def _report_state(admin: Admin, console: Console) -> None:
    """Report what changes the results: earlier training, other traffic."""
    if active_version(admin):
        console.print("The predictor was trained before: the first pass already uses that version.")
    present = read_request_counts(admin).present
    if present:
        console.print(
            f"Warning: {present} requests that are not the demo's wait or run on this server. "
            "The results are only valid on a server without other traffic."
        )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<38}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


class _PassRunner:
    """Sends passes of traffic, and warns if the server had other requests meanwhile."""

    def __init__(self, admin: Admin, sender: Sender, progress: Progress) -> None:
        self._admin = admin
        self._sender = sender
        self._progress = progress

    def send(self, plan: list[PlannedRequest], title: str) -> list[DemoResult]:
        """The results of a pass."""
        task = self._progress.add_task(title, total=len(plan))
        before = read_request_counts(self._admin)
        results = asyncio.run(self._sender.send(plan, lambda: self._progress.advance(task)))
        others = count_other_requests(before, read_request_counts(self._admin), len(plan))
        if others:
            self._progress.console.print(
                f"Warning: meanwhile the server had {others} requests that are not the demo's, "
                "so these response times include their load."
            )
        return results


def _train(admin: Admin, tenant: str, progress: Progress) -> TrainingResult:
    task = progress.add_task("training the length predictor", total=1)
    training = train(admin, tenant)
    if not training.activated:
        progress.console.print(
            "The new predictor was no better on the newest requests: the active one stays."
        )
    progress.advance(task)
    return training
