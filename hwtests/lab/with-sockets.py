#!/usr/bin/python3
"""with-sockets.py ADDRESS... -- PROGRAM ARGUMENTS...: runs PROGRAM as systemd would by socket units.

Listens at every ADDRESS (unix:PATH or tcp:HOST:PORT) and hands the sockets over as LISTEN_FDS."""
import os
import socket
import sys

split = sys.argv.index("--")
sockets = []
for address in sys.argv[1:split]:
    kind, _, where = address.partition(":")
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(where)
    else:
        host, _, port = where.rpartition(":")
        listener = socket.socket(socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
    listener.listen(64)
    sockets.append(listener)
# Out of the way first: a socket may have the number that another is to get.
numbers = [os.dup(listener.fileno()) for listener in sockets]
high = [os.dup2(number, 100 + i, inheritable=False) for i, number in enumerate(numbers)]
for i, number in enumerate(high):
    os.dup2(number, 3 + i, inheritable=True)
os.environ["LISTEN_FDS"] = str(len(sockets))
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDNAMES"] = ":".join("nbd%d" % i for i in range(len(sockets)))
program = sys.argv[split + 1]
os.execv(program, sys.argv[split + 1:])
