"""Unpacking compressed pixels: one file's frames, and many files at once in processes of their own.

Decoders are slow (10 to 40 ms a slice) and all but JPEG-LS's hold Python's lock, so threads do not help. The helpers are
started as plain programs that read requests and write pixels through pipes: nothing is pickled, a script that reads a
scan needs no ``if __name__ == "__main__"``, and a decoder that crashes on a damaged file takes only its helper with it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, pixel_array

from autoseg_lib.errors import DataError
from autoseg_lib.io.dicom_headers import open_dicom

# JPEG of 12 bits with loss, which the usual decoder does not know and SimpleITK's does.
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
# Helper processes take some seconds of work to start; they have to save more than that. Threads start at once.
_WORTH_SECONDS, _THREADS_WORTH_SECONDS = 2.0, 0.2
# Rows and columns are numbers of 16 bits.
_LARGEST_SIDE = 65535
# Slices that are unpacked here first, to learn how long one takes.
_TRIAL = 4
_MOST_HELPERS = 8
# Frames of one file that are asked for at a time.
_FRAMES_AT_ONCE = 16


@dataclass(frozen=True)
class Wanted:
    """A frame to unpack.

    Attributes:
        path: the file.
        frame: frame from 0.
        rows, columns: the matrix that the header gives.
        lut: whether the file's modality table is to be applied.
        syntax: UID of the encoding.
    """

    path: Path
    frame: int
    rows: int
    columns: int
    lut: bool
    syntax: str = ""


def unpack(wanted: Sequence[Wanted]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yields (index into ``wanted``, stored values (row, column)) in any order, each once.

    Raises:
        DataError: pixels cannot be decoded, or are of another size than the header says.
    """
    if not wanted:
        return
    if any(one.syntax == _JPEG_EXTENDED for one in wanted):
        # SimpleITK writes to the screen while it tries; a helper's words go nowhere.
        yield from _with_helpers(wanted, 0, min(_MOST_HELPERS, _cores(), len(wanted)))
        return
    opened = OpenedFile()
    trial = min(_TRIAL, len(wanted))
    start = time.perf_counter()
    for index in range(trial):
        yield index, opened.stored(wanted[index])
        if index == 0:
            start = time.perf_counter()  # the first one also loads the decoder
    left = len(wanted) - trial
    seconds = (time.perf_counter() - start) / max(1, trial - 1) * left
    helpers = min(_MOST_HELPERS, _cores(), left)
    threads = wanted[0].syntax in _JPEG_LS and find_spec("jpeg_ls") is not None
    saved = seconds * (1 - 1 / max(1, helpers))
    if helpers > 1 and saved > (_THREADS_WORTH_SECONDS if threads else _WORTH_SECONDS):
        yield from _with_helpers(wanted, trial, helpers, processes=not threads)
        return
    for index in range(trial, len(wanted)):
        yield index, opened.stored(wanted[index])


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what decoders log and warn of from the screen: the DataErrors here say all a user can act on."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _cores() -> int:
    """Returns how many cores have nothing else to do; on a busy computer helpers only get into each other's way."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = os.cpu_count() or 1
    try:
        others = max(0.0, os.getloadavg()[0] - 1)  # this program is one of those that run
    except (AttributeError, OSError):  # Windows
        return cores
    return max(1, round(cores - others))


# --- one file ---------------------------------------------------------------------------------------------------------


class OpenedFile:
    """Unpacks frames; keeps the last file, whose frames come one after the other.

    Args:
        may_write: whether a decoder may write to the screen; True in a helper, whose words go nowhere.
    """

    def __init__(self, may_write: bool = False) -> None:
        self._may_write = may_write
        self._path: Path | None = None
        self._dataset: FileDataset | None = None

    def stored(self, wanted: Wanted) -> npt.NDArray[Any]:
        """Returns (row, column) stored values.

        Raises:
            DataError: they cannot be decoded, or are of another size than the header says.
        """
        try:
            if self._path != wanted.path or self._dataset is None:
                self._dataset = open_dicom(wanted.path)
                self._path = wanted.path
            try:
                found = _decoded(self._dataset, wanted)
            except RuntimeError:
                if not (self._may_write and wanted.syntax == _JPEG_EXTENDED):
                    raise
                found = _by_simpleitk(self._dataset, wanted)
            if wanted.lut:
                found = np.asarray(apply_modality_lut(found, self._dataset))
        except DataError:
            raise
        except (KeyboardInterrupt, SystemExit):
            raise
        except (
            BaseException
        ) as error:  # decoders raise anything; those written in Rust panic outside Exception
            raise DataError(
                f"'{wanted.path.name}': its pixels cannot be decoded ({_short(error)}). The file is damaged or "
                "uses a compression that is not supported. Export it again, uncompressed."
            ) from error
        if found.shape != (wanted.rows, wanted.columns):
            raise _other_size(wanted, "×".join(map(str, found.shape)))
        return found


def _other_size(wanted: Wanted, found: str) -> DataError:
    return DataError(
        f"'{wanted.path.name}': its pixels are {found}, its header says {wanted.rows}×{wanted.columns}. "
        "The file is damaged; export it again."
    )


def _decoded(dataset: FileDataset, wanted: Wanted) -> npt.NDArray[Any]:
    syntax = dataset.file_meta.TransferSyntaxUID
    frames = int(dataset.get("NumberOfFrames") or 1)
    if syntax.is_encapsulated:
        packed = _first_bytes(dataset, wanted.frame, frames)
        if packed[:2] in _STARTS and _END not in packed[-_TAIL:]:
            # Decoders make up what is missing, without a word; one searches for it for seconds.
            raise DataError(
                f"'{wanted.path.name}': the file ends early (its compressed pixels have no end mark). Copy or export it again."
            )
        size = _picture_size(packed)
        if size is not None and size != (wanted.rows, wanted.columns):
            # Said before the decoder takes memory for what the picture says of itself.
            if max(size) > _LARGEST_SIDE:
                raise ValueError("the beginning of its picture is damaged")
            raise _other_size(wanted, f"{size[0]}×{size[1]}")
    index = wanted.frame if frames > 1 else None
    if syntax in _JPEG_LS:
        try:  # twice as fast as the other decoder
            return np.asarray(pixel_array(dataset, index=index, decoding_plugin="pyjpegls"))
        except Exception:  # noqa: BLE001  # not installed, or it cannot: the usual decoder may
            return np.asarray(pixel_array(dataset, index=index))
    return np.asarray(pixel_array(dataset, index=index))


# JPEG and JPEG-LS begin with FFD8, JPEG 2000 with FF4F; all end with FFD9 (ITU-T T.81, T.87, T.800), and padding may follow.
_STARTS, _END, _TAIL = (b"\xff\xd8", b"\xff\x4f"), b"\xff\xd9", 64


def _by_simpleitk(dataset: FileDataset, wanted: Wanted) -> npt.NDArray[Any]:
    """Returns stored values by SimpleITK's decoder, which applies slope and intercept: they are taken away again."""
    import SimpleITK as sitk

    if dataset.PhotometricInterpretation != "MONOCHROME2" or int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ValueError("JPEG Extended of an unusual kind")
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(wanted.path))).reshape(wanted.rows, wanted.columns)
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    return np.asarray(np.round((values - intercept) / slope), dtype=np.int32)


