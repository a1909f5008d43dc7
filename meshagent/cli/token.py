"""`meshctl token`: the invitations by which hosts join."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import quote

import click

from meshagent.cli.client import connected
from meshagent.cli.context import server_options
from meshagent.cli.rendering import expiry, output_option, show

_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> int:
    match = re.fullmatch(r"(\d{1,9}) *(s|m|min|h|d)?", value)
    seconds = int(match[1]) * _SECONDS[match[2] or ""] if match else 0
    if not seconds:
        raise click.BadParameter(f"{value!r} must be a time such as 90s, 30m, 1h or 2d")
    return seconds


@click.group(short_help="Make, list and delete join tokens.")
@server_options
def token() -> None:
    """Join tokens: each lets one host in, once, for the placements that it names."""


@token.command()
@click.option(
    "--placement",
    "-p",
    "placements",
    multiple=True,
    required=True,
    metavar="PATH",
    help="What the host may run: mesh/shop/virtualNode/web, or mesh/shop/* for all that begin so. May be repeated.",
)
@click.option(
    "--life", callback=_seconds, metavar="TIME", default="1h", show_default=True, help="For how long it may be used."
)
@click.option("--host", metavar="NAME", help="Only for the host of this name.")
@output_option
@server_options
def create(placements: tuple[str, ...], life: int, host: str | None, output: str) -> None:
    """Make a join token and print it; it cannot be shown again."""
    body: dict[str, Any] = {"placements": list(placements), "lifeSeconds": life}
    if host:
        body["host"] = host
    answer = connected().request("POST", "/v1/tokens", body)
    # The token alone on standard output, so that it can go into a file.
    show(answer, output, lambda screen: screen.line(answer["token"]))
    if output == "table":
        click.echo(f"token {answer['id']} ends {expiry(answer['expires'], time.time())}", err=True)


@token.command("list")
@output_option
@server_options
def list_(output: str) -> None:
    """List the tokens, used and unused; never their secrets."""
    answer = connected().request("GET", "/v1/tokens")
    now = time.time()
    rows = [
        [
            one["id"],
            "\n".join(one["placements"]),
            one.get("host") or "",
            expiry(one["expires"], now),
            f"used by {one['usedBy']['host']}" if one.get("usedBy") else "unused",
        ]
        for one in answer["tokens"]
    ]
    show(answer, output, lambda screen: screen.table(["id", "placements", "only for", "ends", "use"], rows))


@token.command()
@click.argument("token_id", metavar="ID")
@output_option
@server_options
def delete(token_id: str, output: str) -> None:
    """Make a token worthless. The host that has joined by it stays."""
    connected().request("DELETE", f"/v1/tokens/{quote(token_id, safe='')}")
    show({"deleted": token_id}, output, lambda screen: screen.line(f"token {token_id} deleted"))
