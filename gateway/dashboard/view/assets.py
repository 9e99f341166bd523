"""The files that the page loads, read once and served under names that change with them."""

from hashlib import sha256
from importlib.resources import files
from typing import Final

from litestar import Response, get
from litestar.params import FromPath
from msgspec import Struct

from gateway.dashboard.view.headers import HEADERS
from gateway.errors import NotFound, shortened

TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FOREVER: Final = "public, max-age=31536000, immutable"
HASH_CHARACTERS: Final = 10
NAMES: Final = (
    "app.css",
    "app.js",
    "theme.js",
    "playground.js",
    "icon.svg",
    "vendor/htmx.min.js",
    "vendor/htmx-sse.min.js",
    "vendor/idiomorph-ext.min.js",
)


class Asset(Struct, frozen=True):
    """A file's bytes and media type."""

    content: bytes
    media_type: str


def _read() -> tuple[dict[str, str], dict[str, Asset]]:
    """The address of each file by its name, and the files by their hashed names."""
    folder, addresses, assets = files("gateway.dashboard") / "static", {}, {}
    for name in NAMES:
        content = folder.joinpath(name).read_bytes()
        plain = name.rpartition("/")[2]
        hashed = f"{sha256(content).hexdigest()[:HASH_CHARACTERS]}-{plain}"
        addresses[plain] = f"/page/static/{hashed}"
        assets[hashed] = Asset(content, TYPES[plain.rpartition(".")[2]])
    return addresses, assets


ADDRESSES, ASSETS = _read()


@get("/page/static/{name:str}", include_in_schema=False)
async def static_file(name: FromPath[str]) -> Response[bytes]:
    """A file of the page; browsers keep it, as another content has another name."""
    asset = ASSETS.get(name)
    if asset is None:
        raise NotFound(f"there is no file {shortened(name)!r}")
    headers = {**HEADERS, "cache-control": FOREVER}
    return Response(asset.content, media_type=asset.media_type, headers=headers)
