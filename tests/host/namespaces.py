"""A network of a test's own: what it does to addresses and rules, it does to nobody else."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes a network namespace")
needs_nft = pytest.mark.skipif(
    shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin") is None, reason="needs the package nftables"
)


@contextlib.contextmanager
def own_network() -> Iterator[None]:
    """This thread, and those that it starts inside, are in a network namespace of their own: loopback, and the address 10.9.9.1."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.unshare(_CLONE_NEWNET))
        try:
            ip("link", "set", "lo", "up")
            ip("address", "add", "10.9.9.1/32", "dev", "lo")
            yield
        finally:
            _check(_libc.setns(before, _CLONE_NEWNET))
    finally:
        os.close(before)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def nft(*words: str) -> str:
    return subprocess.run(["nft", *words], check=True, capture_output=True, text=True).stdout


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
