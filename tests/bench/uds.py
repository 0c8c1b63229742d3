"""A keep-alive HTTP client on a unix socket for benchmarks: what it costs must not count."""
import socket


class Client:
    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.connect(path)
        self.buf = b""

    def request(self, head, body=b""):
        self.send(head, body)
        return self.receive()

    def send(self, head, body=b""):
        self.s.sendall(head.encode() + b"\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    def receive(self):
        while b"\r\n\r\n" not in self.buf:
            self.buf += self.s.recv(1 << 20)
        headers, _, rest = self.buf.partition(b"\r\n\r\n")
        n = next(int(h.split(b":")[1]) for h in headers.split(b"\r\n") if h.lower().startswith(b"content-length"))
        while len(rest) < n:
            rest += self.s.recv(1 << 20)
        self.buf = rest[n:]
        return int(headers.split(b" ", 2)[1]), rest[:n]


def percentile(xs, p):
    return sorted(xs)[min(len(xs) - 1, int(len(xs) * p / 100))] * 1e3
