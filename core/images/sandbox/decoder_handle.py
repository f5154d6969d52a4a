"""The parent's side of one decoding process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from core.errors import TwoLensError

_CODE = (
    "import sys; sys.path[:] = {path!r}; "
    "from core.images.sandbox.decoder_process import main; main({arguments})"
)


class ProcessDiedError(Exception):
    """A process ended with a picture in hand.

    Attributes:
        signal: What ended it, 0 if it ended by itself.
    """

    def __init__(self, number: int) -> None:
        """Keep the signal."""
        self.signal = number
        super().__init__(number)


class DecoderProcess:
    """One decoding process; used by one thread at a time."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            TwoLensError: The system does not allow it.
        """
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        theirs_too = (theirs.fileno(), lifeline)
        code = _CODE.format(path=sys.path, arguments=", ".join(map(str, theirs_too)))
        # Pillow and numpy start no threads of their own: there is a process for each core.
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._connection = Connection(ours.detach())
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=theirs_too,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **one_thread},
            )
        except OSError as error:
            self._close()
            raise TwoLensError(
                f"No process to decode pictures can be started ({error.strerror})."
            ) from error
        finally:
            theirs.close()
            os.close(lifeline)
        self.is_fit = True
        self.pictures = 0

    @property
    def pid(self) -> int:
        """The system's number of the process."""
        return self._process.pid

    def send(self, *messages: bytes) -> None:
        """Send messages; raise ProcessDiedError if nobody is there."""
        with self._death_reported():
            for message in messages:
                self._connection.send_bytes(message)

    def receive(self) -> bytes:
        """Wait for one message; raise ProcessDiedError if none will come."""
        with self._death_reported():
            return self._connection.recv_bytes()

    def has_answer(self, seconds: float) -> bool:
        """Wait for a message, or for the end of the process, and tell whether there is one."""
        return self._connection.poll(seconds)

    @contextmanager
    def _death_reported(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            cause = max(0, -(self._process.returncode or 0))
            self.end()
            raise ProcessDiedError(cause) from error

    def kill(self) -> None:
        """Kill the process while another thread talks to it: that one sees it die."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process, whatever it is at, and close what was open to it."""
        if self.is_fit:
            self.is_fit = False
            self._process.kill()
            self._process.wait()
            self._close()

    def _close(self) -> None:
        self._connection.close()
        os.close(self._lifeline)
