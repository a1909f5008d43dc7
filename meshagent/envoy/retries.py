"""App Mesh's retry policies as Envoy's RetryPolicy, and App Mesh's timeouts in milliseconds.

A route that says nothing of retries has App Mesh's default policy, which its API never showed. Must not know routes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshagent.envoy import protos as pb
from meshagent.specs.fields import Duration
from meshagent.specs.listeners import HttpTimeout, TcpTimeout
from meshagent.specs.routes import GrpcRetryPolicy, HttpRetryPolicy

DEFAULT_REQUEST_MS = 15_000
DEFAULT_IDLE_MS = 300_000

_DEFAULT_RETRY_ON = ("unavailable", "connect-failure", "refused-stream", "retriable-status-codes")
_DEFAULT_RETRIES = 2
_DEFAULT_STATUS_CODES = (503,)
_HOST_ATTEMPTS = 5

# `5xx` and `gateway-error` retry resets too, as App Mesh says of its events. `5xx` is wider than the codes that App Mesh lists
# (500 to 508, 510, 511) by 509 and those above 511.
HTTP_EVENTS = {
    "server-error": "5xx",
    "gateway-error": "gateway-error",
    "client-error": "retriable-4xx",
    "stream-error": "refused-stream",
}
TCP_EVENTS = {"connection-error": "connect-failure"}
# Envoy has App Mesh's own words for gRPC's codes.
GRPC_EVENTS = {
    word: word for word in ("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable")
}


def default_retry() -> Any:
    policy = pb.route_components.RetryPolicy(
        retry_on=",".join(_DEFAULT_RETRY_ON),
        num_retries=pb.uint32(_DEFAULT_RETRIES),
        retriable_status_codes=_DEFAULT_STATUS_CODES,
    )
    _avoid_tried_hosts(policy)
    return policy


def retry_policy(policy: HttpRetryPolicy | None) -> tuple[Any | None, list[tuple[str, str]]]:
    """The RetryPolicy, or None for no retries (maxRetries 0), and what is wrong with it as (path inside the policy, message)."""
    if policy is None:
        return default_retry(), []
    words: list[str] = []
    wrong: list[tuple[str, str]] = []
    for field, events, table in _events(policy):
        for at, event in enumerate(events):
            word = table.get(event)
            if word is None:
                wrong.append(
                    (f"{field}[{at}]", f"must be one of {', '.join(table)}, found {event!r}; it retries nothing")
                )
            elif word not in words:
                words.append(word)
    if policy.max_retries == 0:
        return None, wrong
    if not words:
        wrong.append(("", "names no event that Envoy knows, so nothing is retried"))
        return None, wrong
    result = pb.route_components.RetryPolicy(
        retry_on=",".join(words),
        num_retries=pb.uint32(policy.max_retries),
    )
    if (limit := policy.per_retry_timeout.milliseconds) > 0:
        result.per_try_timeout.CopyFrom(pb.duration(limit))
    _avoid_tried_hosts(result)
    return result, wrong


def _events(policy: HttpRetryPolicy) -> Iterable[tuple[str, Iterable[str], dict[str, str]]]:
    yield "httpRetryEvents", policy.http_retry_events or (), HTTP_EVENTS
    yield "tcpRetryEvents", policy.tcp_retry_events or (), TCP_EVENTS
    if isinstance(policy, GrpcRetryPolicy):
        yield "grpcRetryEvents", policy.grpc_retry_events or (), GRPC_EVENTS


def _avoid_tried_hosts(policy: Any) -> None:
    predicate = policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
    predicate.typed_config.CopyFrom(pb.any_of(pb.previous_hosts.PreviousHostsPredicate()))
    policy.host_selection_retry_max_attempts = _HOST_ATTEMPTS


def request_ms(timeout: HttpTimeout | None) -> int:
    return _ms(timeout.per_request if timeout is not None else None, DEFAULT_REQUEST_MS)


def idle_ms(timeout: HttpTimeout | TcpTimeout | None) -> int:
    return _ms(timeout.idle if timeout is not None else None, DEFAULT_IDLE_MS)


def _ms(given: Duration | None, default: int) -> int:
    """0, which switches a timeout off, is kept."""
    return default if given is None else given.milliseconds