def _first_bytes(dataset: FileDataset, frame: int, frames: int) -> bytes:
    """Returns the packed bytes of one frame."""
    parts = generate_frames(dataset.PixelData, number_of_frames=frames)
    return next((part for number, part in enumerate(parts) if number == frame), b"")


# Markers that begin a picture's description: JPEG (ITU-T T.81, B.2.2) and JPEG-LS (T.87, C.2.2).
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}


def _picture_size(data: bytes) -> tuple[int, int] | None:
    """Returns (rows, columns) that a JPEG, JPEG-LS or JPEG 2000 picture gives itself; None where it is another kind."""
    if (
        data[:4] == b"\xff\x4f\xff\x51" and len(data) >= 24
    ):  # JPEG 2000: start, then sizes (ISO 15444-1, A.5.1)
        width, height, left, top = struct.unpack(">4I", data[8:24])
        return height - top, width - left
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in _FRAME_MARKERS:
            rows, columns = struct.unpack(">HH", data[place + 5 : place + 9])
            return (rows, columns) if rows else None  # 0: the number of lines comes later
        place += 2 + int(struct.unpack(">H", data[place + 2 : place + 4])[0])
    return None


def _short(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0].rstrip(":. ")[:120] if text else type(error).__name__


# --- many files at once -------------------------------------------------------------------------------------------------


