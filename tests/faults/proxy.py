"""A TCP proxy that cuts, stalls, slows and flips what passes, at bytes that a test names."""

import asyncio
import contextlib
import threading
from dataclasses import dataclass

BLOCK = 16_384


@dataclass(frozen=True)
class Fault:
    """Something that happens once, when so many bytes of the server have passed."""

    at: int
    kind: str
    """`cut` ends the connection, `flip` inverts one byte, `stall` waits."""
    seconds: float = 0.0


def cut_after(at):
    return Fault(at, "cut")


def flip(at):
    return Fault(at, "flip")


def stall(at, seconds):
    return Fault(at, "stall", seconds)


class Proxy:
    """Listens on loopback in a thread of its own; use it as a context manager.

    Bytes are counted over all connections, in the direction from the server to its clients.
    """

    def __init__(self, target, *faults, rate=None, upwards=False):
        self._host, self._port = target.rsplit(":", 1)
        self._waiting = sorted(faults, key=lambda fault: fault.at)
        self._rate = rate
        self._upwards = upwards
        self.happened = []
        self.passed = 0
        self._loop = asyncio.new_event_loop()
        self._server = None
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, ready):
        asyncio.set_event_loop(self._loop)
        starting = asyncio.start_server(self._connection, "127.0.0.1", 0, limit=BLOCK)
        self._server = self._loop.run_until_complete(starting)
        ready.set()
        self._loop.run_forever()
        self._server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _connection(self, near_in, near_out):
        try:
            far_in, far_out = await asyncio.open_connection(self._host, self._port, limit=BLOCK)
        except OSError:
            near_out.transport.abort()
            return
        down = self._pump(far_in, near_out, faulty=not self._upwards)
        up = self._pump(near_in, far_out, faulty=self._upwards)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            tasks = [asyncio.ensure_future(pump) for pump in (down, up)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        near_out.transport.abort()
        far_out.transport.abort()

    async def _pump(self, source, sink, *, faulty):
        while data := await source.read(BLOCK):
            if not faulty:
                sink.write(data)
                await sink.drain()
                continue
            data = bytearray(data)
            begin = self.passed
            self.passed += len(data)
            while self._waiting and self._waiting[0].at < self.passed:
                fault = self._waiting.pop(0)
                self.happened.append(fault)
                place = max(0, fault.at - begin)
                if fault.kind == "cut":
                    sink.write(data[:place])
                    self.passed = begin + place
                    return
                if fault.kind == "flip":
                    data[place] ^= 0xFF
                else:
                    await asyncio.sleep(fault.seconds)
            if self._rate:
                await asyncio.sleep(len(data) / self._rate)
            sink.write(data)
            await sink.drain()
