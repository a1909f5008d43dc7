"""meshctl drain and undrain: whom they ask for, and what they wait for."""

from __future__ import annotations

from typing import Any

import pytest

from meshagent.cli import drain
from tests.cli.conftest import Run
from tests.cli.fake_server import Call, FakeServer


def proxy(id_: str, **more: Any) -> dict[str, Any]:
    resource = "mesh/shop/virtualNode/web"
    return {
        "proxy": id_,
        "resource": resource,
        "host": "a",
        "connected": True,
        "drain": "draining",
        "healthDetail": "",
        **more,
    }


def only(name: str) -> Any:
    """Answers for one host or proxy of that name."""

    def answer(call: Call) -> tuple[int, Any]:
        if name in (call.body.get("host"), call.body.get("proxy")):
            return 200, {"host": "a", "drained": True, "proxies": ["p", "q"]}
        return 404, {"message": "there is no such thing"}

    return answer


def endpoint(proxy: str, health: str = "healthy", node: str = "mesh/shop/virtualNode/web") -> dict[str, Any]:
    return {"node": node, "proxy": proxy, "health": health}


def test_a_name_is_a_hosts_or_a_proxys(online: Run, server: FakeServer) -> None:
    server.answers["POST /v1/drain"] = only("a")
    server.answer("GET /v1/endpoints", {"endpoints": []})
    assert online("drain", "a").stdout == "a drains: 2 proxies\n"
    server.answers["POST /v1/undrain"] = lambda call: (
        only("p")(call) if "proxy" in call.body else (404, {"message": "no"})
    )
    assert online("undrain", "p").stdout == "p is back: 2 proxies\n"
    assert "there is no host and no proxy 'x'" in online("drain", "x").stderr
    asked = [call.body for call in server.calls if call.method == "POST"]
    assert asked[:3] == [{"host": "a"}, {"host": "p"}, {"proxy": "p"}]


def test_who_would_be_sent_requests_all_the_same_is_warned_of(online: Run, server: FakeServer) -> None:
    server.answers["POST /v1/drain"] = only("a")
    quotes = "mesh/shop/virtualNode/quotes"
    enough = [endpoint("p"), endpoint("r"), endpoint("s", "unhealthy", quotes), endpoint("t", "healthy", quotes)]
    server.answer("GET /v1/endpoints", {"endpoints": enough})
    assert online("drain", "a").stderr == ""
    server.answer("GET /v1/endpoints", {"endpoints": [*enough, endpoint("q", "healthy", quotes)]})
    assert online("drain", "a").stderr == (
        f"warning: {quotes}: 1 of 3 endpoints left in rotation: with less than half of them, Envoy sends requests to all, "
        "drained ones too\n"
    )


def test_who_stops_waiting_is_told_how_it_is(online: Run, server: FakeServer) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    server.answers["POST /v1/drain"] = only("a")
    server.answer("GET /v1/endpoints", {"endpoints": []})
    server.answer("GET /v1/status", {"proxies": [proxy("p")]})
    server.answer("GET /v1/endpoints", {"message": "not now"}, 503)
    assert online("drain", "a").exit_code == 0, "it drains all the same"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drain, "_wait", interrupted)
        left = online("drain", "a", "--wait")
    assert left.exit_code == 1
    assert "a drains all the same, and `meshctl undrain a` brings it back" in left.stderr


def test_wait_says_what_is_missing(online: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "LOOK_SECONDS", 0.01)
    looks = iter([[proxy("p"), proxy("q")], [proxy("p", drain="drained"), proxy("q")]])
    done = [proxy("p", drain="drained"), proxy("q", drain="drained"), proxy("other")]
    server.answers["POST /v1/drain"] = only("a")
    server.answer("GET /v1/endpoints", {"endpoints": []})
    server.answers["GET /v1/status"] = lambda _: (200, {"proxies": next(looks, done)})
    assert online("drain", "a", "--wait").stdout == "a is drained: 2 proxies\n"
    server.answer(
        "GET /v1/status", {"proxies": [proxy("p", healthDetail="2 requests in flight"), proxy("q", connected=False)]}
    )
    late = online("drain", "a", "--wait", "--timeout", "1")
    assert late.exit_code == 1
    assert "p (mesh/shop/virtualNode/web on a): 2 requests in flight" in late.stderr
    assert "q (mesh/shop/virtualNode/web on a): its agent is away" in late.stderr
