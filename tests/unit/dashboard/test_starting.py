"""The page while the gateway starts."""

import httpx
from prometheus_client import CollectorRegistry

from gateway.api.http_metrics import HttpMetrics
from gateway.server import Front
from gateway.settings import Settings


async def test_browsers_get_a_page_that_loads_again_and_clients_an_error() -> None:
    front = Front(Settings(), HttpMetrics(CollectorRegistry()), lambda: "loading <the> model")
    transport = httpx.ASGITransport(front)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        page = await client.get("/page/queue", headers={"accept": "text/html"})
        answer = await client.get("/v1/models", headers={"accept": "*/*"})
    assert (page.status_code, page.headers["refresh"]) == (503, "2")
    assert "loading &lt;the&gt; model" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "starting")
