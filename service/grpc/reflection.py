"""gRPC reflection, v1 and v1alpha: clients such as grpcurl ask it which methods there are.

grpcio has v1alpha only. v1 has the same messages in another package, so its bytes are the same.
"""

from collections.abc import Sequence

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from service.grpc.entrance import GuardedServer

V1_SERVICE = reflection.SERVICE_NAME.replace("v1alpha", "v1")


def add_to(server: GuardedServer, services: Sequence[str]) -> None:
    """Add reflection of these services and of itself."""
    _describe_v1()
    servicer = reflection.aio.ReflectionServicer([*services, reflection.SERVICE_NAME, V1_SERVICE])
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_registered_method_handlers(V1_SERVICE, {"ServerReflectionInfo": method})


def _describe_v1() -> None:
    """Add the descriptor of v1, for clients that ask reflection about itself."""
    alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
    v1 = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    descriptor_pool.Default().Add(text_format.Parse(v1, FileDescriptorProto()))
