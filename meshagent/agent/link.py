"""The way to the servers: one channel at a time, mutual TLS with the host's certificate, failing over when the one in use is lost.

A server counts as reached when it has sent its first desired state, not when it took the connection: one that hangs is left after
FIRST_WORD seconds. What is desired and observed means nothing here; both come and go as messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from meshagent.agent.identity import Identity
from meshagent.errors import MeshagentError
from meshagent.protocol import host_pb2

log = logging.getLogger(__name__)

T = TypeVar("T")

PROTOCOL = 1
FIRST_WORD = 5.0
SIGN_TIMEOUT = 10.0
CHECK_TIMEOUT = 10.0
BACKOFF_FIRST, BACKOFF_LONGEST = 0.2, 5.0
DEFAULT_LEASE = 15.0
_END_SECONDS = 5.0
_LARGEST_MESSAGE = 64 << 20
_WATCH = "/meshagent.host.v1.HostService/Watch"
_SIGN = "/meshagent.host.v1.HostService/Sign"
_CHECK = "/meshagent.host.v1.HostService/Check"


class LinkError(MeshagentError):
    """No server in reach, or the one that was is lost."""


@dataclass
class Session:
    """A server that is reached, for as long as it is."""

    server: str
    channel: grpc.aio.Channel
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def during(self, work: Coroutine[Any, Any, T]) -> T:
        """Does `work` as long as the session lasts; raises LinkError when it ends first."""

        async def end() -> None:
            await self.ended.wait()

        ending = asyncio.create_task(end())
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait({ending, working}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ending.cancel()
            working.cancel()
            # To its end: the next session's work begins on what this one's leaves.
            await asyncio.wait({working}, timeout=_END_SECONDS)
        if not working.done() or working.cancelled():
            raise LinkError("the connection was closed")
        return working.result()


@dataclass(frozen=True)
class Conversation:
    """What the link says and to whom it passes on what it hears. `hello` and `observed` are asked for at the moment of sending."""

    hello: Callable[[], host_pb2.Hello]
    observed: Callable[[], host_pb2.Observed]
    desired: Callable[[host_pb2.Desired], None]
    connected: Callable[[], None]


class Link:
    def __init__(
        self,
        server_name: str,
        joined: Sequence[str],
        credentials: Callable[[], Identity],
        talk: Conversation,
        told: Sequence[str] = (),
    ) -> None:
        """`joined` are the servers that the host joined with, `told` those that it was told of last."""
        self._server_name = server_name
        self._joined = tuple(joined)
        self._servers: tuple[str, ...] = ()
        self._try_in_turn(told)
        self._credentials = credentials
        self._talk = talk
        self._session: Session | None = None
        self._reached = asyncio.Condition()
        self._news = asyncio.Event()
        self._remake = asyncio.Event()
        self._lease = DEFAULT_LEASE
        self._told = ""

    @property
    def session(self) -> Session | None:
        return self._session

    @property
    def words(self) -> str:
        """Why there is no session; "" while there is one, or before the first attempt has ended."""
        return self._told

    def changed(self) -> None:
        """Something that is observed has changed: report it now rather than with the next keepalive."""
        self._news.set()

    def remake(self) -> None:
        """The host's certificate was renewed: connect again with it. Streams begin anew and name what they hold; nothing is resent."""
        self._remake.set()

    def move(self, server_name: str, servers: Sequence[str]) -> None:
        """The host has joined anew: these are the servers now."""
        self._server_name, self._joined = server_name, tuple(servers)
        self._try_in_turn(())
        self._remake.set()

    async def wait(self) -> Session:
        """The session there is, or the next."""
        async with self._reached:
            await self._reached.wait_for(lambda: self._session is not None)
            assert self._session is not None
            return self._session

    async def run(self) -> None:
        """Holds a session for ever."""
        failures = 0
        position = 0
        while True:
            server = self._servers[position % len(self._servers)]
            began = time.monotonic()
            try:
                await self._hold(server)
                continue  # the channel is to be made anew
            except _Lost as error:
                # The same server first: most often it is back at once, and if it is not, that is soon known.
                failures = 0 if time.monotonic() - began > BACKOFF_LONGEST else failures + 1
                self._tell(server, str(error))
            except LinkError as error:
                failures += 1
                position += 1
                self._tell(server, str(error))
            # Every server is tried before the pause grows.
            # A server that comes back gives every lease one life: the agent must be there again within it.
            longest = min(BACKOFF_LONGEST, self._lease / 3)
            pause = min(longest, BACKOFF_FIRST * 2 ** min(failures // len(self._servers), 10))
            await asyncio.sleep(pause * (0.5 + 0.5 * random.random()))  # noqa: S311

    async def sign(self, request: bytes, placement: str) -> tuple[bytes, bytes]:
        """See identity.Sign: the host's own identity for placement "". LinkError when it cannot be had now."""
        if self._session is None:
            raise LinkError("no server in reach")
        call = self._session.channel.unary_unary(
            _SIGN,
            request_serializer=host_pb2.SignRequest.SerializeToString,
            response_deserializer=host_pb2.SignResponse.FromString,
        )

        async def ask() -> host_pb2.SignResponse:
            answer: host_pb2.SignResponse = await call(
                host_pb2.SignRequest(csr=request, placement=placement), timeout=SIGN_TIMEOUT
            )
            return answer

        try:
            answer = await apart(ask())
        except grpc.aio.AioRpcError as error:
            raise LinkError(_words(error)) from error
        return bytes(answer.chain), bytes(answer.trust_bundle)

    async def _hold(self, server: str) -> None:
        """One session with one server. Returns when the channel is to be made anew; raises LinkError when there was no session, _Lost when
        there was."""
        self._remake.clear()
        async with self._channel(server) as channel:
            try:
                await apart(self._converse(server, channel))
            except grpc.aio.AioRpcError as error:
                raise (_Lost if self._session else LinkError)(_words(error)) from error
            finally:
                self._end()

    async def _converse(self, server: str, channel: grpc.aio.Channel) -> None:
        call: Any = channel.stream_stream(
            _WATCH,
            request_serializer=host_pb2.Observed.SerializeToString,
            response_deserializer=host_pb2.Desired.FromString,
        )()
        tasks: list[asyncio.Task[Any]] = []
        try:
            desired = await self._first_word(call)
            await self._begin(Session(server, channel))
            self._take(desired)
            self._news.set()  # a server counts a host as there once that has answered its first word
            tasks += [
                asyncio.create_task(self._read(call)),
                asyncio.create_task(self._write(call)),
                asyncio.create_task(self._listen_for_life(channel)),
                asyncio.create_task(self._remake.wait()),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            call.cancel()

    async def _first_word(self, call: Any) -> host_pb2.Desired:
        try:
            async with asyncio.timeout(FIRST_WORD):
                await call.write(self._observed(first=True))
                desired = await call.read()
        except TimeoutError:
            raise LinkError(f"no answer within {FIRST_WORD:g} s") from None
        except asyncio.InvalidStateError:  # the call ended before we could write
            desired = grpc.aio.EOF
        if isinstance(desired, host_pb2.Desired):
            return desired
        raise LinkError(f"{(await call.code()).name}: {await call.details()}")

    async def _read(self, call: Any) -> None:
        while (desired := await call.read()) is not grpc.aio.EOF:
            self._take(desired)
        await _ended(call)

    async def _write(self, call: Any) -> None:
        said: bytes | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease / 3):
                    await self._news.wait()
            woken = self._news.is_set()
            self._news.clear()
            observed = self._observed(first=False)
            content = observed.SerializeToString(deterministic=True)
            if woken and content == said:
                continue
            said = content
            try:
                async with asyncio.timeout(self._lease):
                    await call.write(observed)
            except TimeoutError:
                raise _Lost(f"took nothing for {self._lease:g} s") from None
            except asyncio.InvalidStateError:
                await _ended(call)

    async def _listen_for_life(self, channel: grpc.aio.Channel) -> None:
        """Asks once in a lease whether the server is well. A process that hangs has a kernel that goes on acknowledging, and gRPC's own
        keepalive was seen not to notice."""
        ask: Any = channel.unary_unary(
            _CHECK,
            request_serializer=host_pb2.CheckRequest.SerializeToString,
            response_deserializer=host_pb2.CheckResponse.FromString,
        )
        while True:
            await asyncio.sleep(self._lease * (0.75 + 0.5 * random.random()))  # noqa: S311
            try:
                await ask(host_pb2.CheckRequest(), timeout=CHECK_TIMEOUT)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise _Lost(f"no answer for {CHECK_TIMEOUT:g} s: the server hangs") from None
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # one of the protocol's first days
                    raise

    def _observed(self, first: bool) -> host_pb2.Observed:
        observed = self._talk.observed()
        if first:
            observed.hello.CopyFrom(self._talk.hello())
        return observed

    def _take(self, desired: host_pb2.Desired) -> None:
        if desired.lease_seconds:
            self._lease = float(desired.lease_seconds)
        if desired.servers:
            self._try_in_turn(desired.servers)
        self._talk.desired(desired)

    def _try_in_turn(self, told: Iterable[str]) -> None:
        """Those that it was told of are newer, unless it has joined elsewhere since; those it joined with are known to be right once.
        Whoever is not of its authority is passed over anyway."""
        self._servers = tuple(dict.fromkeys((*told, *self._joined)))

    async def _begin(self, session: Session) -> None:
        log.info("connected to %s", session.server)
        self._told = ""
        async with self._reached:
            self._session = session
            self._reached.notify_all()
        self._talk.connected()

    def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.ended.set()

    @contextlib.asynccontextmanager
    async def _channel(self, server: str) -> AsyncIterator[grpc.aio.Channel]:
        identity = self._credentials()
        credentials = grpc.ssl_channel_credentials(identity.bundle, identity.key, identity.chain)
        channel = grpc.aio.secure_channel(server, credentials, options=self._options())
        try:
            yield channel
        finally:
            await channel.close()

    def _options(self) -> list[tuple[str, Any]]:
        return [
            ("grpc.ssl_target_name_override", self._server_name),
            ("grpc.default_authority", self._server_name),
            ("grpc.keepalive_time_ms", 20_000),
            ("grpc.keepalive_timeout_ms", 5_000),
            ("grpc.enable_http_proxy", 0),
            # A renewed certificate is shown by a new connection only: channels must not share one.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
            ("grpc.max_send_message_length", _LARGEST_MESSAGE),
        ]

    def _tell(self, server: str, words: str) -> None:
        """Once for each new thing that is wrong, not for each attempt."""
        line = f"{server}: {words}"
        if line != self._told:
            log.warning("no server: %s; going on with what is held", line)
        self._told = line


class _Lost(LinkError):
    """A session that was there has ended."""


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` in a task of its own. gRPC cancels whoever waits on a call when its channel closes; that must end the work as a lost
    session and not the caller as cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    finally:
        task.cancel()
    if task.cancelled():
        raise _Lost("the connection was closed")
    return task.result()


async def _ended(call: Any) -> None:
    """Raises what the server ended the stream with."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        raise _Lost("the server ended the stream")
    raise _Lost(f"{code.name}: {await call.details()}")


def _words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"
