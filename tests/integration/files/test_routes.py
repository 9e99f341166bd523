"""`/v1/files` over HTTP, on a real database."""

import base64
import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from gateway.api.openai.files.form import FORM_BYTES
from gateway.database.errors import Sessions
from gateway.errors import ClientGone
from gateway.files.chunks import CHUNK_BYTES
from gateway.files.sweeper import FileSweeper
from tests.conftest import Builder
from tests.integration.files.conftest import BOUNDS, rows

BOUNDARY = "x-boundary-x"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
UNKNOWN = "file-" + "0" * 32


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + value + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
PURPOSE = part("purpose", b"batch")
FILE = part("file", b"data", "a.jsonl")


async def upload(
    client: httpx.AsyncClient, data: bytes = b"data", name: str = "a.jsonl", **fields: str
) -> httpx.Response:
    return await client.post(
        "/v1/files", files={"file": (name, data)}, data={"purpose": "batch", **fields}
    )


async def test_file_is_answered_listed_shown_read_and_deleted(client: httpx.AsyncClient) -> None:
    data = b'{"a": 1}\n' * 50_000
    file = (await upload(client, data)).raise_for_status().json()
    digest = hashlib.sha256(data)
    assert file.pop("created_at") < file.pop("expires_at")
    assert file == {
        "id": file["id"],
        "object": "file",
        "bytes": len(data),
        "filename": "a.jsonl",
        "purpose": "batch",
        "sha256": digest.hexdigest(),
        "status": "processed",
    }
    path = f"/v1/files/{file['id']}"
    assert (await client.get(path)).json()["sha256"] == file["sha256"]
    assert [each["id"] for each in (await client.get("/v1/files")).json()["data"]] == [file["id"]]
    read = await client.get(f"{path}/content")
    assert read.content == data
    assert read.headers["content-length"] == str(len(data))
    assert read.headers["content-type"] == "application/octet-stream"
    assert read.headers["content-disposition"] == 'attachment; filename="a.jsonl"'
    assert read.headers["etag"] == f'"{digest.hexdigest()}"'
    encoded = base64.b64encode(digest.digest()).decode()
    assert read.headers["repr-digest"] == f"sha-256=:{encoded}:"
    deleted = {"id": file["id"], "object": "file", "deleted": True}
    assert (await client.delete(path)).json() == deleted
    for gone in (client.get(path), client.get(f"{path}/content"), client.delete(path)):
        assert (await gone).status_code == 404
    assert (await client.get("/v1/files")).json() == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


