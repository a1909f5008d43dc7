"""`meshagent server`: options in, Settings out; the rest is meshagent.server.run."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import click

from meshagent.errors import MeshagentError
from meshagent.telemetry import logs

_LIFE = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _life(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Seconds, of a length of time such as 30s, 15m, 24h, 7d."""
    found = _LIFE.fullmatch(value)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{value!r} is no length of time such as 30s, 15m, 24h or 7d")
    return float(found[1]) * _UNITS[found[2]]


def _account(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r"\d{12}", value):
        raise click.BadParameter("must be twelve digits")
    return value


def _dns_servers(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from meshagent.discovery.resolve import split_nameserver

    for value in values:
        try:
            split_nameserver(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    return values


@click.command()
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the store lies, and what the operator needs (admin/).",
)
@click.option("--api-address", required=True, metavar="HOST:PORT", help="Serves the API. Port 0 takes a free one.")
@click.option("--xds-address", required=True, metavar="HOST:PORT", help="Serves agents. Port 0 takes a free one.")
@click.option(
    "--advertise",
    multiple=True,
    metavar="NAME",
    help="A name or address by which hosts reach this server; again for more.  [default: the host of each address]",
)
@click.option("--trust-domain", default="", help="Fixed at the first start.  [default: mesh.local]")
@click.option(
    "--certificate-life",
    callback=_life,
    default="24h",
    show_default=True,
    help="Of hosts', proxies' and the server's certificates; renewed at half of it.",
)
@click.option(
    "--lease-seconds",
    type=click.IntRange(1, 3600),
    default=15,
    show_default=True,
    help="A host that is not heard of for so long loses its endpoints.",
)
@click.option("--account-id", default="0" * 12, callback=_account, help="The account in ARNs.  [default: twelve zeros]")
@click.option(
    "--dns-server",
    multiple=True,
    metavar="ADDRESS[:PORT]",
    callback=_dns_servers,
    help="Resolves service discovery's names; again for more.  [default: /etc/resolv.conf]",
)
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
def server(
    data_dir: Path,
    api_address: str,
    xds_address: str,
    advertise: tuple[str, ...],
    trust_domain: str,
    certificate_life: float,
    lease_seconds: int,
    account_id: str,
    dns_server: tuple[str, ...],
    log_level: str,
) -> None:
    """Run the control plane: App Mesh's API, xDS for agents, the certificate authority.

    Says `ready` on a line of its own once both addresses serve."""
    logs.configure(log_level)
    from meshagent.server.listening import Address
    from meshagent.server.run import Settings, serve

    settings = Settings(
        data_dir=data_dir,
        api=Address.parse(api_address),
        xds=Address.parse(xds_address),
        advertise=advertise,
        trust_domain=trust_domain,
        certificate_life=certificate_life,
        lease_seconds=lease_seconds,
        account=account_id,
        dns_servers=dns_server,
    )
    try:
        asyncio.run(serve(settings))
    except* MeshagentError as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[MeshagentError]) -> MeshagentError:
    """One line says enough: what failed first made the others end."""
    first: BaseException = errors
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, MeshagentError)
    return first
