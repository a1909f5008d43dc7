"""Who speaks TLS to whom, and with which keys.

What a spec says is obeyed. Where neither side says anything, mutual TLS of the mesh: clients speak it to endpoints that have a lease
(told by their metadata), http, http2 and grpc listeners take it beside plaintext; in a strict mesh there is nothing else. The mesh's keys
are named by paths relative to Envoy's working directory, so that the same bytes serve every proxy. Knows specs and messages, no listeners
or clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshagent.envoy import names
from meshagent.envoy.notices import Notice
from meshagent.envoy.protos import (
    any_of,
    config_source,
    core,
    duration,
    grpc_service,
    raw_buffer,
    string_matcher,
    struct_pb2,
    tls,
)
from meshagent.envoy.protos import cluster as cluster_pb
from meshagent.envoy.protos import tls_common as common
from meshagent.envoy.protos import tls_secret as secret
from meshagent.mesh.graph import View
from meshagent.specs.fields import PortProtocol
from meshagent.specs.keys import Key, Kind, mesh_key
from meshagent.specs.listeners import Listener
from meshagent.specs.nodes import VirtualNodeSpec
from meshagent.specs.policies import MutualTls
from meshagent.specs.tls import ClientPolicyTls, ListenerTls, TlsMode

CERTIFICATE_FILE = "tls/sds-certificate.yaml"
TRUST_FILE = "tls/sds-validation.yaml"
WATCHED = "tls"
CERTIFICATE_SECRET = "default"  # noqa: S105 - a secret's name
TRUST_SECRET = "trust"  # noqa: S105 - a secret's name

# Endpoints whose agent vouches for them carry this in the metadata that transport_socket_matches looks at.
MATCH_FILTER = "envoy.transport_socket_match"
MATCH_KEY = "meshagent"
MATCH_MUTUAL_TLS = "mtls"

ALPN = {
    PortProtocol.HTTP: ("http/1.1",),
    PortProtocol.HTTP2: ("h2",),
    PortProtocol.GRPC: ("h2",),
    PortProtocol.TCP: (),
}
_ACM_INSTEAD = "certificates of ACM stay in AWS: the mesh's own authority stands in for it"


def is_strict(view: View, mesh: str) -> bool:
    spec = view.spec(Key(mesh, Kind.MESH_POLICY, mesh))
    return spec is not None and spec.body.mutual_tls is MutualTls.STRICT


def spiffe_id(trust_domain: str, resource: Key) -> str:
    return f"spiffe://{trust_domain}/{resource.path}"


def endpoint_metadata() -> Any:
    """What the load assignments carry for endpoints that speak the mesh's mutual TLS."""
    return core.Metadata(filter_metadata={MATCH_FILTER: _match()})


# --- The server's side ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accepts:
    """What a listener takes. `tls` is a transport socket or None; `client_certificates` when TLS asks for them."""

    tls: Any
    plaintext: bool
    client_certificates: bool = False

    @property
    def both(self) -> bool:
        return self.tls is not None and self.plaintext


PLAINTEXT = Accepts(tls=None, plaintext=True)


def node_accepts(view: View, node: Key, spec: ListenerTls | None, protocol: PortProtocol, trust_domain: str) -> Accepts:
    if spec is not None:
        return _as_specified(spec, node.mesh, protocol, trust_domain)
    strict = is_strict(view, node.mesh)
    if protocol is PortProtocol.TCP and not strict:
        return PLAINTEXT
    context = _common(protocol, certificate=_own_certificate())
    _trust_mesh(context, _uri(prefix=f"spiffe://{trust_domain}/{mesh_key(node.mesh).path}/"))
    return Accepts(_downstream(context, client_certificates=True), plaintext=not strict, client_certificates=True)


def takes_plaintext(view: View, node: Key, listener: Listener) -> bool:
    """Whether a listener of the node takes connections that are not TLS."""
    return node_accepts(view, node, listener.tls, listener.port_mapping.protocol, "").plaintext


def gateway_accepts(gateway: Key, spec: ListenerTls | None, protocol: PortProtocol, trust_domain: str) -> Accepts:
    """A gateway's callers are outside the mesh and have no identity in it: it takes what its spec says, else plaintext."""
    return PLAINTEXT if spec is None else _as_specified(spec, gateway.mesh, protocol, trust_domain)