def _with_helpers(
    wanted: Sequence[Wanted], first: int, count: int, *, processes: bool = True
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Unpacks ``wanted[first:]`` in ``count`` processes, or in threads where the decoder lets go of Python's lock."""
    requests: queue.SimpleQueue[list[int] | None] = queue.SimpleQueue()
    jobs = _jobs(wanted, first)
    for job in [*jobs, *[None] * count]:
        requests.put(job)
    # A few slices wait here at most, so that memory does not grow when unpacking is faster than the rest.
    answers: queue.Queue[tuple[int, npt.NDArray[Any]] | Exception] = queue.Queue(maxsize=4 * count)
    stopped = threading.Event()
    helpers = [_Helper(wanted, requests, answers, stopped, processes) for _ in range(count)]
    for helper in helpers:
        helper.thread.start()
    try:
        for _ in range(first, len(wanted)):
            answer = answers.get()
            if isinstance(answer, Exception):
                raise answer
            yield answer
    finally:
        stopped.set()
        for helper in helpers:
            helper.end()


def _jobs(wanted: Sequence[Wanted], first: int) -> list[list[int]]:
    jobs: list[list[int]] = []
    for index in range(first, len(wanted)):
        last = jobs[-1] if jobs else None
        if last and wanted[last[0]].path == wanted[index].path and len(last) < _FRAMES_AT_ONCE:
            last.append(index)
        else:
            jobs.append([index])
    return jobs


class _Helper:
    """A thread that unpacks, or talks to a process that does."""

    def __init__(
        self,
        wanted: Sequence[Wanted],
        requests: queue.SimpleQueue[list[int] | None],
        answers: queue.Queue[tuple[int, npt.NDArray[Any]] | Exception],
        stopped: threading.Event,
        process: bool,
    ) -> None:
        self._wanted, self._requests, self._answers, self._stopped = wanted, requests, answers, stopped
        self._wants_process = process
        self._process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def end(self) -> None:
        """Stops the process, at once."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self.thread.join(timeout=10)

    def _run(self) -> None:
        try:
            self._process = _start() if self._wants_process else None
        except OSError:
            self._process = None  # no more processes allowed here: unpack in this one
        opened = OpenedFile()
        while not self._stopped.is_set() and (job := self._requests.get()) is not None:
            try:
                if self._process is None:
                    for index in job:
                        self._answer((index, opened.stored(self._wanted[index])))
                else:
                    self._ask(self._process, job)
            except Exception as error:  # noqa: BLE001  # the reader has to hear of it instead of waiting
                self._answer(error)
                break
        if self._process is not None:
            self._close(self._process)

    def _close(self, process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # the process is gone
                    continue
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()

    def _ask(self, process: subprocess.Popen[bytes], job: list[int]) -> None:
        if process.stdin is None or process.stdout is None:
            raise OSError("no pipes to a helper process")
        first = self._wanted[job[0]]
        frames = [self._wanted[index].frame for index in job]
        line = {
            "path": str(first.path),
            "frames": frames,
            "size": [first.rows, first.columns],
            "lut": first.lut,
            "syntax": first.syntax,
        }
        crash = DataError(
            f"'{first.path.name}': its pixels cannot be decoded (the decoder stopped). The file is damaged. "
            "Export it again, uncompressed."
        )
        try:
            process.stdin.write(json.dumps(line).encode("utf-8") + b"\n")
            process.stdin.flush()
            for index in job:
                self._answer((index, _received(process.stdout)))
        except (OSError, ValueError, KeyError) as error:
            if self._stopped.is_set():
                return
            raise crash from error

    def _answer(self, answer: tuple[int, npt.NDArray[Any]] | Exception) -> None:
        while not self._stopped.is_set():
            try:
                self._answers.put(answer, timeout=0.5)
                return
            except queue.Full:
                continue


def _start() -> subprocess.Popen[bytes]:
    places = [str(Path(__file__).resolve().parents[2]), *(part for part in sys.path if part)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    environment["PYTHONIOENCODING"] = "utf-8"
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # Windows: no black window for each
    return subprocess.Popen(
        # -P: a file named json.py in the working folder, perhaps handed over with the scans, must not be run.
        [sys.executable, "-P", "-m", "autoseg_lib.io.decode_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        creationflags=flags,
    )


def _received(stream: IO[bytes]) -> npt.NDArray[Any]:
    """Returns one answer of a helper.

    Raises:
        DataError: what the helper says is wrong with the file.
        OSError: the helper is gone.
    """
    line = stream.readline()
    if not line:
        raise OSError("a helper process ended")
    head = json.loads(line)
    if "error" in head:
        raise DataError(str(head["error"]))
    pixels = np.empty(tuple(head["shape"]), dtype=np.dtype(str(head["dtype"])))
    data = pixels.data.cast("B")
    done = 0
    while done < len(data):
        count = stream.readinto(data[done:])  # type: ignore[attr-defined]
        if not count:
            raise OSError("a helper process ended")
        done += count
    return pixels
