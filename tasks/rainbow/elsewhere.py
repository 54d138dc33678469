"""An environment in a process of its own, which emulates while this one learns.

A thread would not do: the emulator lets others run only while it is inside a call, and both would
wait for each other's Python most of the time.
"""

import pickle
import signal
import subprocess
import sys
import time
import weakref
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import cv2
from numpy.typing import NDArray

from tasks.rainbow import environment
from tasks.rainbow.environment import Environment, Outcome

SECONDS_AWAKE = 3e-3
GONE = "the process of the environment has ended"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Elsewhere:
    """The environment ``here``, gone on with in another process, which ends with this object.

    Args:
        here: what the other one is like; of those that `environment.make` makes.
        settings: what `environment.make` made it from.
        begun: whether it has been reset, so that there is a state to take over.
    """

    def __init__(self, here: Environment, settings: dict[str, Any], begun: bool) -> None:
        self.actions, self.shape, self.dtype = here.actions, here.shape, here.dtype
        self.stack, self.frames_per_step = here.stack, here.frames_per_step
        self._wire, end = Pipe()
        # Not multiprocessing's: that runs anew what the main module is, which in a launcher's worker
        # goes wrong.
        code = f"import sys; sys.path[:] = {sys.path}; from {__name__} import serve; serve({end.fileno()})"
        # Who stops a run asks this process to save, for which the other is needed: it inherits that
        # these signals wait.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[end.fileno()])
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        end.close()  # so that the death of the process ends the conversation
        weakref.finalize(self, _finish, self._wire, self.process)
        self._wire.send_bytes(pickle.dumps(settings))
        if begun:
            self.restore(here.state())

    def begin(self, action: int) -> None:
        """Have ``action`` taken; `end` gives what it led to."""
        self._send("step", action)

    def end(self) -> Outcome:
        return self._receive()

    def step(self, action: int) -> Outcome:
        self.begin(action)
        return self.end()

    def reset(self) -> NDArray[Any]:
        self._send("reset")
        return self._receive()

    def state(self) -> dict[str, Any]:
        self._send("state")
        return self._receive()

    def restore(self, state: dict[str, Any]) -> None:
        self._send("restore", state)
        self._receive()

    def _send(self, method: str, *given: Any) -> None:
        # not the connection's own way, in which tensors travel as shared memory
        try:
            self._wire.send_bytes(pickle.dumps((method, given)))
        except OSError:
            raise RuntimeError(GONE) from None

    def _receive(self) -> Any:
        try:
            result = _received(self._wire)
        except (EOFError, OSError):
            raise RuntimeError(GONE) from None
        if isinstance(result, Exception):
            raise result
        return result


def _received(wire: Connection) -> Any:
    """The next message. Who sleeps while he waits is woken late, by a third of an emulated step on
    a virtual machine: for so long as an answer usually takes he looks again and again."""
    until = time.monotonic() + SECONDS_AWAKE
    while not wire.poll() and time.monotonic() < until:
        pass
    return pickle.loads(wire.recv_bytes())


def _finish(wire: Connection, process: subprocess.Popen[bytes]) -> None:
    wire.close()
    process.wait()


def serve(file: int) -> None:
    """In the other process: do as asked through this open file until the other side is gone."""
    wire = Connection(file)
    # Threads that share out a small picture keep cores busy while they wait for the next.
    cv2.setNumThreads(1)
    here = environment.make(**_received(wire))
    while True:
        try:
            method, given = _received(wire)
        except (EOFError, OSError):
            return
        try:
            result = getattr(here, method)(*given)
        except Exception as error:  # whatever an environment raises is the other side's to raise
            result = error
        try:
            wire.send_bytes(pickle.dumps(result))
        except OSError:
            return