def listener_notices(resource: Key, path: str, spec: ListenerTls | None) -> tuple[Notice, ...]:
    """`path` is the listener's: spec.listeners[0]."""
    if spec is None or spec.mode is TlsMode.DISABLED or spec.certificate.acm is None:
        return ()
    return (
        Notice(
            resource,
            f"{path}.tls.certificate.acm",
            f"{_ACM_INSTEAD}; the listener serves the proxy's certificate of the mesh",
        ),
    )


def _as_specified(spec: ListenerTls, mesh: str, protocol: PortProtocol, trust_domain: str) -> Accepts:
    if spec.mode is TlsMode.DISABLED:
        return PLAINTEXT
    context = _common(protocol, certificate=_certificate(spec.certificate) or _own_certificate())
    if spec.validation is not None:
        sans = spec.validation.subject_alternative_names
        _trust(context, spec.validation.trust, [_exact(each) for each in sans.match.exact] if sans else [])
    asks = spec.validation is not None
    return Accepts(_downstream(context, asks), spec.mode is TlsMode.PERMISSIVE, client_certificates=asks)


def _downstream(context: Any, client_certificates: bool) -> Any:
    message = tls.DownstreamTlsContext(common_tls_context=context)
    if client_certificates:
        message.require_client_certificate.value = True
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=any_of(message))


# --- The client's side ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Speaks:
    """How a cluster's endpoints are spoken to: by one transport socket for all (None is plaintext), or by `matches` on their metadata."""

    socket: Any = None
    matches: tuple[Any, ...] = ()


def client_speaks(
    view: View, node: Key, port: int, protocol: PortProtocol, policy: ClientPolicyTls | None, trust_domain: str
) -> Speaks:
    """The client's policy counts where it is enforced for the port; without one, what the server's listener says decides."""
    spec = view.spec(node)
    body: VirtualNodeSpec | None = spec.body if spec else None
    server = next((each.tls for each in body.listeners if each.port_mapping.port == port), None) if body else None
    strict = is_strict(view, node.mesh)
    offers_tls = server is not None and server.mode is not TlsMode.DISABLED
    if policy is not None and policy.ports and port not in policy.ports:
        policy = None
    if policy is not None and (policy.enforce is not False or offers_tls):
        return Speaks(_by_policy(policy, node, discovery_name(body), protocol, trust_domain))
    if offers_tls:
        assert server is not None
        # App Mesh: without a policy a file's certificate is not validated, ACM's is, against its own authority.
        if server.certificate.acm is not None:
            return Speaks(_mutual(node, protocol, trust_domain, certificate=False))
        return Speaks(_upstream(_common(protocol), discovery_name(body)))
    if server is not None:
        return Speaks()
    if strict:
        return Speaks(_mutual(node, protocol, trust_domain))
    if policy is not None or protocol is PortProtocol.TCP:
        return Speaks()
    return Speaks(matches=_by_lease(_mutual(node, protocol, trust_domain)))


def policy_notices(client: Key, path: str, policy: ClientPolicyTls | None) -> tuple[Notice, ...]:
    """`path` is the clientPolicy's: spec.backendDefaults.clientPolicy."""
    if policy is None or policy.validation.trust.acm is None:
        return ()
    message = f"{_ACM_INSTEAD}; servers must show the mesh's certificate of the virtual node that is meant"
    return (Notice(client, f"{path}.tls.validation.trust.acm", message),)


def discovery_name(body: VirtualNodeSpec | None) -> str:
    """The name that a server's certificate must carry where a client's policy names none; "" when there is no service discovery."""
    discovery = body.service_discovery if body else None
    if discovery is None:
        return ""
    if discovery.dns is not None:
        return discovery.dns.hostname
    assert discovery.aws_cloud_map is not None
    return f"{discovery.aws_cloud_map.service_name}.{discovery.aws_cloud_map.namespace_name}"


def _by_policy(policy: ClientPolicyTls, node: Key, name: str, protocol: PortProtocol, trust_domain: str) -> Any:
    certificate = _certificate(policy.certificate) if policy.certificate is not None else None
    context = _common(protocol, certificate=certificate)
    if policy.validation.trust.acm is not None:
        _trust_mesh(context, _uri(exact=spiffe_id(trust_domain, node)))
        return _upstream(context, name)
    sans = policy.validation.subject_alternative_names
    # App Mesh takes an empty list: it counts as none, and the server is still asked for its discovery name.
    wanted = (sans.match.exact if sans else ()) or ((name,) if name else ())
    _trust(context, policy.validation.trust, [_exact(each) for each in wanted])
    return _upstream(context, name)


