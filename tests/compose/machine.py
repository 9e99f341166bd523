"""What `check.py` needs of the machine: a Docker daemon, base images and packages."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PUBLIC_PYTHON = "python:3.11-slim-bookworm"
PUBLIC_POSTGRES = "postgres:18"
BUILT_PYTHON = "lmaas-test-python:bookworm"
BUILT_POSTGRES = "lmaas-test-postgres:bookworm"
MIRROR = "http://deb.debian.org/debian"
WHEELS_PORT = 18_099  # fixed, so that builds can use Docker's cache
PACKAGE = re.compile(r'Package\(\s+name="(.+)",\s+version="(.+)"')  # of a model to fetch
MAX_SHOWN_CHARACTERS = 4_000  # of a failed command's output

began = time.monotonic()


class CheckFailed(Exception):
    """A check failed; the message says which."""


def report(line: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)


def run(*command: str, env: Mapping[str, str] | None = None, timeout_s: float = 3600) -> str:
    """A command's output. CheckFailed, with that output, if it fails or times out."""
    shown = f"`{' '.join(command)}`"
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as late:
        raise CheckFailed(f"{shown}: not within {timeout_s:.0f} s") from late
    if done.returncode:
        raise CheckFailed(
            f"{shown} ended with {done.returncode}\n{done.stdout.strip()[-MAX_SHOWN_CHARACTERS:]}"
        )
    return done.stdout


def succeeds(*command: str) -> bool:
    """Whether a program exists and succeeds."""
    with suppress(CheckFailed, FileNotFoundError):
        run(*command)
        return True
    return False


def wait_for(what: str, true: Callable[[], bool], timeout_s: float) -> None:
    """Return once `true()` is true. CheckFailed after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise CheckFailed(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.5)


@contextmanager
def docker_daemon() -> Iterator[None]:
    """The running daemon, else one that is started here and stopped at the end."""
    if succeeds("docker", "info"):
        yield
        return
    if not shutil.which("dockerd") or os.geteuid() != 0:
        raise CheckFailed("no Docker daemon answers, and none can be started here: start one")
    report("starting dockerd")
    with (
        TemporaryDirectory() as folder,
        (Path(folder) / "dockerd.log").open("w+") as log,
        subprocess.Popen(["nice", "dockerd"], stdout=log, stderr=log) as daemon,
    ):
        try:
            wait_for("dockerd", lambda: succeeds("docker", "info") or daemon.poll() is not None, 60)
            if daemon.poll() is not None:
                raise CheckFailed(f"dockerd does not start:\n{Path(log.name).read_text()[-2000:]}")
            yield
        finally:
            daemon.terminate()


def debian_image() -> None:
    """Import a bare Debian with Python as an image."""
    if not shutil.which("debootstrap") or os.geteuid() != 0:
        raise CheckFailed(
            "no registry can be reached: set PYTHON_IMAGE, or be root and have debootstrap"
        )
    report(f"building {BUILT_PYTHON} from Debian's packages (about a minute)")
    with TemporaryDirectory() as folder:
        run(
            *("nice", "debootstrap", "--variant=minbase"),
            "--include=python3,python3-venv,ca-certificates",
            *("bookworm", folder, os.environ.get("DEBIAN_MIRROR", MIRROR)),
        )
        shutil.rmtree(Path(folder) / "var/cache/apt/archives")
        (Path(folder) / "var/cache/apt/archives/partial").mkdir(parents=True)
        run("sh", "-c", f"tar --create --directory={folder} . | docker import - {BUILT_PYTHON}")


def postgres_image(python_image: str) -> None:
    """Build a replacement for the official Postgres image."""
    report(f"building {BUILT_POSTGRES} from Debian's packages")
    folder = str(HERE / "postgres")
    build = ("docker", "build", "--network", "host", "--build-arg", f"BASE={python_image}")
    # The older builder is part of every Docker version.
    run(*build, "--tag", BUILT_POSTGRES, folder, env={**os.environ, "DOCKER_BUILDKIT": "0"})


def has_image(name: str) -> bool:
    return succeeds("docker", "image", "inspect", name)


def base_images() -> tuple[dict[str, str], bool]:
    """The base images by compose.yaml's variables, and whether any was built here."""
    python, postgres = (os.environ.get(name) for name in ("PYTHON_IMAGE", "POSTGRES_IMAGE"))
    python = python or _pulled(PUBLIC_PYTHON)
    postgres = postgres or _pulled(PUBLIC_POSTGRES)
    built_here = not (python and postgres)
    if not python:
        python = BUILT_PYTHON
        if not has_image(python):
            debian_image()
    if not postgres:
        postgres = BUILT_POSTGRES
        if not has_image(postgres):
            postgres_image(python)
    return {"PYTHON_IMAGE": python, "POSTGRES_IMAGE": postgres}, built_here


def _pulled(name: str) -> str | None:
    """The image's name if it is here or can be pulled; else None."""
    return name if has_image(name) or succeeds("docker", "pull", "--quiet", name) else None


@contextmanager
def packages(built_here: bool) -> Iterator[dict[str, str]]:
    """Build settings for the source of Python packages; empty for the default index."""
    with TemporaryDirectory() as own, ExitStack() as stack:
        folder = os.environ.get("WHEELS")
        if not folder and not built_here:
            yield {}
            return
        if not folder:
            report("fetching the Python packages with this machine's pip")
            fetch_wheels(own)
            folder = own
        handler = partial(_QuietHandler, directory=folder)
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        yield {
            "BUILD_NETWORK": "host",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": f"http://127.0.0.1:{WHEELS_PORT}/",
            "TORCH_INDEX_URL": "",
        }


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


def fetch_wheels(folder: str) -> None:
    """Download the image's packages as wheels, for this machine's Python: it is the same."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, build = table["project"], table["build-system"]
    models = project["optional-dependencies"]["models"]
    wanted = [*project["dependencies"], *build["requires"], *models]
    download = (
        *("nice", sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"),
        *("--dest", folder),
    )
    run(*download, "--constraint", str(ROOT / "constraints.txt"), *wanted)
    catalogue = (ROOT / "engine/checkpoints/catalogue.py").read_text()
    for name, version in PACKAGE.findall(catalogue):
        run(*download, "--no-deps", f"{name}=={version}")
