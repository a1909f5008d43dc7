"""Whether a snapshot is closed: every name that one of its resources refers to is in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from meshagent.envoy import names
from meshagent.envoy.protos import cluster, hcm, tcp_proxy
from meshagent.envoy.routes import clusters_named
from meshagent.envoy.static import message_of
from meshagent.xds.snapshot import CLUSTER, ENDPOINT, LISTENER, ROUTE, Snapshot


def missing_names(snapshot: Snapshot) -> set[tuple[str, str]]:
    """(type URL, name) of all that is referred to and not there, and of load assignments that no cluster asks for."""
    wanted = set(_wanted(snapshot))
    there = {(type_url, name) for type_url, found in snapshot.resources.items() for name in found}
    orphans = {(type_url, name) for type_url, name in there if type_url in (ENDPOINT, ROUTE, CLUSTER)} - wanted
    return (wanted - there) | orphans


def _wanted(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for resource in snapshot.of(CLUSTER).values():
        message = message_of(resource)
        if message.type == cluster.Cluster.EDS:
            yield ENDPOINT, message.name
        for locality in message.load_assignment.endpoints:
            for member in locality.lb_endpoints:
                inside = member.endpoint.address.envoy_internal_address.server_listener_name
                if inside:
                    yield LISTENER, inside
    for resource in snapshot.of(ROUTE).values():
        yield from ((CLUSTER, name) for name in clusters_named(message_of(resource)))
    for resource in snapshot.of(LISTENER).values():
        message = message_of(resource)
        for chain in (*message.filter_chains, message.default_filter_chain):
            for each in chain.filters:
                yield from _wanted_by_filter(each)


def _wanted_by_filter(each: Any) -> Iterator[tuple[str, str]]:
    manager, proxy = hcm.HttpConnectionManager(), tcp_proxy.TcpProxy()
    if each.typed_config.Unpack(manager):
        yield ROUTE, manager.rds.route_config_name
        return
    assert each.typed_config.Unpack(proxy)
    named = [proxy.cluster] if proxy.cluster else [one.name for one in proxy.weighted_clusters.clusters]
    yield from ((CLUSTER, name) for name in named if name != names.SDS_CLUSTER)
