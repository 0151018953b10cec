"""What is around the tour's services: their customers, in threads, and a database that may take its time."""

import http.client
import itertools
import socketserver
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Address = tuple[str, int]
CUSTOMERS = 20


class Database(socketserver.ThreadingTCPServer):
    """Answers each line with one, after so many seconds."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, seconds: dict[str, float]) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.seconds = seconds
        self.asked = {question: threading.Event() for question in seconds}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            question = line.decode().strip()
            self.server.asked[question].set()
            time.sleep(self.server.seconds[question])
            self.wfile.write(b"a row\n")


def get(address: Address, path: str) -> int | str:
    """The status of the answer, if there is one."""
    connection = http.client.HTTPConnection(*address)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except ConnectionError:
        return "no answer"
    finally:
        connection.close()


def get_at_once(address: Address, *paths: str) -> list[int | str]:
    with ThreadPoolExecutor(len(paths)) as threads:
        return list(threads.map(get, [address] * len(paths), paths))


def hang_up(address: Address, path: str, database: Database, question: str) -> None:
    """Ask, and go while the database is at it."""
    connection = http.client.HTTPConnection(*address)
    connection.request("GET", path)
    while_at(database, question, connection.close).join()


def while_at(database: Database, question: str, function: Callable[..., None], *arguments: object) -> threading.Thread:
    """Do something while the database is at this question."""

    def wait_and_do() -> None:
        database.asked[question].wait()
        time.sleep(0.2)
        function(*arguments)

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    return thread


def load(address: Address, path: str) -> None:
    """Customers that ask again and again, each on a connection that is kept, as long as they are answered.

    Returns when all of them are at it.
    """
    all_of_them = threading.Barrier(CUSTOMERS + 1)
    for _ in range(CUSTOMERS):
        threading.Thread(target=ask_on, args=(address, path, all_of_them), daemon=True).start()
    all_of_them.wait()


def ask_on(address: Address, path: str, all_of_them: threading.Barrier) -> None:
    connection = http.client.HTTPConnection(*address)
    try:
        for number in itertools.count():
            connection.request("GET", path)
            connection.getresponse().read()
            if number == 5:
                all_of_them.wait()
            time.sleep(0.03)
    except (OSError, http.client.HTTPException):
        connection.close()
