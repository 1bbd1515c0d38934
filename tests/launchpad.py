"""Starts commands of the project as processes of their own, without the wait.

A process of which hundreds are needed should not import JAX each time. This one imports
everything once, starts no thread and no device, and forks for each request. What it
forks is a process like any other: own memory, signals, devices, exit code.

Requests are JSON lines on stdin: {"argv", "env", "stdout", "stderr", "phase"}, answered
on stdout by {"pid"} at once. {"wait": pid} asks for waitpid's status.

A request may say where a signal shall come: "phase" is [place, nth call, signal], see
PLACES. The signal is a real one; only its moment is chosen. A negative one goes to the
whole group, as from a terminal; with 0 the call hangs, with "raise" it fails. With
"bound" permissions hold for it though it is root's; with "backwards" its clock shows
yesterday and goes back; with "patience" it waits for so many seconds for a bucket; with
"place" it begins in that folder.
"""

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.patience import LIMIT

# Where a signal may come: module, attribute, and whether while it runs.
PLACES = {
    "compile": ("fakedetect_jax.training.start", "fit_train_step"),
    "data wait": ("fakedetect_jax.data.reader", "FrameReader.read"),
    "train": ("fakedetect_jax.train", "fetch_numbers"),
    "validate": ("fakedetect_jax.evaluation.evaluate", "score_clips"),
    "evaluate": ("fakedetect_jax.evaluation.evaluate", "evaluate"),
    "save": ("fakedetect_jax.run.checkpoint", "Checkpoints.save"),
    "write": ("fakedetect_jax.run.checkpoint", "Checkpoints._write"),
    "seal": ("fakedetect_jax.run.checkpoint", "Checkpoints._seal"),
    "commit": ("fakedetect_jax.run.checkpoint", "Checkpoints.finish"),
    "remove": ("os", "unlink"),  # of any file
}

# What commands import, most of them late.
IMPORTED = (
    *("grain", "matplotlib.pyplot", "scipy.optimize", "tensorboardX"),
    *("fakedetect_jax.train", "fakedetect_jax.pages.evaluation_page"),
    *("tfds_ffpp.tfds_ffpp_dataset_builder", "tfds_ffpp.synthetic.tree"),
)


def send_at(place: str, nth: int, number: int | str) -> None:
    """Has this process send itself a signal at the nth call of a place.

    With kill the call is given time to get half way; a stop comes before it.
    """
    module, path = PLACES[place]
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original, calls = getattr(owner, name), [0]

    def wrapped(*arguments, **options):
        calls[0] += 1
        if calls[0] == nth:
            if isinstance(number, str):
                raise RuntimeError("made to fail")
            elif number == 0:
                print("it hangs", file=sys.stderr, flush=True)
                time.sleep(3600)
            elif number < 0:
                os.killpg(0, -number)
            elif number == signal.SIGKILL and place in ("save", "commit"):
                threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
            else:
                os.kill(os.getpid(), number)
                time.sleep(0.05)
        return original(*arguments, **options)

    setattr(owner, name, wrapped)


def turn_clock_back() -> None:
    """Has the time of day of this process run backwards, from yesterday on."""
    real, began = time.time, time.time()

    def now() -> float:
        return 2 * began - 86_400 - real()

    time.time, time.time_ns = now, lambda: int(now() * 1e9)


def give_up_capabilities() -> None:
    """Has root be refused what another user would be refused."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None).capset(header, none):
        raise OSError("capset")


def run(request: dict) -> None:
    """The child: becomes the command. Does not return."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: end with the tests
    for stream, number in (("stdout", 1), ("stderr", 2)):
        file = os.open(request[stream], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["env"])
    if request.get("place"):
        os.chdir(request["place"])
    if request.get("phase"):
        send_at(*request["phase"])
    if request.get("backwards"):
        turn_clock_back()
    if request.get("bound"):
        give_up_capabilities()
    if request.get("patience"):
        from tfds_ffpp.store import lease

        lease.PATIENCE = request["patience"]
    module = importlib.import_module(request.get("module", "fakedetect_jax.main"))
    sys.argv = [module.__file__, *request["argv"]]
    code = 1
    try:
        module.run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    import atexit

    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Reads requests until stdin ends."""
    for name in IMPORTED:
        importlib.import_module(name)

    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"forking with {threads} threads is not safe"
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = {"status": os.waitpid(request["wait"], os.WNOHANG)}
        else:
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                run(request)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


# The side of the tests --------------------------------------------------------------


class Process:
    """A command that was started."""

    def __init__(self, pad: "Launchpad", pid: int, out: Path):
        self.pid, self._pad, self._out = pid, pad, out
        self._code: int | None = None

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._out.with_suffix(".err").read_text()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def code(self) -> int | None:
        """The exit code, as a shell has it; None while it runs."""
        if self._code is None:
            pid, status = self._pad.ask({"wait": self.pid})["status"]
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._code = code if code >= 0 else 128 - code
        return self._code

    def wait(self, timeout: float = LIMIT) -> int:
        """The exit code; the process is killed and the test fails after `timeout` s."""
        end = time.monotonic() + timeout
        while (code := self.code()) is None:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise AssertionError(f"still running: {self.stdout}{self.stderr}")
            time.sleep(0.02)
        return code

    def until(self, text: str, timeout: float = LIMIT) -> None:
        """Waits until stdout or stderr holds a text."""
        end = time.monotonic() + timeout
        while text not in self.stdout + self.stderr:
            if self.code() is not None or time.monotonic() > end:
                raise AssertionError(f"no {text!r} in: {self.stdout}{self.stderr}")
            time.sleep(0.02)


class Launchpad:
    """Starts commands; a context."""

    def __init__(self, folder: Path):
        self._folder, self._count = folder, 0

    def __enter__(self) -> "Launchpad":
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.launchpad"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
            env=os.environ | one_thread | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        )
        return self

    def __exit__(self, *_) -> None:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def ask(self, request: dict) -> dict:
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(
        self,
        *argv: object,
        devices: int = 1,
        module="fakedetect_jax.main",
        **options: object,
    ) -> Process:
        """Starts a command on so many CPU devices; options as in a request."""
        self._count += 1
        out = self._folder / f"{self._count}.out"
        out.touch()
        out.with_suffix(".err").touch()
        request = {
            "argv": ["--tune_malloc=false"] * (module == "fakedetect_jax.main")
            + [str(a) for a in argv],
            "module": module,
            "stdout": str(out),
            "stderr": str(out.with_suffix(".err")),
            "env": {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
            **options,
        }
        return Process(self, self.ask(request)["pid"], out)

    def run(self, *argv: object, **options) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command."""
        process = self.start(*argv, **options)
        return process.wait(), process.stdout, process.stderr


if __name__ == "__main__":
    main()
