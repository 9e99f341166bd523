"""The machine under `check.py`: a Docker daemon, base images, and where packages come from."""

import os
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
MADE_PYTHON = "lmaas-test-python:bookworm"
MADE_POSTGRES = "lmaas-test-postgres:bookworm"
MIRROR = "http://deb.debian.org/debian"
WHEELS_PORT = 18_099  # always the same, lest every build begins from nothing
LAST_WORDS = 4_000  # characters shown of a command that failed

began = time.monotonic()


class Failed(Exception):
    """What the stack should do and did not."""


def say(line: str) -> None:
    print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)


def run(*command: str, env: Mapping[str, str] | None = None, within_s: float = 3600) -> str:
    """A command's output. Failed, with what it said, if it fails or takes too long."""
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
            timeout=within_s,
        )
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{shown}: not within {within_s:.0f} s") from late
    if done.returncode:
        raise Failed(f"{shown} ended with {done.returncode}\n{done.stdout.strip()[-LAST_WORDS:]}")
    return done.stdout


def succeeds(*command: str) -> bool:
    """Whether a program is there and does this without an error."""
    with suppress(Failed, FileNotFoundError):
        run(*command)
        return True
    return False


def wait_for(what: str, true: Callable[[], bool], within_s: float) -> None:
    """Return once it is true; Failed if it does not become so in time."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {within_s:.0f} s")
        time.sleep(0.5)


@contextmanager
def docker_daemon() -> Iterator[None]:
    """The daemon that runs; else one started here and ended again."""
    if succeeds("docker", "info"):
        yield
        return
    if not shutil.which("dockerd") or os.geteuid() != 0:
        raise Failed("no Docker daemon answers, and none can be started here: start one")
    say("starting dockerd")
    with (
        TemporaryDirectory() as folder,
        (Path(folder) / "dockerd.log").open("w+") as log,
        subprocess.Popen(["nice", "dockerd"], stdout=log, stderr=log) as daemon,
    ):
        try:
            wait_for("dockerd", lambda: succeeds("docker", "info") or daemon.poll() is not None, 60)
            if daemon.poll() is not None:
                raise Failed(f"dockerd does not start:\n{Path(log.name).read_text()[-2000:]}")
            yield
        finally:
            daemon.terminate()


def debian_image() -> None:
    """Import a bare Debian with Python as an image."""
    if not shutil.which("debootstrap") or os.geteuid() != 0:
        raise Failed("no registry is reached: set PYTHON_IMAGE, or be root and have debootstrap")
    say(f"making {MADE_PYTHON} of Debian's packages (about a minute)")
    with TemporaryDirectory() as folder:
        run(
            *("nice", "debootstrap", "--variant=minbase"),
            "--include=python3,python3-venv,ca-certificates",
            *("bookworm", folder, os.environ.get("DEBIAN_MIRROR", MIRROR)),
        )
        shutil.rmtree(Path(folder) / "var/cache/apt/archives")
        (Path(folder) / "var/cache/apt/archives/partial").mkdir(parents=True)
        run("sh", "-c", f"tar --create --directory={folder} . | docker import - {MADE_PYTHON}")


def postgres_image(python_image: str) -> None:
    """Build the stand-in for the official Postgres image."""
    say(f"making {MADE_POSTGRES} of Debian's packages")
    folder = str(HERE / "postgres")
    build = ("docker", "build", "--network", "host", "--build-arg", f"BASE={python_image}")
    # The older builder: it is in every Docker.
    run(*build, "--tag", MADE_POSTGRES, folder, env={**os.environ, "DOCKER_BUILDKIT": "0"})


def has_image(name: str) -> bool:
    return succeeds("docker", "image", "inspect", name)


def base_images() -> tuple[dict[str, str], bool]:
    """The two base images as compose.yaml names them, and whether this machine made them."""
    python, postgres = (os.environ.get(name) for name in ("PYTHON_IMAGE", "POSTGRES_IMAGE"))
    python = python or _pulled(PUBLIC_PYTHON)
    postgres = postgres or _pulled(PUBLIC_POSTGRES)
    made = not (python and postgres)
    if not python:
        python = MADE_PYTHON
        if not has_image(python):
            debian_image()
    if not postgres:
        postgres = MADE_POSTGRES
        if not has_image(postgres):
            postgres_image(python)
    return {"PYTHON_IMAGE": python, "POSTGRES_IMAGE": postgres}, made


def _pulled(name: str) -> str | None:
    """The image's name if it is here or a registry has it."""
    return name if has_image(name) or succeeds("docker", "pull", "--quiet", name) else None


@contextmanager
def packages(made: bool) -> Iterator[dict[str, str]]:
    """Build settings that say where Python packages come from; none if from their index."""
    with TemporaryDirectory() as own, ExitStack() as stack:
        folder = os.environ.get("WHEELS")
        if not folder and not made:
            yield {}
            return
        if not folder:
            say("fetching the Python packages with this machine's pip")
            fetch_wheels(own)
            folder = own
        handler = partial(_Quiet, directory=folder)
        server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        yield {
            "BUILD_NETWORK": "host",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": f"http://127.0.0.1:{WHEELS_PORT}/",
            "TORCH_INDEX_URL": "",
        }


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing of each file."""


def fetch_wheels(folder: str) -> None:
    """Everything that the image installs, for this machine's Python: the image's is the same."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    run(
        *("nice", sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:"),
        *("--dest", folder, "--constraint", str(ROOT / "constraints.txt"), *wanted),
    )
