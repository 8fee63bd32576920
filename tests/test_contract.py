"""proto/ is complete, and the descriptors that are shipped are its own."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

from channeltok.v1 import tokenizer_pb2
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2, status_pb2

from tests.support.running import ROOT

PROTO = ROOT / "proto"


def shipped() -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """File name -> descriptor of each file in the set that the client's wheel holds."""
    content = (resources.files("channeltok.v1") / "descriptors.binpb").read_bytes()
    files = descriptor_pb2.FileDescriptorSet.FromString(content).file
    return {file.name: file for file in files}


def test_proto_compiles_without_any_other_folder(tmp_path: Path) -> None:
    files = [str(file.relative_to(PROTO)) for file in PROTO.rglob("*.proto")]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO)]
    command = [*protoc, f"--python_out={tmp_path}", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert (tmp_path / "channeltok/v1/tokenizer_pb2.py").exists()


def test_descriptors_are_complete_and_have_comments() -> None:
    files = shipped()
    assert all(needed in files for file in files.values() for needed in file.dependency)
    comments = files["channeltok/v1/tokenizer.proto"].source_code_info.location
    assert any("Encodes an image" in one.leading_comments for one in comments)


def test_descriptors_are_those_of_the_generated_code() -> None:
    files = shipped()
    for module in (tokenizer_pb2, status_pb2):
        expected = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(expected)
        for file in (files[expected.name], expected):
            file.ClearField("source_code_info")  # only the set has comments
            file.ClearField("options")  # of Google's files: not of every release the same
            for message in file.message_type:
                for field in message.field:
                    field.ClearField("json_name")
        assert files[expected.name] == expected


def test_descriptors_have_the_details_of_errors() -> None:
    messages = {one.name for one in shipped()["google/rpc/error_details.proto"].message_type}
    assert {error_details_pb2.ErrorInfo.DESCRIPTOR.name, "RetryInfo"} <= messages
