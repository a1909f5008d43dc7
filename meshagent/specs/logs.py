"""What App Mesh's specs say about access logs, as frozen models, the same for virtual nodes and virtual gateways."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from meshagent.specs.fields import FilePath, Model, OneOf, Text100, Text1000


class JsonFormatRef(Model):
    key: Text100
    value: Text100


class LoggingFormat(OneOf):
    json_: Annotated[tuple[JsonFormatRef, ...] | None, Field(alias="json")] = None
    text: Text1000 | None = None


class FileAccessLog(Model):
    path: FilePath
    format: LoggingFormat | None = None


class AccessLog(OneOf):
    file: FileAccessLog | None = None


class Logging(Model):
    access_log: AccessLog | None = None
