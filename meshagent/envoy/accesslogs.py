"""A spec's `logging` as Envoy's access logs: lines to a file, as text or JSON. Without a spec there is no log."""

from __future__ import annotations

from typing import Any

from meshagent.envoy import protos as pb
from meshagent.specs.logs import Logging


def access_logs(logging: Logging | None) -> list[Any]:
    """AccessLog messages for a connection manager or a tcp_proxy; without a format Envoy's own is used."""
    if logging is None or logging.access_log is None or logging.access_log.file is None:
        return []
    file = logging.access_log.file
    sink = pb.file_access_log.FileAccessLog(path=file.path)
    if file.format is not None:
        if file.format.text is not None:
            sink.log_format.text_format_source.inline_string = _line(file.format.text)
        else:
            for entry in file.format.json_ or ():
                sink.log_format.json_format[entry.key] = entry.value
    return [pb.accesslog.AccessLog(name="envoy.access_loggers.file", typed_config=pb.any_of(sink))]


def _line(text: str) -> str:
    """Envoy ends JSON lines by itself, and text lines not."""
    return text if text.endswith("\n") else f"{text}\n"
