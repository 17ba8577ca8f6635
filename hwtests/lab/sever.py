#!/usr/bin/env python3
"""sever.py PID: shuts down the socket by which a cairnd serves /dev/nbdN, and nothing else.

It is the one of its stream sockets that has no name and whose other end no process has: that is the kernel's.
As root; needs ss.
"""

import ctypes
import os
import re
import socket
import subprocess
import sys

PIDFD_GETFD = 438


def inodes(pid):
    """Descriptor of each socket that a process has, by the socket's inode."""
    held = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        if found := re.fullmatch(r"socket:\[(\d+)\]", link):
            held[int(found[1])] = int(name)
    return held


def main():
    pid = int(sys.argv[1])
    own = inodes(pid)
    elsewhere = set()
    for other in filter(str.isdigit, os.listdir("/proc")):
        try:
            elsewhere |= set(inodes(other))
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = []
    for line in subprocess.run(["ss", "-xaH"], check=True, capture_output=True, text=True).stdout.splitlines():
        fields = line.split()
        if fields[0] != "u_str" or fields[4] != "*" or fields[6] != "*":
            continue
        inode, peer = int(fields[5]), int(fields[7])
        if inode in own and peer not in elsewhere:
            found.append(own[inode])
    if len(found) != 1:
        sys.exit(f"sever.py: process {pid} has {len(found)} sockets of /dev/nbdN")
    pidfd = os.pidfd_open(pid)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(PIDFD_GETFD, pidfd, found[0], 0)
    if fd < 0:
        sys.exit(f"sever.py: pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    socket.socket(fileno=fd).shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    main()
