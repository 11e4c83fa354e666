"""Processes that start fast: forked from one that has already imported torch and other modules.

A spawned process takes 15 s to start.
"""

import os
import signal
import sys
import time
from multiprocessing import parent_process
from multiprocessing.context import ForkServerContext, ForkServerProcess
from threading import Thread


class Forked(ForkServerProcess):
    """A process with the environment variables of its creator, as a spawned one has them."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.environment = dict(os.environ)

    def run(self):
        os.environ.clear()
        os.environ.update(self.environment)
        super().run()


class Context(ForkServerContext):
    """Replaces `multiprocessing.get_context("spawn")` in tests."""

    Process = Forked


CONTEXT = Context()
# Not fer_lib: its import has side effects, which each process needs for itself.
HEAVY = ["accelerate", "timm", "torch._dynamo", "transformers", "sklearn.metrics", "seaborn"]
CONTEXT.set_forkserver_preload([*HEAVY, "ipykernel.kernelapp"])


def killed_at(words, call, *arguments, **named):
    """Make a call in another process, which kills itself when it prints these words."""
    process = CONTEXT.Process(target=until_it_prints, args=(words, call, arguments, named))
    process.start()
    assert ended(process) == -signal.SIGKILL


def ended(process):
    """Wait for a process and return its exit code; after five minutes, kill it and return None."""
    process.join(300)
    code = process.exitcode
    process.kill()
    return code


def until_it_prints(words, call, arguments, named):
    sys.stdout.write = lambda text: words in text and os.kill(os.getpid(), signal.SIGKILL)
    call(*arguments, **named)


def begin_work(path):
    """Work in a process of the benchmarks, which is spawned; here, as it imports only this file."""
    from measure import Apart

    Apart(work, path).ready.result()


def work(path):
    """Touch a file for ten minutes, longer than a test waits for it."""
    for _ in range(6000):
        path.touch()
        time.sleep(0.1)


class Kernel(Forked):
    """A notebook kernel that `jupyter_client` uses like a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, command, env):
        super().__init__(target=serve, args=(command,), daemon=True)
        # Without JPY_PARENT_PID, since the parent of the kernel is the fork server.
        self.environment = {k: v for k, v in env.items() if k != "JPY_PARENT_PID"}
        self.start()
        while os.getpgid(self.pid) != self.pid:  # otherwise signals go to our group
            time.sleep(0.01)

    def poll(self):
        return self.exitcode

    wait = ForkServerProcess.join


def serve(command):
    from ipykernel.kernelapp import launch_new_instance

    os.setsid()
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
    sys.argv = command[2:]
    sys.path[:0] = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    for name in ("tqdm.auto", "tqdm.autonotebook"):  # they choose a bar on import
        sys.modules.pop(name, None)
    launch_new_instance()
