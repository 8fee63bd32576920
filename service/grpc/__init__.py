"""The gRPC server: translates between the contract and service.core."""
