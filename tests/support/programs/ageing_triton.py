"""The service with a Triton that ends each gRPC connection after 0.3 s."""

from service.__main__ import main
from service.engine.triton_server import TritonServer

OPTIONS = ["--grpc-max-connection-age=300", "--grpc-max-connection-age-grace=60000"]  # milliseconds
command = TritonServer.command

TritonServer.command = lambda self: [*command(self), *OPTIONS]  # type: ignore[method-assign]
main()
