"""Take 60 MB, 5 files, a thread and a child on a line of input; release them on the next."""

import os
import subprocess
import sys
import threading

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    memory = bytearray(os.urandom(60_000_000))
    files = [open("/dev/null") for _ in range(5)]  # noqa: SIM115
    released = threading.Event()
    thread = threading.Thread(target=released.wait)
    thread.start()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print("taken", flush=True)
    sys.stdin.readline()
    del memory
    for file in files:
        file.close()
    released.set()
    thread.join()
    child.kill()
    child.wait()
    print("released", flush=True)
    sys.stdin.readline()
