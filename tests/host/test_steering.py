"""New connections are given to one of two processes that listen on one address, by the real kernel."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from meshagent.host import processes, steering
from meshagent.host.listening import Listener

# Listens on the port with so many sockets, says so, and greets whoever comes.
OTHER = """
import select, socket, sys
port, count = map(int, sys.argv[1:])
found = []
for _ in range(count):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind(("127.0.0.1", port))
    one.listen(1024)
    found.append(one)
print(flush=True)
while True:
    for ready in select.select(found, [], [])[0]:
        ready.accept()[0].sendall(b"other")
"""
TRIES = 100
SELF = (os.getpid(), processes.start_time(os.getpid()) or 0)


@contextlib.contextmanager
def own(port: int = 0) -> Iterator[socket.socket]:
    """A listener of this process, of which nobody accepts: who comes here is not greeted."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(1024)
        yield sock


@contextlib.contextmanager
def other(port: int, count: int = 1) -> Iterator[steering.Process]:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(port), str(count)], stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == "\n"
            yield child.pid, processes.start_time(child.pid) or 0
        finally:
            child.kill()


def reached(here: socket.socket | None, port: int) -> Counter[str]:
    """Who got each of some new connections."""
    found: Counter[str] = Counter()
    for _ in range(TRIES):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            ready, _, _ = select.select([client, *([] if here is None else [here])], [], [], 10)
            if here is not None and here in ready:
                here.accept()[0].close()
                found["own"] += 1
                continue
            assert client.recv(5) == b"other"
            found["other"] += 1
    return found


@pytest.mark.parametrize("count", [1, 3])
def test_the_newer_one_gets_all_and_goes_on_when_the_older_one_closes(count: int) -> None:
    with own() as here:
        port = here.getsockname()[1]
        with other(port, count) as there:
            assert len(reached(here, port)) == 2
            assert steering.steer(there, SELF) == 1
            assert reached(here, port) == {"other": TRIES}
            here.close()
            assert reached(None, port) == {"other": TRIES}
            steering.release(there)
            with own(port) as again:
                assert len(reached(again, port)) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_the_older_one_gets_all_while_the_newer_one_goes(count: int) -> None:
    with own() as here:
        port = here.getsockname()[1]
        with other(port, count) as there:
            assert steering.steer(SELF, there) == 1
            assert reached(here, port) == {"own": TRIES}
        assert reached(here, port) == {"own": TRIES}


def test_nobody_else_is_there() -> None:
    with own(), socket.create_server(("127.0.0.1", 0)):  # which shares with nobody
        assert steering.steer(SELF, (0, 0)) == 0
        steering.release(SELF)


def test_a_process_that_has_ended() -> None:
    with pytest.raises(steering.SteeringError, match="has ended"):
        steering.steer((SELF[0], SELF[1] + 1), SELF)


def test_which_addresses_are_shared() -> None:
    found = [Listener("127.0.0.1", 80, 1), Listener("127.0.0.1", 80, 2), Listener("127.0.0.1", 80, 3)]
    found += [Listener("127.0.0.2", 80, 4), Listener("127.0.0.1", 81, 5), Listener("127.0.0.1", 81, 6)]
    assert list(steering.shared(found, {1: 10, 2: 11, 4: 12})) == [([1, 2], 1)]


def test_a_program_is_what_the_kernel_reads() -> None:
    load, modulo, add, give = struct.iter_unpack("=HBBI", steering.program(2, 4))
    assert (load[0], modulo[3], add[3], give[0]) == (0x20, 4, 2, 0x16)
