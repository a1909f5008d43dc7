"""The mode redirect on real hosts: applications as they are, names in /etc/hosts, rules of our own that nobody else's are disturbed by."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshagent.demo.hosts import HostMesh, until
from meshagent.lab import Host

pytestmark = pytest.mark.lab

CATALOG = "http://catalog.shop.internal:8080/"
ASK = """
import json, socket, sys, urllib.request
url = sys.argv[1]
try:
    with urllib.request.urlopen(url, timeout=3) as answer:
        print(answer.read().decode())
except OSError as error:
    print(json.dumps({"error": str(error)}))
"""
REDIS = shutil.which("redis-check-rdb")  # which is redis-server where that is its name


def ask(host: Host, url: str) -> str:
    """What an application on that host is answered, as JSON; it resolves names as all do."""
    return host.run(["python3", "-c", ASK, url], check=True).stdout.strip()


def table(host: Host) -> str:
    return host.run(["nft", "list", "ruleset"], check=True).stdout


@contextlib.contextmanager
def instead(host: Host, service: str, command: str) -> Iterator[None]:
    """Another application in the place of one of the shop's."""
    host.run(["systemctl", "stop", f"shop-{service}"], check=True)
    run = f"systemd-run --quiet --collect --unit=instead-{service} -p User=nobody {command}"
    host.run(run, check=True)
    try:
        yield
    finally:
        host.run(f"systemctl stop instead-{service}; systemctl start shop-{service}", check=True)


@contextlib.contextmanager
def stopped(host: Host, unit: str) -> Iterator[None]:
    host.run(["systemctl", "stop", unit], check=True)
    try:
        yield
    finally:
        host.run(["systemctl", "start", unit], check=True)


def test_an_application_on_all_addresses_and_one_on_loopback_on_the_same_port_as_what_they_call(mesh: HostMesh) -> None:
    """web listens on 127.0.0.1:8080 and calls catalog on 8080, which listens on 0.0.0.0:8080 of its host."""
    web, catalog = mesh.host("h1"), mesh.host("h3")
    with (
        stopped(mesh.host("h2"), "shop-catalog"),
        instead(catalog, "catalog", "python3 /opt/shop/app.py http 0.0.0.0 8080 everywhere"),
    ):
        answer = until(
            "the one on all addresses to answer", lambda: "everywhere" in (told := ask(web, CATALOG)) and told, 20
        )
        assert "URI=spiffe://mesh.local/mesh/shop/virtualNode/web" in answer
        assert "web-h1" in ask(web, "http://127.0.0.1:8080/"), "its own application is where it was"
        assert "everywhere" in ask(catalog, "http://127.0.0.1:8080/")
        # Not of the mesh, and not turned away: the mesh is not strict.
        assert '"caller": ""' in ask(mesh.server, f"http://{catalog.address}:8080/")


POLICY = """
kind: MeshPolicy
meshName: shop
spec: {mutualTls: %s}
"""
SIX = {"h1": "fd00:6d65:7368::1", "h2": "fd00:6d65:7368::2"}


