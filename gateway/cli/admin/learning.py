"""`lmaas admin predictors learn`: imports a log, and creates the apps that it names if asked."""

from pathlib import Path

import click
import msgspec
from msgspec.structs import replace

from gateway.cli.admin.names import is_id
from gateway.cli.admin.session import AdminCommand, AdminSession, pass_session
from gateway.errors import NotFound
from gateway.prediction.lifecycle.log_format import bad_lines_error, read_lines

LINES = "application/x-ndjson"


@click.command("learn", cls=AdminCommand)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tenant", help="The tenant whose apps the lines name.")
@click.option("--create", is_flag=True, help="Create the tenant and the apps that do not exist.")
@pass_session
def learn(session: AdminSession, file: Path, tenant: str | None, *, create: bool) -> None:
    """Import a request log as training samples.

    All lines are imported or, if one is invalid, none. The file has a JSON object per line with
    `app` (an app's id or name), `input`, and `output` or its length in `tokens`. Optional:
    `instruction`, `user`, `max_tokens`, `temperature`, `top_p` and `cut_off` (true if the answer
    was cut at max_tokens).
    """
    if create and tenant is None:
        raise click.UsageError("--create goes with --tenant")
    body = file.read_bytes()
    if tenant is not None:
        body = _with_ids(session, tenant, body, create=create)
    session.output.item(session.client.send("/admin/predictors/samples", body, LINES))
    session.output.next_step("predictors", "train", "--wait")


def _with_ids(session: AdminSession, tenant: str, body: bytes, *, create: bool) -> bytes:
    """The lines with the ids of the tenant's apps for their names.

    Nothing is created unless every line is valid. NotFound lists missing apps.
    """
    lines, bad = read_lines(body)
    if bad:
        raise bad_lines_error(bad)
    tenant_id = _tenant(session, tenant, create=create)
    path = f"/admin/tenants/{tenant_id}/apps"
    apps = list(session.client.all(path))
    ids = {app[field]: app["id"] for field in ("id", "name") for app in apps}
    missing = sorted({line.app for line in lines.values()} - ids.keys())
    if missing and not (create and not any(map(is_id, missing))):
        hint = "" if create else "; --create creates apps by name"
        raise NotFound(f"the tenant {tenant} has no app {', '.join(map(repr, missing))}{hint}")
    for name in missing:
        ids[name] = session.client.post(path, name=name)["id"]
        click.echo(f"created the app {tenant}/{name}", err=True)
    with_ids = (replace(line, app=ids[line.app]) for line in lines.values())
    return b"\n".join(map(msgspec.json.encode, with_ids))


def _tenant(session: AdminSession, name: str, *, create: bool) -> str:
    try:
        return session.names.tenant(name)
    except NotFound:
        if not create:
            raise
    tenant = session.client.post("/admin/tenants", name=name)
    click.echo(f"created the tenant {name}", err=True)
    return str(tenant["id"])
