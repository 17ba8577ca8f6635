#!/usr/bin/python3
"""What no client should do, done to an NBD server, with a look after each whether it still serves.

usage: nbd-abuse.py SOCKET EXPORT PID

A malformed or oversize message must be answered as the protocol says, or the connection closed. The
server (process PID) must go on, its memory must stay bounded, and a well-behaved client (libnbd)
must find its data as it left them. Wants Debian's python3-libnbd, and so the distribution's python3.
"""

import os
import resource
import socket
import struct
import sys
import threading

import nbd

SOCK, EXPORT, PID = sys.argv[1], sys.argv[2], int(sys.argv[3])

NBDMAGIC = b"NBDMAGIC"
IHAVEOPT = b"IHAVEOPT"
OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_INFO, OPT_GO, OPT_STRUCTURED, OPT_SET_META = 1, 2, 3, 6, 7, 8, 10
REP_MAGIC = 0x3E889045565A9
REP_ACK, REP_INFO = 1, 3
REP_ERROR = 1 << 31
REQUEST = 0x25609513
SIMPLE = 0x67446698
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
EINVAL, ENOSPC, EOVERFLOW = 22, 28, 75
MAXIMUM = 32 << 20
# What the daemon promises in all by default, of which 64 MiB are requests in flight.
RSS_MAX_KIB = 512 << 10
# Far beyond what a good server takes to answer; a hang is named instead of waited for.
PATIENCE = 60
CONNECTIONS = 1000


class Closed(Exception):
    """The server closed the connection."""


class Raw:
    """A connection of which every byte is ours."""

    def __init__(self):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(PATIENCE)
        self.s.connect(SOCK)

    def send(self, data):
        try:
            self.s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None

    def recv(self, n):
        data = b""
        while len(data) < n:
            try:
                part = self.s.recv(n - len(data))
            except ConnectionResetError:
                raise Closed from None
            if not part:
                raise Closed
            data += part
        return data

    def greet(self, flags=3):
        hello = self.recv(18)
        assert hello[:16] == NBDMAGIC + IHAVEOPT, hello
        self.send(struct.pack(">I", flags))
        return self

    def option(self, option, data=b"", length=None):
        self.send(IHAVEOPT + struct.pack(">II", option, len(data) if length is None else length) + data)

    def reply(self):
        magic, _option, kind, length = struct.unpack(">QIII", self.recv(20))
        assert magic == REP_MAGIC, hex(magic)
        return kind, self.recv(length)

    def last_reply(self):
        while True:
            kind, data = self.reply()
            if kind == REP_ACK or kind & REP_ERROR:
                return kind, data

    def go(self):
        name = EXPORT.encode()
        self.greet().option(OPT_GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0))
        size = None
        while True:
            kind, data = self.reply()
            if kind == REP_ACK:
                return size
            assert kind == REP_INFO, hex(kind)
            if struct.unpack(">H", data[:2])[0] == 0:
                size = struct.unpack(">Q", data[2:10])[0]

    def request(self, command, offset=0, length=0, flags=0, magic=REQUEST, cookie=7):
        self.send(struct.pack(">IHHQQI", magic, flags, command, cookie, offset, length))

    def simple(self, data=0):
        magic, error, cookie = struct.unpack(">IIQ", self.recv(16))
        assert magic == SIMPLE and cookie == 7, (hex(magic), cookie)
        return error, self.recv(data) if not error else b""

    def closed(self):
        """The server must close: nothing but an end follows."""
        try:
            while self.s.recv(4096):
                pass
        except ConnectionResetError:
            pass

    def close(self):
        self.s.close()


def refused_or_closed(raw, what, errors=(EINVAL,)):
    """An error reply of the right kind, or the end."""
    try:
        error, _ = raw.simple()
    except Closed:
        return
    assert error in errors, f"{what}: error {error}, expected one of {errors}"
    # An answered request leaves a connection that works.
    raw.request(READ, 0, 512)
    assert raw.simple(512)[0] == 0, what


def well_behaved(pattern):
    h = nbd.NBD()
    h.connect_uri(f"nbd+unix:///{EXPORT}?socket={SOCK}")
    assert h.pread(len(pattern), 0) == pattern, "the data changed"
    h.shutdown()


