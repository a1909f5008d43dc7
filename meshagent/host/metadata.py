"""What EC2's instance metadata service says of this host, by version 2 of it: a session token, then the identity document.

Only asked where the firmware says that this is an EC2 instance, or where the configuration names an endpoint. Each request is a short
connection of its own, with a timeout: elsewhere nobody answers at that address.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ENDPOINT = "http://169.254.169.254"
TIMEOUT = 2.0
_TOKEN, _TOKEN_SECONDS = "/latest/api/token", 60
_DOCUMENT = "/latest/dynamic/instance-identity/document"
_LARGEST = 64 << 10
_DMI = Path("/sys/class/dmi/id")


@dataclass(frozen=True)
class Instance:
    id: str = ""
    type: str = ""
    zone: str = ""
    region: str = ""


class MetadataError(Exception):
    """The service does not answer, or not as it should."""


def on_ec2(dmi: Path = _DMI) -> bool:
    """From the firmware: Nitro instances name their maker, older ones have a product UUID that begins with ec2."""
    for name, sign in (("sys_vendor", "amazon ec2"), ("bios_vendor", "amazon ec2"), ("product_uuid", "ec2")):
        with contextlib.suppress(OSError):
            if (dmi / name).read_text(errors="replace").strip().lower().startswith(sign):
                return True
    return False


async def instance(endpoint: str = ENDPOINT) -> Instance:
    """Raises MetadataError."""
    token = await _ask(endpoint, "PUT", _TOKEN, {"x-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)})
    body = await _ask(endpoint, "GET", _DOCUMENT, {"x-aws-ec2-metadata-token": token.decode("latin-1").strip()})
    try:
        document = json.loads(body)
        names = ("instanceId", "instanceType", "availabilityZone", "region")
        texts = (str(document.get(name) or "")[:128] for name in names)
        return Instance(*(text.encode(errors="replace").decode() for text in texts))
    except (ValueError, AttributeError, RecursionError) as error:
        raise MetadataError(f"{endpoint}{_DOCUMENT}: no JSON object") from error


async def _ask(endpoint: str, method: str, path: str, headers: Mapping[str, str]) -> bytes:
    url = urlsplit(endpoint)
    lines = [f"{method} {path} HTTP/1.1", f"host: {url.netloc}", "connection: close", "content-length: 0"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_connection(url.hostname, url.port or 80)
            try:
                writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
                answer = await reader.read(_LARGEST)
                while chunk := await reader.read(_LARGEST):
                    answer += chunk
                    if len(answer) > _LARGEST:
                        raise MetadataError(f"{endpoint}{path}: more than {_LARGEST} bytes")
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError) as error:
        raise MetadataError(f"{endpoint}{path}: {str(error) or 'it does not answer in time'}") from error
    head, separator, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if not separator or status != [b"200"] or b"transfer-encoding: chunked" in head.lower():
        raise MetadataError(f"{endpoint}{path}: status {b''.join(status).decode('latin-1') or 'unknown'}")
    return body
