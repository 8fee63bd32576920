"""Start a service and read what its processes use."""