def server_lives():
    try:
        os.kill(PID, 0)
    except ProcessLookupError:
        sys.exit("the server is gone")
    with open(f"/proc/{PID}/status", encoding="ascii") as status:
        rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    assert rss < RSS_MAX_KIB, f"the server grew to {rss} KiB"
    return rss


def handshakes():
    def bad_client_flags():
        raw = Raw().greet(flags=0xFFFFFFFF)
        raw.closed()

    def bad_option_magic():
        raw = Raw().greet()
        raw.send(b"IHAVENOT" + struct.pack(">II", OPT_LIST, 0))
        raw.closed()

    def unknown_option():
        raw = Raw().greet()
        raw.option(0xBEEF, b"x" * 100)
        assert raw.reply()[0] == REP_ERROR | 1, "unknown options are ERR_UNSUP"
        raw.option(OPT_LIST)
        assert raw.last_reply()[0] == REP_ACK

    def huge_option():
        raw = Raw().greet()
        raw.option(OPT_GO, b"", 0xFFFFFFFF)
        raw.close()
        raw = Raw().greet()
        try:
            raw.option(OPT_GO, b"y" * 65536, 0x7FFFFFFF)
        except Closed:
            pass
        raw.close()

    def list_with_data():
        raw = Raw().greet()
        raw.option(OPT_LIST, b"data")
        kind, _ = raw.last_reply()
        assert kind & REP_ERROR, "LIST with data is invalid"

    def name_longer_than_the_option():
        raw = Raw().greet()
        raw.option(OPT_GO, struct.pack(">I", 0xFFFFFFF0) + b"pg" + struct.pack(">H", 0))
        kind, _ = raw.last_reply()
        assert kind & REP_ERROR

    def more_infos_than_sent():
        name = EXPORT.encode()
        raw = Raw().greet()
        raw.option(OPT_GO, struct.pack(">I", len(name)) + name + struct.pack(">H", 0xFFFF))
        kind, _ = raw.last_reply()
        assert kind & REP_ERROR

    def unknown_export():
        raw = Raw().greet()
        raw.option(OPT_GO, struct.pack(">I", 4) + b"nope" + struct.pack(">H", 0))
        kind, data = raw.last_reply()
        assert kind == REP_ERROR | 6, hex(kind)
        raw.option(OPT_EXPORT_NAME, b"nope")
        raw.closed()

    def meta_context_with_a_million_queries():
        raw = Raw().greet()
        raw.option(OPT_STRUCTURED)
        assert raw.last_reply()[0] == REP_ACK
        name = EXPORT.encode()
        raw.option(OPT_SET_META, struct.pack(">I", len(name)) + name + struct.pack(">I", 1000000))
        kind, _ = raw.last_reply()
        assert kind & REP_ERROR

    def options_for_ever():
        # The server may end a negotiation that leads nowhere.
        raw = Raw().greet()
        try:
            for _ in range(20000):
                raw.option(OPT_LIST)
                raw.last_reply()
        except Closed:
            pass

    def abort():
        raw = Raw().greet()
        raw.option(OPT_ABORT)
        raw.closed()

    def half_a_greeting():
        raw = Raw()
        raw.recv(18)
        raw.send(b"\0\0")
        raw.close()

    def http():
        raw = Raw()
        raw.recv(18)
        raw.send(b"GET / HTTP/1.1\r\nHost: cairn\r\n\r\n")
        raw.closed()

    return locals()


