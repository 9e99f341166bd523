"""`lmaas admin drift`: the accuracy of predictions over time, and the verdict on them."""

from typing import Any

import click

from gateway.cli.admin.output import Columns
from gateway.cli.admin.session import AdminCommand, AdminSession, pass_session

COLUMNS: Columns = {
    "since": "since",
    "outcomes": "outcomes",
    "coverage": "coverage",
    "tau": "tau",
}


@click.command("drift", cls=AdminCommand)
@click.option("--app", help="Only this app.")
@click.option(
    "--hours",
    type=float,
    default=168.0,
    show_default=True,
    help="Length of the period, which ends now.",
)
@click.option(
    "--buckets", type=int, default=28, show_default=True, help="Number of intervals in the period."
)
@pass_session
def show_drift(session: AdminSession, app: str | None, hours: float, buckets: int) -> None:
    """Show the accuracy of predictions over time.

    Of requests that a trained version predicted: how many answers stayed within the predicted 0.9
    quantile (coverage, 0.9 is right), and Kendall's tau of predicted and actual lengths.
    """
    query = {"app": session.names.app(app)} if app else {}
    drift = session.client.get("/admin/drift", hours=hours, buckets=buckets, **query)
    output = session.output
    if output.as_json:
        output.item(drift)
        return
    measured = [bucket for bucket in drift["buckets"] if bucket["outcomes"]]
    output.items(
        measured,
        COLUMNS,
        none=f"no request of the last {hours:g} hours was predicted by a trained version",
    )
    output.text(_verdict(drift))
    if drift["version"] is None:
        output.next_step("predictors", "train", "--wait")


def _verdict(drift: dict[str, Any]) -> str:
    """The verdict on the newest predictions of all apps, as a sentence."""
    if drift["version"] is None:
        return "verdict: none, no version is trained yet; lengths are predicted from earlier ones"
    counted = f"of the newest {drift['outcomes']} outcomes"
    match drift["verdict"]:
        case "trusted":
            return f"verdict: predictions rank the lengths {counted} well enough to schedule by"
        case "untrusted":
            return (
                f"verdict: predictions rank the lengths {counted} too poorly; "
                "requests start in order of arrival"
            )
    return (
        f"verdict: none yet, {drift['outcomes']} of the {drift['least_outcomes']} outcomes that "
        "it needs; scheduling uses the predictions meanwhile"
    )
