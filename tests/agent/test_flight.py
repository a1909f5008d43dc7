"""What Envoy's gauges say is in flight."""

from __future__ import annotations

from meshagent.agent.flight import Flight, cut_words, flight_of

STATS = """http.admin.downstream_rq_active: 1
http.egress.downstream_rq_active: 5
http.ingress.downstream_cx_active: 4
http.ingress.downstream_rq_active: 2
http.ingress.grpc.9090.downstream_cx_active: 1
http.ingress.grpc.9090.downstream_rq_active: 1
cluster.cds_ingress_shop_ledger_tcp_9000.upstream_cx_active: 3
cluster.cds_ingress_shop_web_http_8080.upstream_cx_active: 9
cluster.cds_egress_shop_ledger_tcp_9000.upstream_cx_active: 6
cluster.cds_egress_shop_mesh-allow-all.upstream_cx_active: 1
cluster.relay.upstream_cx_active: 1
"""


def test_what_is_in_flight_is_what_came_in_from_others() -> None:
    assert flight_of(STATS) == Flight(active=6, connections=8)
    assert flight_of("") == Flight(0, 0)
    assert flight_of("http.ingress.downstream_rq_active: " + "9" * 5000) == Flight(0, 0)


def test_a_tcp_connection_is_in_flight_for_as_long_as_it_lives() -> None:
    assert flight_of("cluster.cds_ingress_shop_ledger_tcp_9000.upstream_cx_active: 1") == Flight(1, 1)


def test_what_an_end_cuts_is_told_by_where_it_goes() -> None:
    assert cut_words(STATS) == "6 calls that came in and 12 calls that went out outlived the drain, and were cut"
    one = "cluster.cds_egress_shop_ledger_tcp_9000.upstream_cx_active: 1"
    assert cut_words(one) == "1 call that went out outlived the drain, and was cut"


def test_idle_connections_are_no_loss() -> None:
    assert cut_words("http.ingress.downstream_cx_active: 4\nhttp.ingress.downstream_rq_active: 0\n") == ""
    assert cut_words("") == ""