async def test_list_has_pages_in_both_orders(client: httpx.AsyncClient) -> None:
    ids = [(await upload(client, name=f"{n}")).json()["id"] for n in range(3)]

    async def listed(**query: Any) -> dict[str, Any]:
        return dict((await client.get("/v1/files", params=query)).raise_for_status().json())

    assert [file["id"] for file in (await listed())["data"]] == ids[::-1]
    first = await listed(limit=2, order="asc", purpose="batch")
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[1], True)
    second = await listed(limit=2, order="asc", after=ids[1])
    assert [file["id"] for file in second["data"]] == ids[2:]
    assert not second["has_more"]
    assert (await listed(purpose="batch_output"))["data"] == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=10001", "limit=1.0", "order=up", "purpose=x", "more=1"]
)
async def test_list_refuses_what_it_does_not_know(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.get(f"/v1/files?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize("file_id", [UNKNOWN, "file-x", "%00", "x" * 2000, UNKNOWN.upper()])
@pytest.mark.parametrize("ask", ["GET", "GET content", "DELETE"])
async def test_unknown_id_is_a_404(client: httpx.AsyncClient, ask: str, file_id: str) -> None:
    method, _, rest = ask.partition(" ")
    answer = await client.request(method, f"/v1/files/{file_id}/{rest}".rstrip("/"))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "not_found")
    assert file_id not in error["message"]


async def test_file_of_another_tenant_looks_like_none(
    client: httpx.AsyncClient, build: Builder
) -> None:
    file_id = (await upload(client)).json()["id"]
    client.headers["authorization"] = f"Bearer {(await build.key()).secret}"
    for method, path in [("GET", ""), ("GET", "/content"), ("DELETE", "")]:
        foreign, unknown = [
            await client.request(method, f"/v1/files/{each}{path}") for each in (file_id, UNKNOWN)
        ]
        assert foreign.status_code == unknown.status_code == 404
        assert foreign.content == unknown.content
    assert (await client.get("/v1/files", params={"after": file_id})).json()["data"] == []


async def test_every_app_of_a_tenant_sees_its_files(
    client: httpx.AsyncClient, build: Builder
) -> None:
    tenant = await build.tenant()
    first, second = [(await build.key(await build.app(tenant))).secret for _ in range(2)]
    client.headers["authorization"] = f"Bearer {first}"
    file_id = (await upload(client)).json()["id"]
    client.headers["authorization"] = f"Bearer {second}"
    assert (await client.get(f"/v1/files/{file_id}/content")).content == b"data"


@pytest.mark.parametrize("fields", [[FILE, PURPOSE], [PURPOSE, FILE]], ids=["file", "purpose"])
async def test_fields_may_come_in_any_order(client: httpx.AsyncClient, fields: list[bytes]) -> None:
    body = b"".join(fields) + END
    for pieces in ([body], [bytes([each]) for each in body]):
        answer = await client.post("/v1/files", content=stream(pieces), headers=FORM)
        assert answer.status_code == 200, answer.text
        file_id = answer.json()["id"]
        assert (await client.get(f"/v1/files/{file_id}/content")).content == b"data"


async def stream(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


WRONG = {
    "no purpose": (FILE + END, "purpose"),
    "other purpose": (part("purpose", b"assistants") + FILE + END, "purpose"),
    "output": (FILE + part("purpose", b"batch_output") + END, "purpose"),
    "purpose twice": (PURPOSE + PURPOSE + FILE + END, "purpose"),
    "long purpose": (part("purpose", b"x" * 2000) + END, "purpose"),
    "no file": (PURPOSE + END, "file"),
    "file twice": (PURPOSE + FILE + FILE + END, "file"),
    "file without a name": (PURPOSE + part("file", b"x") + END, "file"),
    "empty name": (PURPOSE + part("file", b"x", "") + END, "file"),
    "long name": (PURPOSE + part("file", b"x", "x" * 256) + END, "file"),
    "name with a control character": (PURPOSE + part("file", b"x", "a\0b") + END, "file"),
    "unknown field": (PURPOSE + part("model", b"x") + END, "model"),
    "anchor alone": (
        PURPOSE + part("expires_after[anchor]", b"created_at") + FILE + END,
        "expires_after[seconds]",
    ),
    "other anchor": (
        PURPOSE + part("expires_after[anchor]", b"now") + FILE + END,
        "expires_after[anchor]",
    ),
    "seconds alone": (
        PURPOSE + part("expires_after[seconds]", b"3600") + FILE + END,
        "expires_after[anchor]",
    ),
    **{
        f"seconds {value[:8]}": (
            part("expires_after[anchor]", b"created_at")
            + part("expires_after[seconds]", value.encode())
            + PURPOSE
            + FILE
            + END,
            "expires_after[seconds]",
        )
        for value in ["3599", "2592001", "-1", "1e5", "", "9" * 500]
    },
    "cut off": (PURPOSE + FILE, None),
    "no form": (b"x" * 100, None),
    "nothing": (b"", None),
    "many parts": (part("purpose", b"batch") * 20, "purpose"),
    "long header": (b"--x-boundary-x\r\n" + b"x" * 10_000, None),
}


@pytest.mark.parametrize("name", WRONG)
async def test_wrong_form_is_a_400_that_names_the_field_and_leaves_nothing(
    client: httpx.AsyncClient, sessions: Sessions, name: str
) -> None:
    body, param = WRONG[name]
    answer = await client.post("/v1/files", content=body, headers=FORM)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert len(error["message"]) < 500
    await FileSweeper(sessions).sweep()
    assert await rows(sessions) == (0, 0)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 415),
        ("", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=" + "x" * 71, 400),
    ],
)
async def test_other_content_types_are_refused(
    client: httpx.AsyncClient, content_type: str, status: int
) -> None:
    headers = {"content-type": content_type}
    answer = await client.post("/v1/files", content=PURPOSE + FILE + END, headers=headers)
    assert answer.status_code == status, answer.text


