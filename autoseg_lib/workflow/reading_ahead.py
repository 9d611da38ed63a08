"""Reading the next scan and writing the last one while the network works on this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")
Given = TypeVar("Given")
Done = TypeVar("Done")

# One being read or waiting, one with the network, one being written: more would only fill the memory.
PLACES = 3
# How long the main thread sleeps between two looks at what the others do.
_LOOK_SECONDS = 0.2


class _End:
    pass


class Overlap(Generic[Item, Given, Done]):
    """Three steps over a list, each on another item: a thread reads, the caller's thread works, a thread writes.

    The order stays that of the list. Of all items together at most ``places`` are between the beginning of reading and the
    end of writing. Steps deal with faults of single items themselves; what one raises all the same ends the whole.

    Attributes:
        ending: set as soon as no further item is wanted; an iterator that waits should look at it.
    """

    def __init__(
        self,
        read: Callable[[Item], Given],
        work: Callable[[Given], Done],
        write: Callable[[Done], None],
        *,
        between: Callable[[], None] = lambda: None,
        places: int = PLACES,
    ) -> None:
        """Args:
        read: runs in a thread of its own.
        work: runs in the thread that calls ``run``.
        write: runs in a thread of its own.
        between: called in the thread of ``run`` again and again, also while it waits for reading.
        places: items in hand at a time.
        """
        self.ending = threading.Event()
        self._read, self._work, self._write, self._between = read, work, write, between
        self._places = threading.Semaphore(places)
        self._ready: queue.Queue[Given | _End] = queue.Queue()
        self._finished: queue.Queue[Done | _End] = queue.Queue()
        self._fault: list[BaseException] = []
        self._cannot_write = threading.Event()

    def run(self, items: Iterator[Item]) -> None:
        """Goes through all items; ``items`` is asked for the next one in the reading thread, when there is a place for it.

        What was worked on is written even when ``work`` raises something (a stop, an interrupt), which is then raised.
        """
        reader = threading.Thread(target=self._reading, args=(items,), name="reading", daemon=True)
        writer = threading.Thread(target=self._writing, name="writing", daemon=True)
        reader.start()
        writer.start()
        try:
            while (given := self._next()) is not None:
                self._finished.put(self._work(given))
                del given
        finally:
            self.ending.set()
            self._finished.put(_End())
            while writer.is_alive():
                writer.join(_LOOK_SECONDS)
                self._between()
            # A read that hangs on a network drive must not hold back what has ended.
            reader.join(timeout=5.0)
            self._between()
        if self._fault:
            raise self._fault[0]

    def _next(self) -> Given | None:
        """Returns the next item that has been read; None at the end, or when nothing can be written any more."""
        while not self._cannot_write.is_set():
            self._between()
            try:
                given = self._ready.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            return None if isinstance(given, _End) else given
        return None

    def _reading(self, items: Iterator[Item]) -> None:
        try:
            while self._place():
                try:
                    item = next(items)
                except StopIteration:
                    return
                self._ready.put(self._read(item))
        except BaseException as error:  # noqa: BLE001 - raised in the thread of run
            self._fault.append(error)
        finally:
            self._ready.put(_End())

    def _place(self) -> bool:
        while not self.ending.is_set():
            if self._places.acquire(timeout=_LOOK_SECONDS):
                return not self.ending.is_set()
        return False

    def _writing(self) -> None:
        while not isinstance(done := self._finished.get(), _End):
            try:
                self._write(done)
            except BaseException as error:  # noqa: BLE001 - raised in the thread of run
                self._fault.append(error)
                self._cannot_write.set()
                self.ending.set()
                return
            finally:
                self._places.release()
                del done