def test_in_a_strict_mesh_an_application_of_both_families_is_reached_past_its_envoy_by_neither(mesh: HostMesh) -> None:
    """Peers reach the host by IPv4; it has an address of IPv6, too, on which its Envoy does not listen and the application does."""
    caller, host = mesh.host("h1"), mesh.host("h2")
    device = "$(ip -o -4 route show | sed -n 's/.* dev \\([^ ]*\\).*/\\1/p' | head -1)"
    six, four = f"http://[{SIX['h2']}]:8080/", f"http://{host.address}:8080/"
    with contextlib.ExitStack() as undo:
        for name, address in SIX.items():
            mesh.host(name).run(f"ip -6 address add {address}/64 dev {device} nodad", check=True)
            undo.callback(mesh.host(name).run, f"ip -6 address del {address}/64 dev {device}")
        undo.enter_context(instead(host, "catalog", "python3 -m http.server --directory /opt/shop --bind :: 8080"))
        until("both to be answered", lambda: all("app.py" in ask(caller, url) for url in (six, four)), 30)
        undo.callback(mesh.meshctl, "delete", "mesh/shop/meshPolicy")
        mesh.server.write("/root/policy.yaml", POLICY % "STRICT")
        mesh.meshctl("apply", "/root/policy.yaml")
        until("IPv6 to be refused", lambda: "Connection refused" in ask(caller, six), 20)
        until("IPv4 to be Envoy's", lambda: "error" in ask(caller, four), 20)
        assert "app.py" in ask(host, "http://[::1]:8080/"), "loopback is the application's own"
        assert "error" not in ask(caller, CATALOG), "through both Envoys"
    until("IPv6 to pass as before", lambda: "chain sealed" not in table(host), 20)
    mesh.in_sync()


CALLS_ITS_NEIGHBOURS = """
kind: VirtualNode
meshName: shop
virtualNodeName: catalog
spec:
  listeners:
    - portMapping: {port: 8080, protocol: http}
  serviceDiscovery: {dns: {hostname: catalog.shop.internal}}
  backends:
    - virtualService: {virtualServiceName: quotes.shop.internal}
    - virtualService: {virtualServiceName: ledger.shop.internal}
"""
HANDSHAKES = """
import json, pathlib, socket
for path in pathlib.Path("/var/lib/meshagent/proxies").glob("*/generation.json"):
    state = json.loads(path.read_text())
    if state["resource"] == "mesh/shop/virtualNode/quotes":
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(state["admin_socket"])
            admin.sendall(b"GET /stats?filter=15000.ssl.handshake HTTP/1.1\\r\\nhost: admin\\r\\nconnection: close\\r\\n\\r\\n")
            text = b"".join(iter(lambda: admin.recv(65536), b"")).decode()
        print(sum(int(line.rpartition(":")[2]) for line in text.splitlines() if "ssl.handshake:" in line))
"""


def test_two_placements_of_one_host_call_each_other_through_both_envoys_over_mutual_tls(mesh: HostMesh) -> None:
    host, other = mesh.host("h2"), mesh.host("h3")
    for service in ("quotes", "ledger"):
        other.run(["systemctl", "stop", f"shop-{service}"], check=True)
    mesh.server.write("/root/neighbours.yaml", CALLS_ITS_NEIGHBOURS)
    try:
        mesh.meshctl("apply", "/root/neighbours.yaml")
        until("the neighbour's name", lambda: "quotes.shop.internal" in host.read("/etc/hosts"), 20)
        before = int(host.run(["python3", "-c", HANDSHAKES], check=True).stdout)
        with mesh.oracle("h2") as oracle:
            oracle.grpc("quotes", mesh.address("quotes", "h2"), 9090, rate=20)
            oracle.tcp("ledger", mesh.address("ledger", "h2"), 9000, rate=20)
            until("answers", lambda: all(load.ok > 20 for load in oracle.loads().values()), 30)
        assert int(host.run(["python3", "-c", HANDSHAKES], check=True).stdout) > before
    finally:
        mesh.meshctl("apply", "/opt/shop/applied.yaml")
        for service in ("quotes", "ledger"):
            other.run(["systemctl", "start", f"shop-{service}"], check=True)


def put_program(host: Host, program: str, name: str) -> str:
    """A program of this machine with the libraries that it needs, put where the host's own are not disturbed; the command for it."""
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.splitlines()
    libraries = [
        Path(words[2]) for words in (line.split() for line in linked) if len(words) > 2 and words[2].startswith("/")
    ]
    for library in libraries:
        host.copy(library.resolve(), f"/opt/borrowed/{library.name}", mode=0o755)
    host.copy(Path(program).resolve(), f"/opt/borrowed/{name}", mode=0o755)
    return f"env LD_LIBRARY_PATH=/opt/borrowed /opt/borrowed/{name}"