def _mutual(node: Key, protocol: PortProtocol, trust_domain: str, certificate: bool = True) -> Any:
    context = _common(protocol, certificate=_own_certificate() if certificate else None)
    _trust_mesh(context, _uri(exact=spiffe_id(trust_domain, node)))
    return _upstream(context, "")


def _by_lease(mutual: Any) -> tuple[Any, ...]:
    match = cluster_pb.Cluster.TransportSocketMatch
    plain = core.TransportSocket(name="envoy.transport_sockets.raw_buffer", typed_config=any_of(raw_buffer.RawBuffer()))
    return (
        match(name="mtls", match=_match(), transport_socket=mutual),
        match(name="plaintext", match=struct_pb2.Struct(), transport_socket=plain),
    )


def _upstream(context: Any, server_name: str) -> Any:
    message = tls.UpstreamTlsContext(common_tls_context=context, sni=server_name)
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=any_of(message))


def _match() -> Any:
    return struct_pb2.Struct(fields={MATCH_KEY: struct_pb2.Value(string_value=MATCH_MUTUAL_TLS)})


# --- Keys and trust -------------------------------------------------------------------------------------------------------------


def _common(protocol: PortProtocol, certificate: Any = None) -> Any:
    """`certificate` is one of _own_certificate and _certificate, or None."""
    context = tls.CommonTlsContext(alpn_protocols=ALPN[protocol])
    if isinstance(certificate, secret.SdsSecretConfig):
        context.tls_certificate_sds_secret_configs.append(certificate)
    elif certificate is not None:
        context.tls_certificates.append(certificate)
    return context


def _certificate(certificate: Any) -> Any:
    """A ListenerTlsCertificate's or ClientTlsCertificate's; None for ACM's. Files are named in place: Envoy refuses missing ones."""
    if certificate.file is not None:
        return common.TlsCertificate(
            certificate_chain=core.DataSource(filename=certificate.file.certificate_chain),
            private_key=core.DataSource(filename=certificate.file.private_key),
        )
    return _provided(certificate.sds.secret_name) if certificate.sds is not None else None


def _own_certificate() -> Any:
    return _from_file(CERTIFICATE_SECRET, CERTIFICATE_FILE)


def _trust(context: Any, trust: Any, sans: list[Any]) -> None:
    if trust.file is not None:
        validation = context.validation_context
        validation.trusted_ca.filename = trust.file.certificate_chain
    else:
        combined = context.combined_validation_context
        combined.validation_context_sds_secret_config.CopyFrom(_provided(trust.sds.secret_name))
        combined.default_validation_context.SetInParent()
        validation = combined.default_validation_context
    validation.match_typed_subject_alt_names.extend(sans)


def _trust_mesh(context: Any, san: Any) -> None:
    combined = context.combined_validation_context
    combined.default_validation_context.match_typed_subject_alt_names.append(san)
    combined.validation_context_sds_secret_config.CopyFrom(_from_file(TRUST_SECRET, TRUST_FILE))


def _from_file(name: str, path: str) -> Any:
    source = config_source.ConfigSource(
        path_config_source=config_source.PathConfigSource(
            path=path, watched_directory=core.WatchedDirectory(path=WATCHED)
        ),
        resource_api_version=config_source.ApiVersion.V3,
        initial_fetch_timeout=duration(0),
    )
    return secret.SdsSecretConfig(name=name, sds_config=source)


def _provided(name: str) -> Any:
    """A secret from the SDS provider that the host's operator runs beside Envoy."""
    service = grpc_service.GrpcService(envoy_grpc=grpc_service.GrpcService.EnvoyGrpc(cluster_name=names.SDS_CLUSTER))
    api = config_source.ApiConfigSource(
        api_type=config_source.ApiConfigSource.GRPC,
        transport_api_version=config_source.ApiVersion.V3,
        grpc_services=[service],
    )
    source = config_source.ConfigSource(api_config_source=api, resource_api_version=config_source.ApiVersion.V3)
    return secret.SdsSecretConfig(name=name, sds_config=source)


def _exact(name: str) -> Any:
    """App Mesh's names are FQDNs or URIs."""
    kind = common.SubjectAltNameMatcher.URI if "://" in name else common.SubjectAltNameMatcher.DNS
    return common.SubjectAltNameMatcher(san_type=kind, matcher=string_matcher.StringMatcher(exact=name))


def _uri(**matcher: str) -> Any:
    return common.SubjectAltNameMatcher(
        san_type=common.SubjectAltNameMatcher.URI, matcher=string_matcher.StringMatcher(**matcher)
    )
