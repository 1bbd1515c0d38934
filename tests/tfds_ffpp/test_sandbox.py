"""What a decoder that a video has taken over can still do: nothing beyond its video."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.made_videos import write_video
from tests.tfds_ffpp import test_workers
from tests.tfds_ffpp.test_workers import PREPARATION, pid_of
from tfds_ffpp.frames.found import PreparedWindow, StoredFace
from tfds_ffpp.workers import child, limits, sandbox
from tfds_ffpp.workers.jobs import EntryJob, Result, result_from_json, to_line
from tfds_ffpp.workers.pool import Worker

linux = pytest.mark.skipif(sys.platform != "linux", reason="Landlock, seccomp")

# The worker itself, but what prepares a video is replaced by what an attacker runs.
TAKEN_OVER = """
import json, os, socket, subprocess, sys, threading
from pathlib import Path
from tfds_ffpp.workers import child as worker, jobs, sandbox

def attempt(action):
    try:
        action()
    except Exception as error:
        return type(error).__name__
    return "done"

def attack(path, preparation, faces, mask):
    raise RuntimeError(json.dumps(deeds(Path(path))))

worker.prepare = attack
job = json.loads(sys.argv[1])
"""


def taken_over(job: EntryJob, code: str) -> Result:
    """The job's last result when its decoder runs this code."""
    script = TAKEN_OVER + textwrap.dedent(code)
    script += """
*_, last = worker.run_confined(jobs.job_from_json(job))
print(jobs.to_line(last).decode())
"""
    run = subprocess.run(
        [sys.executable, "-c", script, to_line(job).decode()],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return result_from_json(json.loads(run.stdout))


def deeds(result: Result) -> dict:
    return json.loads(result.reason.partition("RuntimeError: ")[2][:-1])


@pytest.fixture
def video(tmp_path):
    folder = tmp_path / "videos"
    write_video(folder / "other.mp4", 4)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "of another video").write_text("whole")
    return write_video(folder / "a.mp4", 4)


REACH = """
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)

def tgkill(process):
    number = sandbox._CALLS[platform.machine()].tgkill
    if libc.syscall(number, process, process, 0):  # 0 asks whether it could
        raise OSError(ctypes.get_errno(), "tgkill")

def deeds(path):
    cache = Path(job["entry"]).parent
    return {
        "read the video": attempt(lambda: path.read_bytes()),
        "import": attempt(lambda: __import__("wave")),
        "thread": attempt(lambda: threading.Thread(target=int).start()),
        "read another video": attempt(lambda: path.with_name("other.mp4").open()),
        "change the video": attempt(lambda: path.open("ab")),
        "list its folder": attempt(lambda: os.listdir(path.parent)),
        "read the accounts": attempt(lambda: open("/etc/passwd")),
        "read the home": attempt(lambda: os.listdir(Path.home())),
        "read the parent": attempt(lambda: open(f"/proc/{os.getppid()}/environ")),
        "change an entry": attempt(lambda: (cache / "of another video").open("w")),
        "write beside it": attempt(lambda: path.with_name("new").open("w")),
        "write to /tmp": attempt(lambda: open(f"/tmp/of_a_decoder-{os.getuid()}", "w")),
        "socket": attempt(lambda: socket.socket()),
        "datagram": attempt(lambda: socket.socket(type=socket.SOCK_DGRAM)),
        "unix socket": attempt(lambda: socket.socket(socket.AF_UNIX)),
        "program": attempt(lambda: os.execv("/bin/true", ["true"])),
        "fork": attempt(os.fork),
        "subprocess": attempt(lambda: subprocess.run(["/bin/true"])),
        "end the parent": attempt(lambda: os.kill(os.getppid(), 9)),
        "leave the group": attempt(os.setsid),
        "rights of another": attempt(lambda: path.with_name("other.mp4").chmod(0o777)),
        "times of another": attempt(
            lambda: os.utime(path.with_name("other.mp4"), (1, 1))
        ),
        "mark another": attempt(
            lambda: os.setxattr(path.with_name("other.mp4"), "user.a", b"b")
        ),
        "signal a thread of another": attempt(lambda: tgkill(os.getppid())),
        "signal a thread of its own": attempt(lambda: tgkill(os.getpid())),
        "link": attempt(lambda: (cache / "link").symlink_to("/etc/passwd")),
    }
"""


