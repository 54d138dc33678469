"""An environment in a process of its own, which emulates while this one learns.

A thread would not do: the emulator lets others run only while it is inside a call, and both would
wait for each other's Python most of the time.
"""

import multiprocessing
import pickle
import signal
import time
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

from numpy.typing import NDArray

from tasks.rainbow import environment
from tasks.rainbow.environment import Environment, Outcome

SECONDS_AWAKE = 3e-3
GONE = "the process of the environment has ended"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        spawn = multiprocessing.get_context("spawn")  # a fork would inherit a GPU's context
        self._wire, end = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(end, settings), daemon=True)
        # Who stops a run asks this process to save, for which the other is needed: it inherits that
        # these signals wait. (The tracker, which comes with the first process, would let them in.)
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        end.close()  # so that the death of the process ends the conversation
        # before multiprocessing waits, at the exit of this process, for the other one's end
        Finalize(self, self._wire.close, exitpriority=1)
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


def _serve(wire: Connection, settings: dict[str, Any]) -> None:
    """Do as asked until the other side is gone."""
    here = environment.make(**settings)
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
