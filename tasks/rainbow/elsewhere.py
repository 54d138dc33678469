"""An environment in a process of its own, which emulates while this one learns.

A thread would not do: the emulator lets others run only while it is inside a call, and both would
wait for each other's Python most of the time.
"""

import multiprocessing
import pickle
import signal
import weakref
from multiprocessing.connection import Connection
from typing import Any

from numpy.typing import NDArray

from tasks.rainbow import environment
from tasks.rainbow.environment import Environment, Outcome

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


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
        process = spawn.Process(target=_serve, args=(end, settings), daemon=True)
        process.start()
        end.close()  # so that the death of the process ends the conversation
        weakref.finalize(self, self._wire.close)
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
        self._wire.send_bytes(pickle.dumps((method, given)))

    def _receive(self) -> Any:
        try:
            result = pickle.loads(self._wire.recv_bytes())
        except EOFError:
            raise RuntimeError("the process of the environment has ended") from None
        if isinstance(result, Exception):
            raise result
        return result


def _serve(wire: Connection, settings: dict[str, Any]) -> None:
    """Do as asked until the other side is gone. Who stops a run asks the other side to save, which
    takes the state from here."""
    for name in SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    here = environment.make(**settings)
    while True:
        try:
            method, given = pickle.loads(wire.recv_bytes())
        except (EOFError, ConnectionResetError):
            return
        try:
            result = getattr(here, method)(*given)
        except Exception as error:  # whatever an environment raises is the other side's to raise
            result = error
        try:
            wire.send_bytes(pickle.dumps(result))
        except BrokenPipeError:
            return