@linux
def test_a_decoder_reaches_nothing_but_its_video(video, tmp_path):
    """D27 A decoder that was taken over: it reaches nothing but its video."""
    asked = test_workers.job(video, tmp_path / "cache")
    done = deeds(taken_over(asked, REACH))
    allowed = {k for k, v in done.items() if v == "done"}
    own = "signal a thread of its own"
    assert allowed == {"read the video", "import", "thread", own}
    refused = {v for k, v in done.items() if k not in allowed}
    assert refused == {"PermissionError"}
    left = {p.name: p.read_text() for p in (tmp_path / "cache").iterdir()}
    assert left == {"of another video": "whole"}


@linux
def test_without_the_rules_it_would_reach_all(video, tmp_path):
    """The attempts are real: most of them succeed where nothing is given up."""
    # Not those that would end the test.
    code = REACH
    for deed in ("program", "fork", "end the parent", "leave the group"):
        code = "\n".join(x for x in code.splitlines() if f'"{deed}"' not in x)
    code += "\nsandbox.confine = lambda **_: []\n"
    done = deeds(taken_over(test_workers.job(video, tmp_path / "cache"), code))
    (tmp_path / "cache" / "link").unlink()
    Path(f"/tmp/of_a_decoder-{os.getuid()}").unlink()
    assert {k for k, v in done.items() if v != "done"} <= {
        "read the home",
        "mark another",
    }


@linux
@pytest.mark.parametrize("refused", ["landlock", "seccomp", "both"])
def test_a_kernel_without_them_is_said_once(video, tmp_path, refused):
    """The system calls are taken from a process as an old kernel has them not."""
    calls = {"landlock": [444], "seccomp": [], "both": [444]}[refused]
    code = f"""
import ctypes, os, platform, sys
from tfds_ffpp.workers import sandbox
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
arch = sandbox._CALLS[platform.machine()].architecture
sandbox._filter_calls(sandbox.Calls(arch, 0xFFFF, 0xFFFE, 0xFFFD, {calls}))
if {refused != "landlock"}:
    sandbox._CALLS.clear()  # an architecture whose calls are not known
left = sandbox.confine(read=[], write=[])
print(left)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected = {
        "landlock": [sandbox.FILES],
        "seccomp": [sandbox.PROGRAMS],
        "both": [sandbox.FILES, sandbox.PROGRAMS],
    }
    assert run.stdout.strip() == str(expected[refused]), run.stderr


def test_what_stays_open_is_said_once(capsys):
    from tfds_ffpp.workers.pool import say_open

    say_open.cache_clear()
    for _ in range(2):
        say_open((sandbox.FILES,))
    say_open(())
    said = capsys.readouterr().err
    assert said.count("cannot keep files beyond the video from") == 1
    say_open.cache_clear()


# Limits ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "deed, reason",
    [
        ("bytearray(1 << 30)", "more memory than there is"),
        ("[os.open(path, os.O_RDONLY) for _ in range(100)]", "Too many open files"),
        ("open(job_folder() / 'big', 'wb').write(bytes(100 << 20))", "File too large"),
        ("spin(4)", "took longer than 3 seconds of a processor"),
    ],
)
def test_a_decoder_has_limits(video, tmp_path, deed, reason):
    """D27 A decoder: limits of memory, time, file size and open files."""
    asked = test_workers.job(
        video, tmp_path / "cache", time_limit=2.0, memory_limit=512 << 20
    )
    code = f"""