async def test_expiry_is_what_was_asked_for(client: httpx.AsyncClient) -> None:
    fields = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "7200"}
    file = (await upload(client, **fields)).raise_for_status().json()
    assert file["expires_at"] - file["created_at"] == 7200


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a b.jsonl", 'attachment; filename="a b.jsonl"'),
        ("/etc/pass.jsonl", 'attachment; filename="pass.jsonl"'),
        ("é.jsonl", "attachment; filename*=UTF-8''%C3%A9.jsonl"),
        ("a;b'c", "attachment; filename*=UTF-8''a%3Bb%27c"),
    ],
)
async def test_download_has_the_files_name(
    client: httpx.AsyncClient, name: str, header: str
) -> None:
    file_id = (await upload(client, name=name)).raise_for_status().json()["id"]
    read = await client.get(f"/v1/files/{file_id}/content")
    assert read.headers["content-disposition"] == header


async def test_file_over_the_limit_is_refused_before_it_is_read(client: httpx.AsyncClient) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"x"

    length = str(BOUNDS.file_bytes + FORM_BYTES + 1)
    answer = await client.post(
        "/v1/files", content=body(), headers=FORM | {"content-length": length}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (413, "file_too_large", "file")
    assert read == 0


async def test_file_over_the_limit_is_refused_while_it_is_read(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    pieces = [PURPOSE, part("file", b"", "x")[:-2], *[b"x" * (1 << 16)] * 17, b"\r\n" + END]
    answer = await client.post("/v1/files", content=stream(pieces), headers=FORM)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
    await FileSweeper(sessions).sweep()
    assert await rows(sessions) == (0, 0)


async def test_largest_file_is_accepted(client: httpx.AsyncClient) -> None:
    assert (await upload(client, b"x" * BOUNDS.file_bytes)).status_code == 200


async def test_tenant_over_its_bounds_gets_a_429_that_is_not_retried(
    client: httpx.AsyncClient,
) -> None:
    for _ in range(BOUNDS.tenant_files):
        (await upload(client)).raise_for_status()
    answer = await upload(client)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (429, "file_quota_exceeded")
    assert answer.headers["x-should-retry"] == "false"


async def test_chunks_are_stored_while_the_body_still_comes(
    client: httpx.AsyncClient, sessions: Sessions
) -> None:
    stored: list[tuple[int, int]] = []

    async def body() -> AsyncIterator[bytes]:
        yield PURPOSE + part("file", b"", "x")[:-2]
        for _ in range(3):
            yield b"x" * (CHUNK_BYTES + 100)
            stored.append(await rows(sessions))
        yield b"\r\n" + END

    (await client.post("/v1/files", content=body(), headers=FORM)).raise_for_status()
    assert stored == [(1, 1), (1, 2), (1, 3)]


async def test_client_that_goes_away_leaves_nothing(
    application: Callable[..., Any], client: httpx.AsyncClient, sessions: Sessions
) -> None:
    pieces = [PURPOSE + part("file", b"", "x")[:-2] + b"x" * (2 * CHUNK_BYTES)]
    stored, sent = [], []

    async def receive() -> dict[str, Any]:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(), "more_body": True}
        stored.append(await rows(sessions))
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = FORM | {"authorization": client.headers["authorization"]}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/files",
        "raw_path": b"/v1/files",
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("gateway", 80),
        "state": {},
    }
    await application(scope, receive, send)
    assert stored[0] == (1, 2)
    assert sent[0]["status"] == 499
    assert ClientGone.code is not None
    assert ClientGone.code.encode() in sent[1]["body"]
    await FileSweeper(sessions).sweep()
    assert await rows(sessions) == (0, 0)
