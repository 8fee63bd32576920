"""Start, probe and heal engines, or run them in this process."""
