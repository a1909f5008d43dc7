"""The operator's access key: made at the first start, kept in the store under meta/access-keys/, written to a file for the operator.

The secret itself must be kept, not a hash: Signature Version 4 is an HMAC with it. A file whose store was lost is taken
back in, so that operators keep their key.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from meshagent.api.access import new_access_key
from meshagent.api.sigv4 import AccessKey
from meshagent.errors import MeshagentError
from meshagent.host.files import read_if_there, write_durably
from meshagent.store.base import Conflict, Put, Store

PREFIX = "meta/access-keys/"

_log = logging.getLogger(__name__)


class AccessKeyError(MeshagentError):
    """The access key's file or record cannot be read."""


async def open_access_keys(store: Store, file: Path) -> dict[str, str]:
    """The secrets of all access keys by id; `file` holds one of them afterwards."""
    entries, _ = await store.list(PREFIX)
    keys = {entry.key.removeprefix(PREFIX): _secret(entry.key, entry.value) for entry in entries}
    written = _read(file)
    if not keys:
        key = written or new_access_key()
        record = json.dumps({"secret": key.secret}).encode()
        try:
            await store.commit([Put(PREFIX + key.id, record)], expect={PREFIX + key.id: 0})
        except Conflict:
            return await open_access_keys(store, file)  # another server was first
        _log.info("access key %s %s", key.id, "is taken back in from its file" if written else "was made")
        keys = {key.id: key.secret}
    if written is None or keys.get(written.id) != written.secret:
        first = min(keys)
        content = {"accessKeyId": first, "secretAccessKey": keys[first]}
        write_durably(file, json.dumps(content, indent=1) + "\n", 0o600)
    return keys


def _read(file: Path) -> AccessKey | None:
    content = read_if_there(file)
    if content is None:
        return None
    try:
        found = json.loads(content)
        key_id, secret = found["accessKeyId"], found["secretAccessKey"]
    except (ValueError, KeyError, TypeError) as error:
        raise AccessKeyError(f"{file}: holds no access key: remove it, and it is written anew") from error
    if not (isinstance(key_id, str) and isinstance(secret, str) and key_id and secret and "/" not in key_id):
        raise AccessKeyError(f"{file}: holds no access key: remove it, and it is written anew")
    return AccessKey(key_id, secret)


def _secret(key: str, value: bytes) -> str:
    try:
        return str(json.loads(value)["secret"])
    except (ValueError, KeyError, TypeError) as error:
        raise AccessKeyError(f"{key} in the store cannot be read: restore it from a backup") from error
