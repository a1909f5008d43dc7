"""A real Envoy takes every golden snapshot of the compiler over ADS, one after the other, and refuses nothing."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from meshagent.envoy import names
from meshagent.xds.messages import Protocol, Rejection
from meshagent.xds.snapshot import ROUTE, Snapshot, Stamp
from tests.envoy.certificates import write_certificates
from tests.envoy.golden_cases import golden_cases
from tests.xds.real import running

# Golden placements listen on a host's address, which this machine does not have: here it is one of loopback's.
ADDRESS = "127.77.0.1"


def _bodies(snapshot: Snapshot) -> list[bytes]:
    return [resource.body for named in snapshot.resources.values() for resource in named.values()]


def _needs_privilege(rejection: Rejection) -> bool:
    """A port below 1024, which only root may bind here: all else about the listener was right, or Envoy would not have come so far."""
    return bool(re.search(r"cannot bind '[\d.]+:\d{1,3}': Permission denied", rejection.words)) and os.geteuid() != 0


@pytest.mark.envoy
@pytest.mark.parametrize("protocol", list(Protocol))
async def test_taken_without_a_word(envoy_binary: Path, run_dir: Path, protocol: Protocol) -> None:
    write_certificates(run_dir)
    async with running(envoy_binary, run_dir, protocol) as (relay, envoy):
        for revision, case in enumerate(golden_cases(), 1):
            provided = names.SDS_CLUSTER.encode() in b"".join(_bodies(case.compile().snapshot))
            if provided and protocol is Protocol.SOTW:
                continue  # once is enough to wait for the SDS provider that is not there
            here = replace(case, placement=replace(case.placement, address=ADDRESS))
            offered = Snapshot(here.compile().snapshot.resources, Stamp("line", revision))
            await relay.synced(offered, seconds=15 + 20 if provided else 20)
            forbidden = {each.name for each in relay.seen.stream.rejected if _needs_privilege(each)}
            assert [each for each in relay.seen.stream.rejected if each.name not in forbidden] == [], case.name
            acked = relay.seen.stream.acked
            for type_url, named in offered.resources.items():
                if forbidden and type_url == ROUTE:
                    continue  # nobody asks for the routes of a listener that is not there
                versions = {name: each.version for name, each in named.items() if name not in forbidden}
                assert versions.items() <= acked[type_url].items(), case.name
            if revision == 1:
                await envoy.live()
