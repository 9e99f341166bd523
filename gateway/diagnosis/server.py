"""Finds the gateway that runs with a data folder, and checks it and its port."""

import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import psutil

from gateway.diagnosis.finding import Finding, failure, ok, warning
from gateway.node import LOCK_FILE
from gateway.server_file import server_url
from gateway.settings import Settings

ANSWER_S: Final = 5.0


class RunningServer(NamedTuple):
    """The process of a gateway, and the address on which it listens; "" if that is unknown."""

    pid: int
    host: str
    port: int

    @property
    def url(self) -> str:
        """The address for a client on this machine; "" if it does not listen yet."""
        if not self.port:
            return ""
        return server_url(self.host, self.port)


def find_server(data_folder: Path) -> RunningServer | None:
    """The gateway that has this folder's lock open; None if there is none."""
    lock = data_folder.resolve() / LOCK_FILE
    if not lock.exists():
        return None
    for process in psutil.process_iter():
        try:
            if any(Path(opened.path) == lock for opened in process.open_files()):
                return _server(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return None


def _server(process: psutil.Process) -> RunningServer:
    for connection in process.net_connections(kind="tcp"):
        if connection.status == psutil.CONN_LISTEN:
            return RunningServer(process.pid, connection.laddr.ip, connection.laddr.port)
    return RunningServer(process.pid, "", 0)


def check_server(server: RunningServer | None) -> Finding:
    """Whether the gateway runs and would serve a request."""
    if server is None:
        return ok("server", "stopped; `lmaas serve` starts it")
    where = f"process {server.pid} on {server.url or 'no port yet'}"
    stuck = f"wait if it was just started, else restart it: `kill {server.pid}` and `lmaas serve`"
    try:
        response = httpx.get(f"{server.url}/health/ready", timeout=ANSWER_S, trust_env=False)
        health = response.json()
    except (httpx.HTTPError, httpx.UnsupportedProtocol, ValueError):
        return failure("server", f"{where} does not answer: it starts, stops or hangs", stuck)
    if response.status_code == HTTPStatus.OK:
        return ok(
            "server", f"{where}, ready; {health['running']} running, {health['waiting']} waiting"
        )
    if health.get("engine") == "held":
        return warning(
            "server",
            f"{where}: an operator paused or drains the engine, requests wait",
            "run `lmaas admin engine resume`",
        )
    return failure("server", f"{where} is not ready: its engine is {health.get('engine')}", stuck)


def check_port(settings: Settings, server: RunningServer | None) -> Finding:
    """Whether the port to serve on is free, or the gateway's own."""
    place = f"{settings.host}:{settings.port}"
    if server is not None and server.port and settings.port in (0, server.port):
        return ok("port", f"{server.port}, on which the gateway listens")
    if server is not None and server.port:
        return warning(
            "port",
            f"the gateway listens on {server.port}, not on {settings.port} as set here",
            "set LMAAS_PORT as it was when the gateway was started, or restart it",
        )
    if settings.port == 0:
        return ok("port", "any free one (LMAAS_PORT=0)")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen()
        except PermissionError:
            return failure("port", f"{place} needs privileges", "set LMAAS_PORT to 1024 or more")
        except OSError as error:
            return failure("port", f"{place}: {_reason(error, settings.port)}", _remedy(settings))
    return ok("port", f"{place} is free")


def _reason(error: OSError, port: int) -> str:
    owner = next(_listeners(port), None)
    taken = f"; {owner} listens there" if owner else ""
    return f"{error.strerror or error}{taken}"


def _listeners(port: int) -> Iterator[str]:
    """The processes that listen on a port, as far as this user may see them."""
    for process in psutil.process_iter(["name"]):
        try:
            for each in process.net_connections(kind="tcp"):
                if each.status == psutil.CONN_LISTEN and each.laddr.port == port:
                    yield f"process {process.pid} ({process.info['name']})"
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue


def _remedy(settings: Settings) -> str:
    """A free port of the same host; or another host, if this one is not of this machine."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((settings.host, 0))
        except OSError:
            return "set LMAAS_HOST to an address of this machine, such as 127.0.0.1"
        return f"set LMAAS_PORT to a free one, such as {probe.getsockname()[1]}"
