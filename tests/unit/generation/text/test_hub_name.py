"""What is fetched of a model that is named on a hub, which is a small server here."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from engine.checkpoints.catalogue import DEMO_FOLDER

NAME: Final = "someone/a-model"
COMMIT: Final = "0123456789abcdef0123456789abcdef01234567"
FILES: Final = {
    "config.json": b'{"vocab_size": 1500, "eos_token_id": 7}',
    "generation_config.json": b'{"eos_token_id": [7, 9]}',
    "tokenizer.json": (DEMO_FOLDER / "tokenizer.json").read_bytes(),
    "model.safetensors": b"weights",
}
SCRIPT: Final = """
from pathlib import Path
from gateway.engines.upstream.local_model import read_local_model
from gateway.generation.text.tokenizer import model_folder
folder = model_folder({name!r})
print(sorted(path.name for path in folder.iterdir()))
print(read_local_model(folder, "a-model", 1500, None).stop_ids)
"""


class Hub(BaseHTTPRequestHandler):
    """The routes by which a model is described and its files are read."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{NAME}/tree/"):
            body = json.dumps(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": name}
                    for name, content in FILES.items()
                ]
            ).encode()
        elif path.startswith(f"/api/models/{NAME}"):
            body = json.dumps({"id": NAME, "sha": COMMIT, "siblings": []}).encode()
        elif path.startswith(f"/{NAME}/resolve/"):
            body = FILES[path.rpartition("/")[2]]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{abs(hash(body)):x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_fetched_says_where_answers_end_and_has_no_weights(
    hub: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(name=NAME)],
        env={**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    fetched, stop_ids = done.stdout.splitlines()[-2:]
    assert fetched == str(sorted(set(FILES) - {"model.safetensors"}))
    assert stop_ids == "[7, 9]"