import time, zlib
def job_folder():
    return Path(job["entry"] + f".{{os.getppid()}}.partial")
def spin(count):
    block = os.urandom(1 << 20)
    def work():
        while True:
            zlib.compress(block, 9)
    for _ in range(count):
        threading.Thread(target=work, daemon=True).start()
    time.sleep(60)
worker.signal.setitimer = lambda *_: None  # the limit of the clock is another
def deeds(path):
    {deed}
def attack(path, preparation, faces, mask):
    deeds(path)
worker.prepare = attack
"""
    result = taken_over(asked, code)
    assert reason in result.reason
    assert result.memory * 1024 < 512 << 20


KILLED = (
    "the decoding process was killed (SIGKILL), as the system does when its memory "
    "runs out"
)


def test_a_dead_decoder_leaves_its_process_for_the_next_video(video, tmp_path):
    worker = Worker()
    try:
        assert worker.run(test_workers.job(video, tmp_path)).seconds
        pid = pid_of(worker)
        long = write_video(tmp_path / "long.mp4", 200, size=(480, 640))
        slow = replace(PREPARATION, num_frames=200, image_size=1024, crop="full")
        results = []
        thread = threading.Thread(
            target=lambda: results.append(
                worker.run(test_workers.job(long, tmp_path, preparation=slow))
            )
        )
        thread.start()
        end = time.monotonic() + 60
        while not (children := psutil.Process(pid).children()):
            assert time.monotonic() < end
            time.sleep(0.005)
        children[0].kill()
        thread.join(timeout=20)
        assert results[0].reason == KILLED
        assert (
            worker.run(test_workers.job(video, tmp_path)).seconds
            and pid_of(worker) == pid
        )
        assert not list(tmp_path.glob("*.partial"))
    finally:
        worker.close()


def test_the_decoder_ends_with_its_process(video, tmp_path):
    worker = Worker()
    long = write_video(tmp_path / "long.mp4", 200, size=(480, 640))
    slow = replace(PREPARATION, num_frames=200, image_size=1024, crop="full")
    worker.run(test_workers.job(video, tmp_path))
    process = psutil.Process(pid_of(worker))
    thread = threading.Thread(
        target=worker.run, args=(test_workers.job(long, tmp_path, preparation=slow),)
    )
    thread.start()
    end = time.monotonic() + 60
    while not (children := process.children()):
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    thread.join(timeout=20)
    assert not psutil.wait_procs(children, timeout=5)[1]


def test_memory_is_shared_by_what_is_free():
    gib = 1 << 30
    assert limits.share_memory(16, free=100 * gib) == (16, 4 * gib)
    count, each = limits.share_memory(16, free=20 * gib)
    assert count == 16 and each == gib and count * each <= 20 * gib
    assert limits.share_memory(16, free=4 * gib)[0] == 4  # of 768 MiB or more
    assert limits.share_memory(8, free=0) == (1, limits.LEAST_MEMORY)
    assert limits.share_memory(2, most=128 << 20, free=gib) == (2, 128 << 20)


@pytest.mark.parametrize(
    ("entry", "strays"),
    [("0-0", False), ("../secret", True), ("link", True), ("/etc/passwd", True)],
)
def test_a_decoder_may_name_only_files_of_its_folder(tmp_path, entry, strays):
    """Its parent reads what it names, and removes what is damaged."""
    (tmp_path / "link").symlink_to("/etc/passwd")
    face = StoredFace(0, str(tmp_path / entry), 1, [1], (0, 0, 1, 1), 1.0, 1)
    window = PreparedWindow(0, 0, 3, 3, [0], [0.0], [face])
    result = result_from_json(json.loads(to_line(Result(more=True, window=window))))
    assert child._strays(result, str(tmp_path)) == strays
    assert child._strays(result, "")
    assert not child._strays(Result(reason="x"), "")
