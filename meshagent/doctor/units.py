"""What systemd has of the mesh's units, over D-Bus. Reads only."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from meshagent.doctor.host import AGENT_UNIT, REDIRECT_UNIT, UnitSeen
from meshagent.host.bus import Bus


async def seen() -> list[UnitSeen]:
    """The units that every host needs, there or not, and all others of the mesh that are loaded. Raises BusError."""
    bus = Bus()
    try:
        loaded = [name for name, _, _ in await bus.units("meshagent-*.service")]
        names = dict.fromkeys((AGENT_UNIT, REDIRECT_UNIT, *loaded))
        return [await _one(bus, name) for name in names]
    finally:
        bus.close()


async def _one(bus: Bus, name: str) -> UnitSeen:
    found = await bus.properties(name)
    return UnitSeen(
        name=name,
        load=str(found.get("LoadState", "")),
        active=str(found.get("ActiveState", "")),
        enabled=str(found.get("UnitFileState", "")),
        differs=_differs(name, Path(str(found.get("FragmentPath", "")))),
        result=str(found.get("Result", "")),
        status=int(found.get("ExecMainStatus", 0)),
    )


def _differs(name: str, path: Path) -> bool:
    """False for a unit that this release brings no file of."""
    ours = files("meshagent.host") / "units" / name
    try:
        return path.is_file() and ours.is_file() and path.read_bytes() != ours.read_bytes()
    except OSError:
        return False
