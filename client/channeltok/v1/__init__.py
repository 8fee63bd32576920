"""Generated from proto/channeltok/v1 by `make proto`; not edited by hand."""
