"""Runs all checks, each with a deadline; one that crashes or hangs is a failure of its part."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Final, NamedTuple, TypeAlias

from msgspec.structs import replace

from gateway.database.address import connection_parameters
from gateway.diagnosis.database import check_database
from gateway.diagnosis.engine import EXAMINATION_S, check_engine
from gateway.diagnosis.environment import check_settings, usable_settings
from gateway.diagnosis.finding import Finding, failure
from gateway.diagnosis.folder import check_disk, check_permissions, check_spool
from gateway.diagnosis.model import check_model, local_folder
from gateway.diagnosis.predictor import START_S, check_predictor
from gateway.diagnosis.server import RunningServer, check_port, check_server, find_server
from gateway.diagnosis.upstream import check_upstreams
from gateway.errors import StartupFailure
from gateway.settings import Settings

QUICK_S: Final = 20.0
DATABASE_S: Final = 60.0  # a stopped embedded server is started, and may recover from a crash
GRACE_S: Final = 15.0  # for what a check does besides its own longest wait

Find: TypeAlias = Callable[[], Iterable[Finding]]


class Check(NamedTuple):
    """The check of a part, and the longest that it may take."""

    part: str
    find: Find
    deadline_s: float


def diagnose(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Findings about the gateway of these settings, each as soon as it is made."""
    settings = usable_settings(environment)
    server: list[RunningServer] = []

    def locate() -> Iterable[Finding]:
        found = find_server(settings.data_folder)
        if found is not None:
            server.append(found)
        return [check_server(found)]

    secrets = _secrets(settings)
    yield from run(Check("settings", lambda: check_settings(environment), QUICK_S), secrets)
    yield from run(Check("server", locate, QUICK_S), secrets)
    for check in _checks(settings, server[0] if server else None):
        yield from run(check, secrets)


def _checks(settings: Settings, server: RunningServer | None) -> list[Check]:
    folder, running = settings.data_folder, server is not None
    return [
        Check("port", lambda: [check_port(settings, server)], QUICK_S),
        Check("permissions", lambda: check_permissions(folder), QUICK_S),
        Check("disk", lambda: check_disk(folder), QUICK_S),
        Check("spool", lambda: check_spool(folder, running=running), QUICK_S),
        Check("database", lambda: check_database(settings, running=running), DATABASE_S),
        Check("model", lambda: check_model(settings), DATABASE_S),
        Check("engine", lambda: _engine(settings, running=running), EXAMINATION_S + GRACE_S),
        Check("predictor", lambda: check_predictor(settings, server), START_S + GRACE_S),
    ]


def _engine(settings: Settings, *, running: bool) -> Iterable[Finding]:
    """Findings about the engine, or about the servers that the settings name in its place."""
    if settings.upstream is None:
        return check_engine(settings, running=running)
    folder = local_folder(settings)
    return () if folder is None else check_upstreams(settings, folder)


def run(check: Check, secrets: Iterable[str] = ()) -> Iterator[Finding]:
    """The findings of a check. It runs in a thread, which is left behind at the deadline.

    `secrets` are replaced in every sentence, whatever program it came from.
    """
    found: SimpleQueue[Finding | None] = SimpleQueue()

    def work() -> None:
        try:
            for finding in check.find():
                found.put(finding)
        except Exception as error:  # noqa: BLE001 - a check's crash is a finding
            line = (str(error).splitlines() or [""])[0]
            found.put(
                failure(
                    check.part,
                    f"this check failed: {type(error).__name__}: {line}",
                    "report this as a defect of `lmaas doctor`",
                )
            )
        finally:
            found.put(None)

    Thread(target=work, name=f"check of {check.part}", daemon=True).start()
    end_s = monotonic() + check.deadline_s
    while True:
        try:
            finding = found.get(timeout=max(end_s - monotonic(), 0.0))
        except Empty:
            yield failure(
                check.part,
                f"this check was not done within {check.deadline_s:g} s",
                "see whether the machine or its disk is overloaded, and run it again",
            )
            return
        if finding is None:
            return
        yield _masked(finding, secrets)


def _secrets(settings: Settings) -> list[str]:
    """Keys, and the database's password."""
    keys = (settings.upstream_api_key or "").split(",")
    found = [settings.admin_key, settings.api_key, settings.upstream_api_key, *keys]
    if settings.database_url is not None:
        try:
            found.append(connection_parameters(settings.database_url).get("password"))
        except StartupFailure:
            found.append(settings.database_url)
    return [secret for secret in found if secret]


def _masked(finding: Finding, secrets: Iterable[str]) -> Finding:
    message, remedy = finding.message, finding.remedy
    for secret in secrets:
        message, remedy = message.replace(secret, "***"), remedy.replace(secret, "***")
    return replace(finding, message=message, remedy=remedy)
