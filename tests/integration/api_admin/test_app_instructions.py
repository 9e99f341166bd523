"""An app's instruction is proven on the served model's chat template where it is registered."""

import shutil
from pathlib import Path

import httpx
import pytest

from engine.checkpoints.catalogue import DEMO_FOLDER
from gateway.errors import StartupFailure
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.node import _demo_apps

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}{{ m.content }}{% endfor %}"
)


@pytest.fixture
def model_files(tmp_path: Path) -> Path:
    """A model whose chat template refuses system messages."""
    shutil.copy(DEMO_FOLDER / "tokenizer.json", tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path


async def test_app_with_a_refused_instruction_is_not_created(client: httpx.AsyncClient) -> None:
    tenant = (await client.post("/admin/tenants", json={"name": "acme"})).json()
    apps = f"/admin/tenants/{tenant['id']}/apps"
    refused = await client.post(apps, json={"name": "mail", "instruction": "Be polite."})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "instruction")
    assert "no system role" in error["message"]
    assert (await client.post(apps, json={"name": "mail"})).status_code == 201
    assert [app["name"] for app in (await client.get(apps)).json()["data"]] == ["mail"]


def test_suggested_app_with_a_refused_instruction_prevents_the_start(model_files: Path) -> None:
    (model_files / "apps.json").write_text('[{"name": "mail", "instruction": "Be polite."}]')
    with pytest.raises(StartupFailure, match=r"apps\.json: app 'mail': .*no system role"):
        _demo_apps(model_files, ChatTokenizer(model_files))
