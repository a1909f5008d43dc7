"""`meshctl compile`: what a proxy would be told, from documents alone; no server is asked.

The mesh is resolved as a server does it, but for what only a server knows: address indexes are given in the order of the services' names,
and no endpoint has a lease. What is wrong with the mesh, and what of it is not compiled, is said on stderr.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Sequence

import click
import yaml

from meshagent.cli.files import load_paths
from meshagent.cli.rendering import clean
from meshagent.cli.standins import stand_in, with_stand_ins
from meshagent.envoy.compile import Compiler, static_form
from meshagent.envoy.notices import Notice
from meshagent.envoy.readable import readable_snapshot
from meshagent.errors import MeshagentError
from meshagent.identity.spiffe import check_trust_domain
from meshagent.mesh.graph import Mesh
from meshagent.mesh.placement import SLOTS, Mode, Placement
from meshagent.mesh.problems import Problem
from meshagent.specs.keys import Key, Kind
from meshagent.specs.spec import Spec

_PROXIED = (Kind.VIRTUAL_NODE, Kind.VIRTUAL_GATEWAY)


class ProxyChoiceError(MeshagentError):
    """There is no such proxy, or it was not said which of several."""


def _address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not an IP address such as 10.0.0.5") from error


def _trust_domain(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return check_trust_domain(value)
    except MeshagentError as error:
        raise click.BadParameter(str(error)) from error


@click.command("compile", short_help="Print a proxy's Envoy configuration, from documents alone.")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--proxy",
    metavar="RESOURCE",
    help="mesh/M/virtualNode/N or mesh/M/virtualGateway/G; may be left out where there is one only.",
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default=Mode.BIND.value,
    show_default=True,
    help="How traffic gets to Envoy: by listening on the services' addresses, or by the kernel's redirection.",
)
@click.option(
    "--address",
    metavar="IP",
    callback=_address,
    default="0.0.0.0",
    show_default=True,
    help="The host's address, on which `bind` listens.",
)
@click.option(
    "--slot",
    type=click.IntRange(0, SLOTS - 1),
    default=0,
    show_default=True,
    help="The placement's number on its machine.",
)
@click.option(
    "--application", callback=_address, default="127.0.0.1", show_default=True, help="Where the application listens."
)
@click.option(
    "--trust-domain",
    callback=_trust_domain,
    default="mesh.local",
    show_default=True,
    help="The server's: of SPIFFE IDs.",
)
@click.option(
    "--static",
    is_flag=True,
    help="For `static_resources` and `envoy --mode validate`: routes inside the listeners, endpoints inside the clusters, "
    "and a stand-in for every certificate that the proxy gets at run time.",
)
@click.option(
    "-o", "--output", type=click.Choice(["json", "yaml"]), default="yaml", show_default=True, help="How to print."
)
@click.pass_context
def compile_(
    context: click.Context,
    paths: Sequence[str],
    proxy: str | None,
    mode: str,
    address: str,
    slot: int,
    application: str,
    trust_domain: str,
    static: bool,
    output: str,
) -> None:
    """Print the listeners, clusters, routes and endpoints of one proxy in Envoy's JSON form.

    PATH is a file of documents, a directory of them, or - for standard input. What is not compiled is named on standard error."""
    loaded = load_paths(paths)
    if loaded.errors:
        for error in loaded.errors:
            click.echo(clean(str(error)), err=True)
        context.exit(1)
    resource = chosen_proxy(loaded.specs, proxy)
    mesh = Mesh.build(loaded.specs)
    placement = Placement(
        id="offline",
        host="offline",
        resource=resource,
        mode=Mode(mode),
        slot=slot,
        address=address,
        application=application,
    )
    compiled = Compiler().compile(mesh, placement, trust_domain)
    for line in remarks(compiled.notices, mesh.problems, resource.mesh):
        click.echo(clean(line), err=True)
    form = readable_snapshot(static_form(compiled.snapshot) if static else compiled.snapshot)
    if static:
        form = with_stand_ins(form, stand_in())
    if output == "json":
        click.echo(json.dumps(form, indent=2))
    else:
        click.echo(yaml.safe_dump(form, sort_keys=False, width=120), nl=False)


def chosen_proxy(specs: Iterable[Spec], wanted: str | None) -> Key:
    """The virtual node or gateway of that path; without a path the only one. Raises ProxyChoiceError, which lists what there is."""
    proxies = sorted((spec.key for spec in specs if spec.key.kind in _PROXIED), key=lambda key: key.path)
    listed = "; there are: " + ", ".join(key.path for key in proxies) if proxies else "; there is none"
    if wanted is None:
        if len(proxies) == 1:
            return proxies[0]
        raise ProxyChoiceError(f"--proxy must name one virtual node or virtual gateway{listed}")
    found = next((key for key in proxies if key.path == _canonical(wanted)), None)
    if found is None:
        raise ProxyChoiceError(f"there is no proxy {wanted}{listed}")
    return found


def _canonical(path: str) -> str:
    """Names may be written with or without percent-encoding."""
    try:
        return Key.parse(path).path
    except ValueError as error:
        raise ProxyChoiceError(str(error)) from error


def remarks(notices: Iterable[Notice], problems: Iterable[Problem], mesh: str) -> list[str]:
    """One line each, a thing that is both a notice and a problem once; problems of other meshes are not of concern here."""
    said = {(notice.resource, notice.path.removeprefix("spec.")): f"notice: {notice}" for notice in notices}
    for problem in problems:
        if problem.resource.mesh == mesh:
            said.setdefault((problem.resource, problem.path.removeprefix("spec.")), f"problem: {problem}")
    return [line for _, line in sorted(said.items(), key=lambda each: (each[0][0].path, each[0][1]))]
