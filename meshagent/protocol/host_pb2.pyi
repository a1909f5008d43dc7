from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Health(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEALTH_UNSPECIFIED: _ClassVar[Health]
    HEALTHY: _ClassVar[Health]
    UNHEALTHY: _ClassVar[Health]
    DRAINING: _ClassVar[Health]
HEALTH_UNSPECIFIED: Health
HEALTHY: Health
UNHEALTHY: Health
DRAINING: Health

class Stamp(_message.Message):
    __slots__ = ("lineage", "revision", "reason")
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lineage: str
    revision: int
    reason: str
    def __init__(self, lineage: _Optional[str] = ..., revision: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Observed(_message.Message):
    __slots__ = ("hello", "placements", "held", "held_reason", "host_certificate_expires", "facts")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    HELD_REASON_FIELD_NUMBER: _ClassVar[int]
    HOST_CERTIFICATE_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    placements: _containers.RepeatedCompositeFieldContainer[PlacementStatus]
    held: Stamp
    held_reason: str
    host_certificate_expires: int
    facts: Facts
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., placements: _Optional[_Iterable[_Union[PlacementStatus, _Mapping]]] = ..., held: _Optional[_Union[Stamp, _Mapping]] = ..., held_reason: _Optional[str] = ..., host_certificate_expires: _Optional[int] = ..., facts: _Optional[_Union[Facts, _Mapping]] = ...) -> None: ...

class Facts(_message.Message):
    __slots__ = ("os", "os_version", "kernel", "arch", "systemd", "booted", "cpus", "memory_total", "memory_available", "load", "disks", "addresses", "instance_id", "instance_type", "zone", "region")
    OS_FIELD_NUMBER: _ClassVar[int]
    OS_VERSION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    ARCH_FIELD_NUMBER: _ClassVar[int]
    SYSTEMD_FIELD_NUMBER: _ClassVar[int]
    BOOTED_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    DISKS_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_TYPE_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    os: str
    os_version: str
    kernel: str
    arch: str
    systemd: str
    booted: int
    cpus: int
    memory_total: int
    memory_available: int
    load: float
    disks: _containers.RepeatedCompositeFieldContainer[Disk]
    addresses: _containers.RepeatedScalarFieldContainer[str]
    instance_id: str
    instance_type: str
    zone: str
    region: str
    def __init__(self, os: _Optional[str] = ..., os_version: _Optional[str] = ..., kernel: _Optional[str] = ..., arch: _Optional[str] = ..., systemd: _Optional[str] = ..., booted: _Optional[int] = ..., cpus: _Optional[int] = ..., memory_total: _Optional[int] = ..., memory_available: _Optional[int] = ..., load: _Optional[float] = ..., disks: _Optional[_Iterable[_Union[Disk, _Mapping]]] = ..., addresses: _Optional[_Iterable[str]] = ..., instance_id: _Optional[str] = ..., instance_type: _Optional[str] = ..., zone: _Optional[str] = ..., region: _Optional[str] = ...) -> None: ...

class Disk(_message.Message):
    __slots__ = ("path", "total", "used_percent", "read_only")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    USED_PERCENT_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    path: str
    total: int
    used_percent: int
    read_only: bool
    def __init__(self, path: _Optional[str] = ..., total: _Optional[int] = ..., used_percent: _Optional[int] = ..., read_only: _Optional[bool] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "agent_version", "boot_id", "address", "first_slot", "placements", "held", "labels")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    FIRST_SLOT_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    agent_version: str
    boot_id: str
    address: str
    first_slot: int
    placements: _containers.RepeatedCompositeFieldContainer[WantedPlacement]
    held: Stamp
    labels: _containers.ScalarMap[str, str]
    def __init__(self, protocol: _Optional[int] = ..., agent_version: _Optional[str] = ..., boot_id: _Optional[str] = ..., address: _Optional[str] = ..., first_slot: _Optional[int] = ..., placements: _Optional[_Iterable[_Union[WantedPlacement, _Mapping]]] = ..., held: _Optional[_Union[Stamp, _Mapping]] = ..., labels: _Optional[_Mapping[str, str]] = ...) -> None: ...

class WantedPlacement(_message.Message):
    __slots__ = ("resource", "mode", "application", "ipv6")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    IPV6_FIELD_NUMBER: _ClassVar[int]
    resource: str
    mode: str
    application: str
    ipv6: bool
    def __init__(self, resource: _Optional[str] = ..., mode: _Optional[str] = ..., application: _Optional[str] = ..., ipv6: _Optional[bool] = ...) -> None: ...

class PlacementStatus(_message.Message):
    __slots__ = ("id", "health", "health_detail", "envoy_state", "envoy_version", "envoy_pid", "envoy_restarts", "certificate_serial", "certificate_expires", "held", "held_reason", "rejections", "generation", "wanted_version", "upgrade_failure", "envoy_cpu", "envoy_memory", "envoy_open_files", "drain", "drained", "traffic_detail", "envoy_order")
    ID_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    HEALTH_DETAIL_FIELD_NUMBER: _ClassVar[int]
    ENVOY_STATE_FIELD_NUMBER: _ClassVar[int]
    ENVOY_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENVOY_PID_FIELD_NUMBER: _ClassVar[int]
    ENVOY_RESTARTS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_SERIAL_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    HELD_REASON_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    WANTED_VERSION_FIELD_NUMBER: _ClassVar[int]
    UPGRADE_FAILURE_FIELD_NUMBER: _ClassVar[int]
    ENVOY_CPU_FIELD_NUMBER: _ClassVar[int]
    ENVOY_MEMORY_FIELD_NUMBER: _ClassVar[int]
    ENVOY_OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_DETAIL_FIELD_NUMBER: _ClassVar[int]
    ENVOY_ORDER_FIELD_NUMBER: _ClassVar[int]
    id: str
    health: Health
    health_detail: str
    envoy_state: str
    envoy_version: str
    envoy_pid: int
    envoy_restarts: int
    certificate_serial: str
    certificate_expires: int
    held: Stamp
    held_reason: str
    rejections: _containers.RepeatedCompositeFieldContainer[Rejection]
    generation: int
    wanted_version: str
    upgrade_failure: str
    envoy_cpu: float
    envoy_memory: int
    envoy_open_files: int
    drain: int
    drained: bool
    traffic_detail: str
    envoy_order: int
    def __init__(self, id: _Optional[str] = ..., health: _Optional[_Union[Health, str]] = ..., health_detail: _Optional[str] = ..., envoy_state: _Optional[str] = ..., envoy_version: _Optional[str] = ..., envoy_pid: _Optional[int] = ..., envoy_restarts: _Optional[int] = ..., certificate_serial: _Optional[str] = ..., certificate_expires: _Optional[int] = ..., held: _Optional[_Union[Stamp, _Mapping]] = ..., held_reason: _Optional[str] = ..., rejections: _Optional[_Iterable[_Union[Rejection, _Mapping]]] = ..., generation: _Optional[int] = ..., wanted_version: _Optional[str] = ..., upgrade_failure: _Optional[str] = ..., envoy_cpu: _Optional[float] = ..., envoy_memory: _Optional[int] = ..., envoy_open_files: _Optional[int] = ..., drain: _Optional[int] = ..., drained: _Optional[bool] = ..., traffic_detail: _Optional[str] = ..., envoy_order: _Optional[int] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("type_url", "name", "version", "words")
    TYPE_URL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    type_url: str
    name: str
    version: str
    words: str
    def __init__(self, type_url: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., words: _Optional[str] = ...) -> None: ...

class Desired(_message.Message):
    __slots__ = ("stamp", "placements", "lease_seconds", "trust_bundle", "replaces", "accept", "servers", "problems", "envoy")
    STAMP_FIELD_NUMBER: _ClassVar[int]
    PLACEMENTS_FIELD_NUMBER: _ClassVar[int]
    LEASE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    REPLACES_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    SERVERS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    ENVOY_FIELD_NUMBER: _ClassVar[int]
    stamp: Stamp
    placements: _containers.RepeatedCompositeFieldContainer[Placement]
    lease_seconds: int
    trust_bundle: str
    replaces: _containers.RepeatedScalarFieldContainer[str]
    accept: bool
    servers: _containers.RepeatedScalarFieldContainer[str]
    problems: _containers.RepeatedCompositeFieldContainer[Problem]
    envoy: EnvoyVersion
    def __init__(self, stamp: _Optional[_Union[Stamp, _Mapping]] = ..., placements: _Optional[_Iterable[_Union[Placement, _Mapping]]] = ..., lease_seconds: _Optional[int] = ..., trust_bundle: _Optional[str] = ..., replaces: _Optional[_Iterable[str]] = ..., accept: _Optional[bool] = ..., servers: _Optional[_Iterable[str]] = ..., problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., envoy: _Optional[_Union[EnvoyVersion, _Mapping]] = ...) -> None: ...

class EnvoyVersion(_message.Message):
    __slots__ = ("version", "url", "sha256", "number")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    version: str
    url: str
    sha256: str
    number: int
    def __init__(self, version: _Optional[str] = ..., url: _Optional[str] = ..., sha256: _Optional[str] = ..., number: _Optional[int] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("id", "resource", "mode", "slot", "address", "application", "names", "probes", "ports", "drain", "drain_seen", "strict", "tls_ports")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    DRAIN_SEEN_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    TLS_PORTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    resource: str
    mode: str
    slot: int
    address: str
    application: str
    names: _containers.RepeatedCompositeFieldContainer[ServiceName]
    probes: _containers.RepeatedCompositeFieldContainer[Probe]
    ports: _containers.RepeatedScalarFieldContainer[int]
    drain: bool
    drain_seen: int
    strict: bool
    tls_ports: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[str] = ..., resource: _Optional[str] = ..., mode: _Optional[str] = ..., slot: _Optional[int] = ..., address: _Optional[str] = ..., application: _Optional[str] = ..., names: _Optional[_Iterable[_Union[ServiceName, _Mapping]]] = ..., probes: _Optional[_Iterable[_Union[Probe, _Mapping]]] = ..., ports: _Optional[_Iterable[int]] = ..., drain: _Optional[bool] = ..., drain_seen: _Optional[int] = ..., strict: _Optional[bool] = ..., tls_ports: _Optional[_Iterable[int]] = ...) -> None: ...

class ServiceName(_message.Message):
    __slots__ = ("service", "address")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    service: str
    address: str
    def __init__(self, service: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Probe(_message.Message):
    __slots__ = ("port", "protocol", "path")
    PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    port: int
    protocol: str
    path: str
    def __init__(self, port: _Optional[int] = ..., protocol: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("resource", "words")
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    resource: str
    words: str
    def __init__(self, resource: _Optional[str] = ..., words: _Optional[str] = ...) -> None: ...

class CheckRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckResponse(_message.Message):
    __slots__ = ("now", "version")
    NOW_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    now: float
    version: str
    def __init__(self, now: _Optional[float] = ..., version: _Optional[str] = ...) -> None: ...

class SignRequest(_message.Message):
    __slots__ = ("csr", "placement")
    CSR_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    placement: str
    def __init__(self, csr: _Optional[bytes] = ..., placement: _Optional[str] = ...) -> None: ...

class SignResponse(_message.Message):
    __slots__ = ("chain", "trust_bundle")
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TRUST_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    chain: bytes
    trust_bundle: bytes
    def __init__(self, chain: _Optional[bytes] = ..., trust_bundle: _Optional[bytes] = ...) -> None: ...

class SavedSnapshot(_message.Message):
    __slots__ = ("stamp", "resources")
    STAMP_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    stamp: Stamp
    resources: _containers.RepeatedCompositeFieldContainer[SavedResource]
    def __init__(self, stamp: _Optional[_Union[Stamp, _Mapping]] = ..., resources: _Optional[_Iterable[_Union[SavedResource, _Mapping]]] = ...) -> None: ...

class SavedResource(_message.Message):
    __slots__ = ("type_url", "name", "version", "body")
    TYPE_URL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    type_url: str
    name: str
    version: str
    body: bytes
    def __init__(self, type_url: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...
