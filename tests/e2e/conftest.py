"""A world a test: real server, agents, Envoys and services on loopback, and the traffic oracle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from meshagent.demo.world import HTTP_PROBE, SHOP, Host, Service, World

# Timers shortened, so that "three times every timer in play" is seconds.
LEASE = 4
SERVER_OPTIONS = ("--lease-seconds", str(LEASE))

SECOND_CATALOG = Host("host-e", (Service("catalog-v1b", "http", 8080, HTTP_PROBE, node="catalog-v1"),))


@pytest.fixture
async def world(envoy_binary: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """The demo's mesh, up and in sync; catalog-v1 runs on two hosts."""
    options = getattr(request, "param", SERVER_OPTIONS)
    async with World(envoy_binary.parent.parent, hosts=(*SHOP, SECOND_CATALOG), server_options=options) as world:
        await world.up()
        yield world


@pytest.fixture
async def pair(envoy_binary: Path) -> AsyncIterator[World]:
    """Only web and catalog-v1 (on two hosts), for tests that need no more."""
    hosts = (SHOP[0], SHOP[1], replace(SECOND_CATALOG))
    async with World(envoy_binary.parent.parent, hosts=hosts, server_options=SERVER_OPTIONS) as world:
        await world.up()
        yield world
