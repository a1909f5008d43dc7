"""The checked-in protocol code is what protoc makes of host.proto."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from meshagent.protocol import host_pb2

PROTOCOL = Path(__file__).parent.parent.parent / "meshagent" / "protocol"


def test_host_pb2_says_what_host_proto_says(tmp_path: Path) -> None:
    made = tmp_path / "descriptors"
    assert protoc.main(["protoc", f"-I{PROTOCOL}", f"--descriptor_set_out={made}", str(PROTOCOL / "host.proto")]) == 0
    expected = descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file[0]
    found = descriptor_pb2.FileDescriptorProto()
    host_pb2.DESCRIPTOR.CopyToProto(found)
    for message in expected.message_type:
        for field in (*message.field, *(each for entry in message.nested_type for each in entry.field)):
            field.ClearField("json_name")  # protoc spells out the default, Python's descriptors do not
    assert found == expected, "run `make protocol`"
