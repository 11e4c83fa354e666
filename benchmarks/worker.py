"""Run calls one after another in a separate process that can be ended at any time."""

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
"""Seconds that an idle process is given to end by itself."""


class Worker:
    """One process that runs calls; it is started with the first call, and again if it has ended.

    Attributes:
        name: name of the call that is running; None if there is none.
        began: when that call began, in seconds of `time.time`.
    """

    def __init__(self, place: Place):
        self.place, self.process = place, None
        self.name: str | None = None
        self.began = 0.0

    def start(self, name: str, call: Callable[[Place], Any]) -> None:
        """Start a call in the process: a function of a module or a method, which can be pickled."""
        if self.process is None:
            context = get_context("spawn")  # CUDA does not survive a fork
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=serve, args=(other, self.place), daemon=True)
            self.process.start()
            other.close()  # so that the pipe ends with the process
        self.name, self.began = name, time.time()
        self.pipe.send((name, call))

    def answer(self) -> tuple[Any, str]:
        """Wait for the call; return its value, and what went wrong ("" for nothing).

        After a failure the process is ended: what it has left on the device may be broken.
        """
        try:
            value, problem = self.pipe.recv()
        except (EOFError, OSError):
            value, problem = None, "its process was ended, perhaps for lack of memory"
        self.name = None
        if problem:
            self.end()
        return value, problem

    def end(self) -> None:
        """End the process, even while a call is running."""
        if self.process is not None:
            self.pipe.close()
            if self.name is None:  # idle, so it ends by itself once the pipe is closed
                self.process.join(LAST_SECONDS)
            self.process.kill()
            self.process.join()
        self.process = self.name = None


def serve(pipe: Connection, place: Place) -> None:
    """Run calls in the process until the pipe is closed."""
    command = without_only(sys.argv)
    while True:
        try:
            name, call = pipe.recv()
        except EOFError:
            return
        sys.argv = [*command, "--only", name]  # the command that a run records: this entry alone
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
        except BrokenPipeError:  # the process that asked was ended
            return


def without_only(command: list[str]) -> list[str]:
    """Leave out of a command the entries that `--only` names, and `--only` itself."""
    kept, named = [], False
    for word in command:
        if word.startswith("--"):
            named = word.partition("=")[0] == "--only"
        if not named:
            kept.append(word)
    return kept
