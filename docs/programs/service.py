import asyncio
import os
import signal
import socket
import threading
import time

DATABASE = socket.create_server(("127.0.0.1", 0))  # takes connections, and never answers
SERVICE = socket.create_server(("127.0.0.1", 0))
connections: set[asyncio.Task[None]] = set()
requests: set[asyncio.Task[None]] = set()
answers: list[str] = []


async def query(text: bytes, patience: float | None) -> bytes:
    reader, writer = await asyncio.open_connection(*DATABASE.getsockname())
    try:
        async with asyncio.timeout(patience):
            writer.write(text)
            return await reader.readline()
    finally:
        writer.close()


async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
    try:
        row = await query(request, patience=0.3 if request == b"user\n" else None)
    except TimeoutError:
        row = b"504\n"
    writer.write(row)


async def hung_up(reader: asyncio.StreamReader) -> None:
    await reader.read()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    connections.add(asyncio.current_task())
    request = asyncio.create_task(answer(await reader.readline(), writer))
    gone = asyncio.create_task(hung_up(reader))
    requests.add(request)
    await asyncio.wait({request, gone}, return_when=asyncio.FIRST_COMPLETED)
    if gone.done():
        request.cancel()
    gone.cancel()
    requests.remove(request)
    writer.close()


def stop(over: asyncio.Event) -> None:
    for request in requests:
        request.cancel()
    over.set()


def clients() -> None:
    address = SERVICE.getsockname()
    with socket.create_connection(address) as impatient:
        impatient.sendall(b"report\n")
        time.sleep(0.15)
    with socket.create_connection(address) as patient:
        patient.sendall(b"user\n")
        answers.append(patient.recv(100).decode().strip())
    with socket.create_connection(address) as unlucky:
        unlucky.sendall(b"export\n")
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        answers.append(unlucky.recv(100).decode().strip() or "nothing")


async def main() -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop, over)
    async with await asyncio.start_server(serve, sock=SERVICE):
        await over.wait()
        await asyncio.gather(*connections)


thread = threading.Thread(target=clients)
thread.start()
asyncio.run(main())
thread.join()
print("answered:", *answers)
