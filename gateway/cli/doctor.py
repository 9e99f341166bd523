"""`lmaas doctor`: finds what is wrong with this gateway, and says what to do about it."""

import os
import sys
from collections.abc import Iterable
from typing import Final

import click
import msgspec

from gateway.diagnosis.diagnosis import diagnose
from gateway.diagnosis.finding import Finding, Status
from gateway.logs import set_up_logging

SIGNS: Final[dict[Status, str]] = {
    "ok": click.style("ok      ", fg="green"),
    "warning": click.style("warning ", fg="yellow"),
    "failure": click.style("failure ", fg="red"),
}
PART_WIDTH: Final = 12


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as a JSON object.")
def doctor(as_json: bool) -> None:
    """Check settings, database, model, engine, kernel, disk, port, permissions and predictions.

    Works with the gateway running or stopped, on the same settings. Exit status 1 if anything
    failed; warnings are no failures. Takes about half a minute.
    """
    set_up_logging("error")
    findings = []
    for finding in diagnose(os.environ):
        findings.append(finding)
        if not as_json:
            _print(finding)
    failures, warnings = _count(findings, "failure"), _count(findings, "warning")
    if as_json:
        summary = {"failures": failures, "warnings": warnings, "findings": findings}
        click.echo(msgspec.json.format(msgspec.json.encode(summary), indent=1))
    else:
        click.echo(f"\nfailures: {failures}, warnings: {warnings}")
    sys.stdout.flush()
    sys.exit(1 if failures else 0)


def _print(finding: Finding) -> None:
    click.echo(f"{SIGNS[finding.status]}{finding.part:{PART_WIDTH}} {finding.message}")
    if finding.remedy:
        click.echo(f"{'':8}{'':{PART_WIDTH}} → {finding.remedy}")


def _count(findings: Iterable[Finding], status: Status) -> int:
    return sum(finding.status == status for finding in findings)
