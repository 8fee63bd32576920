"""TLS, bearer tokens and authentication."""
