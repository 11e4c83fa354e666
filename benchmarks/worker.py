"""A process that does one thing after another, and can be ended at any time."""

import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from entries import Place

from fer_lib.files import InputError

LAST_SECONDS = 10.0
"""For a process that waits to end by itself."""


class Worker:
    """One process; it is started with the first thing to do, and anew where it has ended.

    Attributes:
        name: of what it is doing; None while it does nothing.
        began: when that was begun, seconds of `time.time`.
    """

    def __init__(self, place: Place):
        self.place, self.process = place, None
        self.name: str | None = None
        self.began = 0.0

    def start(self, name: str, call: Callable[[Place], Any]) -> None:
        """Have it call a function of a module, or a method, which can be pickled."""
        if self.process is None:
            context = get_context("spawn")  # CUDA does not survive a fork
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=serve, args=(other, self.place), daemon=True)
            self.process.start()
            other.close()  # so that its end is the end of the pipe
        self.name, self.began = name, time.time()
        self.pipe.send((name, call))

    def answer(self) -> tuple[Any, str]:
        """What the call returned, and what went wrong ("" for nothing); waits for it.

        After a failure the process is ended: what it has left on the device may be broken.
        """
        try:
            value, problem = self.pipe.recv()
        except (EOFError, OSError):
            value, problem = None, "its process was ended, as where memory runs out"
        self.name = None
        if problem:
            self.end()
        return value, problem

    def end(self) -> None:
        """End the process, whatever it is doing."""
        if self.process is not None:
            self.pipe.close()
            if self.name is None:  # it waits, and ends by itself when there is nobody to wait for
                self.process.join(LAST_SECONDS)
            self.process.kill()
            self.process.join()
        self.process = self.name = None


def serve(pipe: Connection, place: Place) -> None:
    """What the process does: calls, until there are no more."""
    command = list(sys.argv)
    while True:
        try:
            name, call = pipe.recv()
        except EOFError:
            return
        sys.argv = [*command, "--only", name]  # as a run records it: alone
        value, problem = None, ""
        try:
            value = call(place)
        except InputError as error:
            problem = str(error)
        except Exception as error:
            traceback.print_exc()
            problem = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        try:
            pipe.send((value, problem))
        except BrokenPipeError:  # whoever asked was ended
            return