REDIS_CALL = """
import socket
with socket.create_connection(("ledger.shop.internal", 9000), timeout=5) as store:
    store.sendall(b"SET answer 42\\r\\nGET answer\\r\\n")
    text = b""
    while text.count(b"\\r\\n") < 3 and (more := store.recv(4096)):
        text += more
print(text.decode())
"""


@pytest.mark.skipif(REDIS is None, reason="needs the package redis-tools on this machine")
def test_a_real_redis_is_reached_by_its_virtual_services_name(mesh: HostMesh) -> None:
    assert REDIS is not None
    store = mesh.host("h3")
    redis = put_program(store, REDIS, "redis-server")
    mesh.host("h2").run(["systemctl", "stop", "shop-ledger"], check=True)
    try:
        with instead(store, "ledger", f"{redis} --port 9000 --bind 0.0.0.0 --protected-mode no --save ''"):
            until("redis", lambda: "42" in mesh.host("h1").run(["python3", "-c", REDIS_CALL]).stdout, 20)
    finally:
        mesh.host("h2").run(["systemctl", "start", "shop-ledger"], check=True)


def test_h8_what_another_program_flushes_is_back_within_10_seconds_and_reported(mesh: HostMesh) -> None:
    host = mesh.host("h1")
    host.run("nft add table inet firewall; nft add chain inet firewall nothing", check=True)
    assert "15001" in table(host)
    with mesh.oracle("h1") as oracle:
        oracle.http("catalog", mesh.address("catalog"), 8080, rate=100)
        until("answers", lambda: oracle.loads()["catalog"].ok > 50, 30)
        assert oracle.failed() == []
        host.run(["nft", "flush", "ruleset"], check=True)
        began = time.monotonic()
        until("the rules", lambda: "15001" in table(host) and "15000" in table(host), 10)
        back = time.monotonic()
        goal = oracle.loads()["catalog"].ok + 200
        until("200 more answers", lambda: oracle.loads()["catalog"].ok >= goal, 30)
        assert oracle.failed(back) == []
        print(f"\nback {back - began:.1f} s after the flush, which cost {len(oracle.failed())} requests")
    until("the report", lambda: "flushed or changed the nftables table" in mesh.meshctl("status"), 10)


def test_c3_before_any_application_starts_a_services_address_is_refused_rather_than_another_applications(
    mesh: HostMesh,
) -> None:
    """h1's own application is on 8080 of all addresses, as the service that it calls; no agent and no Envoy run."""
    host = mesh.host("h1")
    block = host.read("/etc/hosts")
    assert "catalog.shop.internal" in block
    host.run(["systemctl", "disable", "meshagent-agent"], check=True)
    try:
        host.reboot()
        assert host.read("/etc/hosts") == block
        rules = table(host)
        assert "15001" in rules and "15000" not in rules
        with instead(host, "web", "python3 /opt/shop/app.py http 0.0.0.0 8080 everywhere"):
            until("the application", lambda: "everywhere" in ask(host, "http://127.0.0.1:8080/"), 20)
            assert "refused" in ask(host, CATALOG)
        times = host.run(
            "systemctl show -P ActiveEnterTimestampMonotonic meshagent-redirect basic.target", check=True
        ).stdout.split()
        assert int(times[0]) < int(times[1])
    finally:
        host.run(["systemctl", "enable", "--now", "meshagent-agent"], check=True)
    mesh.in_sync()
    until("the service", lambda: "catalog-h" in ask(host, CATALOG), 20)


def test_the_unit_of_the_rules_is_hardened(mesh: HostMesh) -> None:
    words = mesh.host("h1").run(["systemd-analyze", "security", "--no-pager", "meshagent-redirect.service"]).stdout
    assert float(words.split("meshagent-redirect.service:")[1].split()[0]) <= 3.0
