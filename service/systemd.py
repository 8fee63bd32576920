"""Tell systemd that the service is ready, or stops: `Type=notify`."""

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Send READY=1 or STOPPING=1; nothing happens where systemd does not wait for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
        sender.sendto(state.encode(), address)
