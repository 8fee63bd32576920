"""The microservice: Encode and Decode over gRPC and REST, in front of NVIDIA Triton. No PyTorch here."""
