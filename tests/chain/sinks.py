"""Pipes that are down, slow, refusing, closing or not who they should be."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from integration.receivers import free_ports

Sink = Callable[[Path], AbstractContextManager[str]]
"""Given a directory to work in, a context that gives the endpoint."""

SLOW = 60.0
HOST = "127.0.0.1"


@contextmanager
def down(_: Path) -> Iterator[str]:
    yield f"http://{HOST}:{free_ports(1)[0]}"


@contextmanager
def closing(_: Path) -> Iterator[str]:
    """Takes every connection and closes it."""
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            try:
                while True:
                    listener.accept()[0].close()
            except OSError:
                return

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://{HOST}:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def over_http(status: int, *, slow: bool = False) -> Sink:
    """A server that answers so, or never."""

    @contextmanager
    def sink(_: Path) -> Iterator[str]:
        with http_server(status, slow=slow) as server:
            yield f"http://{HOST}:{server.server_port}"

    return sink


@contextmanager
def http_server(status: int, *, slow: bool = False) -> Iterator[ThreadingHTTPServer]:
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            if slow:
                ended.wait(SLOW)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that went away is what the test is about."""

    server = Server((HOST, 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    ended.set()
    server.shutdown()
    server.server_close()
    thread.join()


def over_grpc(status: grpc.StatusCode, *, slow: bool = False) -> Sink:
    """A server that answers so, or never."""

    @contextmanager
    def sink(_: Path) -> Iterator[str]:
        with grpc_server(status, slow=slow) as (server, port):
            del server
            yield f"http://{HOST}:{port}"

    return sink


@contextmanager
def grpc_server(
    status: grpc.StatusCode, *, slow: bool = False, credentials: grpc.ServerCredentials | None = None
) -> Iterator[tuple[grpc.Server, int]]:
    ended = threading.Event()

    def answer(_: bytes, context: grpc.ServicerContext) -> bytes:
        if slow:
            ended.wait(SLOW)
        if status is not grpc.StatusCode.OK:
            context.abort(status, "planted")
        return b""

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, handlers=[Handler()])
        address = f"{HOST}:0"
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        server.start()
        yield server, port
        ended.set()
        server.stop(0).wait()


def certificate(directory: Path) -> tuple[Path, Path]:
    """Of an authority that nobody trusts, for another name."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=somebody.invalid"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return key, certificate


@contextmanager
def wrong_over_http(directory: Path) -> Iterator[str]:
    """TLS, with a certificate that nobody trusts."""
    key, chain = certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    with http_server(200) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        yield f"https://{HOST}:{server.server_port}"


@contextmanager
def wrong_over_grpc(directory: Path) -> Iterator[str]:
    """TLS, with a certificate that nobody trusts."""
    key, chain = certificate(directory)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), chain.read_bytes())])
    with ExitStack() as stack:
        _, port = stack.enter_context(grpc_server(grpc.StatusCode.OK, credentials=credentials))
        yield f"https://{HOST}:{port}"


GRPC: dict[str, Sink] = {
    "down": down,
    "closing": closing,
    "slow": over_grpc(grpc.StatusCode.OK, slow=True),
    "exhausted": over_grpc(grpc.StatusCode.RESOURCE_EXHAUSTED),
    "unavailable": over_grpc(grpc.StatusCode.UNAVAILABLE),
    "wrong certificate": wrong_over_grpc,
}
HTTP: dict[str, Sink] = {
    "down": down,
    "closing": closing,
    "slow": over_http(200, slow=True),
    "429": over_http(429),
    "503": over_http(503),
    "wrong certificate": wrong_over_http,
}
