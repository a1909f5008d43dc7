"""intercept: what an application calls that is no service of the mesh, by the mesh's egressFilter.

ALLOW_ALL: it goes where it was meant to, untouched, and is counted under App Mesh's name. DROP_ALL, App Mesh's default: it is closed, but
for AWS's own endpoints, which App Mesh let through always: told by the name that TLS asks for, on port 443.
"""

from __future__ import annotations

from meshagent.envoy import names
from meshagent.envoy.clusters import pass_through_cluster
from meshagent.envoy.endpoints import socket_address
from meshagent.envoy.filters import tcp_filter
from meshagent.envoy.listeners import EGRESS_STATS, Part, inspecting_only
from meshagent.envoy.memo import Digested, Reading
from meshagent.envoy.protos import bytes_of, listener, listener_components, uint32
from meshagent.specs.keys import mesh_key
from meshagent.specs.meshes import EgressFilterType

_AWS_PORT, _AWS_NAMES = 443, ("*.amazonaws.com", "*.amazonaws.com.cn")


def beyond_the_mesh(reading: Reading, mesh: str, port: int, ipv6: bool, logging: Digested | None) -> Part:
    """What the one egress listener, on `port`, has for connections to what is no backend. `ipv6`: it takes those of IPv6, too."""
    spec = reading.spec(mesh_key(mesh))
    chosen = spec.body.egress_filter if spec is not None else None
    cluster = reading.once(pass_through_cluster, mesh)
    through = listener_components.FilterChain(filters=[tcp_filter(EGRESS_STATS, [(cluster.name, 1)], 0, logging)])
    message = listener.Listener()
    if ipv6:
        message.additional_addresses.add(address=socket_address("::1", port))
    if chosen is not None and chosen.type is EgressFilterType.ALLOW_ALL:
        through.name = names.ALLOWED
        message.default_filter_chain.CopyFrom(through)
    else:
        through.name = names.ALLOWED_AWS
        through.filter_chain_match.destination_port.CopyFrom(uint32(_AWS_PORT))
        through.filter_chain_match.server_names.extend(_AWS_NAMES)
        message.filter_chains.append(through)
        message.listener_filters.append(inspecting_only(_AWS_PORT))
    return Part((cluster,), (), (bytes_of(message),))
