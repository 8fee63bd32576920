"""The REST server: translates between HTTP and service.core."""