def transmissions():
    def bad_magic():
        raw = Raw()
        raw.go()
        raw.request(READ, 0, 512, magic=0x12345678)
        raw.closed()

    def unknown_command():
        raw = Raw()
        raw.go()
        raw.request(0x77)
        refused_or_closed(raw, "command 0x77")

    def unknown_flags():
        raw = Raw()
        raw.go()
        raw.request(READ, 0, 512, flags=0x8000)
        refused_or_closed(raw, "flags 0x8000")

    def read_past_the_end():
        raw = Raw()
        size = raw.go()
        for offset, length in ((size, 512), (size - 512, 1024), (1 << 63, 512), ((1 << 64) - 512, 1024)):
            raw.request(READ, offset, length)
            error, _ = raw.simple(length)
            assert error == EINVAL, (offset, length, error)

    def write_past_the_end():
        raw = Raw()
        size = raw.go()
        for offset in (size, size - 512, (1 << 64) - 512):
            raw.request(WRITE, offset, 1024)
            raw.send(b"z" * 1024)
            error, _ = raw.simple()
            assert error in (ENOSPC, EINVAL), (offset, error)
        for command in (TRIM, ZEROES):
            raw.request(command, size - 512, 1024)
            error, _ = raw.simple()
            assert error in (ENOSPC, EINVAL), (command, error)

    def huge_read():
        raw = Raw()
        raw.go()
        raw.request(READ, 0, 0xFFFFFE00)
        refused_or_closed(raw, "a read of 4 GiB", (EINVAL, EOVERFLOW))

    def huge_write():
        raw = Raw()
        raw.go()
        raw.request(WRITE, 0, 0xFFFFFE00)
        try:
            raw.send(b"w" * 65536)
        except Closed:
            pass
        raw.close()

    def write_just_too_large():
        raw = Raw()
        raw.go()
        raw.request(WRITE, 0, MAXIMUM + 512)
        try:
            raw.send(b"w" * (MAXIMUM + 512))
        except Closed:
            return
        refused_or_closed(raw, "a write beyond the maximum", (EINVAL, EOVERFLOW))

    def half_a_request():
        raw = Raw()
        raw.go()
        raw.send(struct.pack(">IHH", REQUEST, 0, READ))
        raw.close()

    def half_a_payload():
        raw = Raw()
        raw.go()
        raw.request(WRITE, 0, 1 << 20)
        raw.send(b"h" * 1000)
        raw.close()

    def requests_without_reading_replies():
        raw = Raw()
        raw.go()
        raw.s.settimeout(2)
        try:
            for _ in range(2000):
                raw.request(READ, 0, 1 << 20)
        except (socket.timeout, Closed):
            pass
        server_lives()
        raw.close()

    def disconnect_in_the_middle():
        raw = Raw()
        raw.go()
        for _ in range(64):
            raw.request(READ, 0, 1 << 20)
        raw.request(DISC)
        raw.close()

    def block_status_without_negotiation():
        raw = Raw()
        raw.go()
        raw.request(STATUS, 0, 4096)
        refused_or_closed(raw, "BLOCK_STATUS without a context")

    def cache_and_flush_with_nonsense():
        raw = Raw()
        size = raw.go()
        raw.request(CACHE, size, 512)
        refused_or_closed(raw, "CACHE past the end")

    return locals()


def thousand():
    """A thousand connections at once, each announcing a large write that it never completes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 100
    assert hard >= wanted, f"the limit of open files is {hard}: raise it to {wanted} (ulimit -n)"
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    raws = [Raw() for _ in range(CONNECTIONS)]
    errors = []

    def negotiate(part):
        try:
            for raw in part:
                raw.go()
                raw.request(READ, 0, 4096)
                assert raw.simple(4096)[0] == 0
        except (Closed, AssertionError, OSError) as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=negotiate, args=(raws[i::8],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, f"{len(errors)} connections failed: {errors[0]}"
    for raw in raws:
        raw.request(WRITE, 0, MAXIMUM)
        raw.s.setblocking(False)
        try:
            raw.s.send(b"t" * 4096)
        except BlockingIOError:
            pass
    rss = server_lives()
    for raw in raws:
        raw.close()
    return rss


def main():
    pattern = os.urandom(1 << 20)
    h = nbd.NBD()
    h.connect_uri(f"nbd+unix:///{EXPORT}?socket={SOCK}")
    # At the start, where every abusive write aims: none of them may land.
    h.pwrite(pattern, 0)
    h.flush()
    h.shutdown()
    count = 0
    for group in (handshakes(), transmissions()):
        for name, abuse in group.items():
            abuse()
            server_lives()
            well_behaved(pattern)
            count += 1
            print(f"survived: {name}")
    rss = thousand()
    print(f"survived: {CONNECTIONS} connections, {rss} KiB resident")
    well_behaved(pattern)
    server_lives()
    print(f"{count + 1} kinds of abuse, the data unchanged")


main()
