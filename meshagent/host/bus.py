"""systemd over D-Bus: calls, properties, and jobs that are awaited to their end.

One connection for the process, made at the first call and again after it was lost. Knows no unit's meaning. Nothing of systemctl is
parsed: answers are typed, and a job's end is a signal.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError

from meshagent.errors import MeshagentError

log = logging.getLogger(__name__)

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "org.freedesktop.systemd1.Unit"
SERVICE = "org.freedesktop.systemd1.Service"
NO_SUCH_UNIT = "org.freedesktop.systemd1.NoSuchUnit"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_CALL_SECONDS = 15.0
_REMEMBERED_JOBS = 256


class BusError(MeshagentError):
    """systemd that cannot be reached, or that said no. `name` is D-Bus' name of the error, "" where there was no answer."""

    def __init__(self, words: str, name: str = "") -> None:
        super().__init__(words)
        self.name = name


class Bus:
    """One event loop's alone."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._connection: MessageBus | None = None
        self._connecting = asyncio.Lock()
        self._ended: OrderedDict[str, str] = OrderedDict()  # job -> result, of those that ended lately
        self._jobs = asyncio.Condition()

    async def manager(self, member: str, signature: str = "", *body: Any) -> list[Any]:
        """A method of systemd's manager; its answer's values. Raises BusError."""
        return await self.call(MANAGER_PATH, MANAGER, member, signature, *body)

    async def job(self, member: str, unit: str, limit: float, mode: str = "replace") -> str:
        """Queues a job for a unit (StartUnit, StopUnit, RestartUnit) and awaits its end: systemd's word, `done` when all is well, `timeout`
        when it has not ended within `limit` seconds."""
        (path,) = await self.manager(member, "ss", unit, mode)
        return await self._end_of(path, limit)

    async def transient(self, unit: str, properties: Sequence[tuple[str, str, Any]], limit: float) -> str:
        """Starts a unit that no file describes, from (name, D-Bus signature, value), and awaits the end of that job, as `job` does."""
        given = [[name, Variant(signature, value)] for name, signature, value in properties]
        (path,) = await self.manager("StartTransientUnit", "ssa(sv)a(sa(sv))", unit, "fail", given, [])
        return await self._end_of(path, limit)

    async def _end_of(self, path: str, limit: float) -> str:
        try:
            async with asyncio.timeout(limit), self._jobs:
                await self._jobs.wait_for(lambda: path in self._ended)
                return self._ended[path]
        except TimeoutError:
            return "timeout"

    async def properties(self, unit: str) -> dict[str, Any]:
        """Those of the unit and, if it is one, of the service. One that systemd does not know is loaded for it."""
        (path,) = await self.manager("LoadUnit", "s", unit)
        (found,) = await self.call(path, _PROPERTIES, "GetAll", "s", UNIT)
        if unit.endswith(".service"):
            (service,) = await self.call(path, _PROPERTIES, "GetAll", "s", SERVICE)
            found = {**found, **service}
        return {name: value.value for name, value in found.items()}

    async def units(self, *patterns: str) -> list[tuple[str, str, str]]:
        """(name, active state, sub state) of the loaded units whose names match one of the patterns."""
        (rows,) = await self.manager("ListUnitsByPatterns", "asas", [], list(patterns))
        return sorted((row[0], row[3], row[4]) for row in rows)

    async def call(self, path: str, interface: str, member: str, signature: str = "", *body: Any) -> list[Any]:
        connection = await self._connected()
        message = Message(
            destination=SYSTEMD,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
        )
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                reply = await connection.call(message)
        except TimeoutError as error:
            raise BusError(f"systemd did not answer {member} within {_CALL_SECONDS:.0f} s") from error
        except (OSError, EOFError, DBusError) as error:
            self._drop(connection)
            raise BusError(f"the system bus was lost during {member}: {error}") from error
        if reply.message_type is MessageType.ERROR:
            words = str(reply.body[0]) if reply.body else str(reply.error_name)
            raise BusError(words, str(reply.error_name))
        return list(reply.body)

    def close(self) -> None:
        if self._connection is not None:
            self._drop(self._connection)

    async def _connected(self) -> MessageBus:
        async with self._connecting:
            if self._connection is not None and self._connection.connected:
                return self._connection
            connection = MessageBus(bus_address=self._address, bus_type=BusType.SYSTEM)
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    await connection.connect()
                    connection.add_message_handler(self._heard)
                    for message in _subscriptions():
                        await connection.call(message)
            except (OSError, EOFError, TimeoutError, DBusError) as error:
                connection.disconnect()
                raise BusError(f"cannot reach systemd over the system bus: {error or type(error).__name__}") from error
            self._connection = connection
            return connection

    def _drop(self, connection: MessageBus) -> None:
        if connection.connected:
            connection.disconnect()
        if self._connection is connection:
            self._connection = None

    def _heard(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL or message.member != "JobRemoved":
            return
        _, path, _, result = message.body
        self._ended[path] = result
        while len(self._ended) > _REMEMBERED_JOBS:
            self._ended.popitem(last=False)
        waking = asyncio.ensure_future(self._wake())
        waking.add_done_callback(lambda _: None)

    async def _wake(self) -> None:
        async with self._jobs:
            self._jobs.notify_all()


def _subscriptions() -> Sequence[Message]:
    """systemd tells jobs' ends to those who asked for it; the bus passes on what a rule matches, and so nothing else of what happens on
    the host wakes us."""
    rule = f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'"
    return (
        Message(destination=SYSTEMD, path=MANAGER_PATH, interface=MANAGER, member="Subscribe"),
        Message(
            destination="org.freedesktop.DBus",
            path="/org/freedesktop/DBus",
            interface="org.freedesktop.DBus",
            member="AddMatch",
            signature="s",
            body=[rule],
        ),
    )
