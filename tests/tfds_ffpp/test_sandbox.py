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
from tests.patience import LIMIT
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
        timeout=LIMIT,
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


# Calls for which Python has no function, on x86_64 and aarch64.
NUMBERS = {
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "pidfd_getfd": (438, 438),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "prlimit64": (302, 261),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "setdomainname": (171, 162),
    "shmget": (29, 194),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "capget": (125, 90),
}

REACH = (
    f"""
import ctypes, fcntl, platform, resource, signal, struct
libc = ctypes.CDLL(None, use_errno=True)
numbers = {NUMBERS}
"""
    + """
mine = ctypes.create_string_buffer(b"in the parent's memory too")

def call(name, *arguments):
    number = numbers[name][platform.machine() == "aarch64"]
    whole = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *whole)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result

def made_and_removed(make, remove, *size):
    call(remove, call(make, 0, *size, 0o600), 0, 0)

def queue():
    call("mq_open", b"of_a_decoder", os.O_CREAT | os.O_RDWR, 0o600, 0)
    call("mq_unlink", b"of_a_decoder")

def memory_of(process, name):
    piece = struct.pack("PN", ctypes.addressof(mine), 8)
    call(name, process, piece, 1, piece, 1, 0)

def own_signals(process):
    reading, writing = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETOWN, process)

def rule_of(process):
    order = os.sched_getscheduler(process)
    os.sched_setscheduler(process, order, os.sched_getparam(process))

def attributes_of(process):
    nice = os.getpriority(os.PRIO_PROCESS, process)
    wanted = struct.pack("IIQiIQQQ", 48, 0, 0, nice, 0, 0, 0, 0)
    call("sched_setattr", process, wanted, 0)

def name_domain():
    name = ctypes.create_string_buffer(65)
    libc.getdomainname(name, 65)
    call("setdomainname", name.value, len(name.value))

def its_rights():  # read files of other users, and no others
    rights = (ctypes.c_uint32 * 6)()
    call("capget", (ctypes.c_uint32 * 2)(0x20080522, 0), rights)
    assert not any(rights[2:]) and not (rights[0] | rights[1]) & ~2

def deeds(path):
    cache, parent = Path(job["entry"]).parent, os.getppid()
    process = os.PRIO_PROCESS
    return {
        "ask for its limits": attempt(lambda: resource.getrlimit(resource.RLIMIT_CPU)),
        "ask for its cores": attempt(lambda: os.sched_getaffinity(0)),
        "lower its limit": attempt(lambda: resource.setrlimit(
            resource.RLIMIT_CORE, (0, 0))),
        "change the root": attempt(lambda: os.chroot("/")),
        "limits of another": attempt(lambda: call(
            "prlimit64", parent, resource.RLIMIT_CORE, bytes(16), None)),
        "cores of another": attempt(
            lambda: os.sched_setaffinity(parent, os.sched_getaffinity(parent))),
        "scheduler of another": attempt(lambda: rule_of(parent)),
        "parameters of another": attempt(
            lambda: os.sched_setparam(parent, os.sched_getparam(parent))),
        "attributes of another": attempt(lambda: attributes_of(parent)),
        "priority of another": attempt(
            lambda: os.setpriority(process, parent, os.getpriority(process, parent))),
        "disk priority of another": attempt(lambda: call("ioprio_set", 1, parent, 0)),
        "read another": attempt(lambda: memory_of(parent, "process_vm_readv")),
        "write to another": attempt(lambda: memory_of(parent, "process_vm_writev")),
        "trace another": attempt(lambda: call("ptrace", 0x4206, parent, 0, 0)),
        "pages of another": attempt(lambda: call(
            "move_pages", parent, 0, None, None, None, 0)),
        "memory nodes of another": attempt(lambda: call(
            "migrate_pages", parent, 2, struct.pack("Q", 1), struct.pack("Q", 1))),
        "hold another": attempt(lambda: os.pidfd_open(parent)),
        "signal it by that": attempt(
            lambda: signal.pidfd_send_signal(os.pidfd_open(parent), 0)),
        "take its file": attempt(
            lambda: call("pidfd_getfd", os.pidfd_open(parent), 1, 0)),
        "ask to signal another": attempt(lambda: os.kill(parent, 0)),
        "signal its group": attempt(lambda: os.kill(0, 0)),
        "signal another's thread": attempt(lambda: call("tkill", parent, 0)),
        "queue a signal for another": attempt(
            lambda: call(
                "rt_sigqueueinfo", parent, 0, struct.pack("iii116x", 0, 0, -1))),
        "signal another of a pipe": attempt(lambda: own_signals(parent)),
        "shared memory": attempt(lambda: made_and_removed("shmget", "shmctl", 9)),
        "semaphores": attempt(lambda: made_and_removed("semget", "semctl", 1)),
        "messages": attempt(lambda: made_and_removed("msgget", "msgctl")),
        "queue": attempt(queue),
        "key": attempt(lambda: call("add_key", b"user", b"of_a_decoder", b"x", 1, -2)),
        "ask for a key": attempt(
            lambda: call("request_key", b"user", b"of_a_decoder", None, -2)),
        "name the machine": attempt(lambda: socket.sethostname(socket.gethostname())),
        "name its domain": attempt(name_domain),
        "its rights": attempt(its_rights),
        "read the video": attempt(lambda: path.read_bytes()),
        "import": attempt(lambda: __import__("wave")),
        "thread": attempt(lambda: threading.Thread(target=int).start()),
        "read another video": attempt(lambda: path.with_name("other.mp4").open()),
        "change the video": attempt(lambda: path.open("ab")),
        "list its folder": attempt(lambda: os.listdir(path.parent)),
        "read the accounts": attempt(lambda: open("/etc/passwd")),
        "read the home": attempt(lambda: os.listdir(Path.home())),
        "read the parent": attempt(lambda: open(f"/proc/{parent}/environ")),
        "change an entry": attempt(lambda: (cache / "of another video").open("w")),
        "write beside it": attempt(lambda: path.with_name("new").open("w")),
        "write to /tmp": attempt(lambda: open(f"/tmp/of_a_decoder-{os.getuid()}", "w")),
        "socket": attempt(lambda: socket.socket()),
        "datagram": attempt(lambda: socket.socket(type=socket.SOCK_DGRAM)),
        "unix socket": attempt(lambda: socket.socket(socket.AF_UNIX)),
        "program": attempt(lambda: os.execv("/bin/true", ["true"])),
        "fork": attempt(os.fork),
        "subprocess": attempt(lambda: subprocess.run(["/bin/true"])),
        "end the parent": attempt(lambda: os.kill(parent, 9)),
        "leave the group": attempt(os.setsid),
        "rights of another": attempt(lambda: path.with_name("other.mp4").chmod(0o777)),
        "times of another": attempt(
            lambda: os.utime(path.with_name("other.mp4"), (1, 1))
        ),
        "mark another": attempt(
            lambda: os.setxattr(path.with_name("other.mp4"), "user.a", b"b")
        ),
        "signal a thread of another": attempt(
            lambda: call("tgkill", parent, parent, 0)  # 0 asks whether it could
        ),
        "signal a thread of its own": attempt(
            lambda: call("tgkill", os.getpid(), os.getpid(), 0)
        ),
        "link": attempt(lambda: (cache / "link").symlink_to("/etc/passwd")),
    }
"""
)


@linux
def test_a_decoder_reaches_nothing_but_its_video(video, tmp_path):
    """D27 A decoder that was taken over: it reaches its video, and no other file,
    connection or process.
    """
    asked = test_workers.job(video, tmp_path / "cache")
    done = deeds(taken_over(asked, REACH))
    allowed = {k for k, v in done.items() if v == "done"}
    asks = {"ask for its limits", "ask for its cores", "lower its limit"}
    own = {"signal a thread of its own", "its rights"}
    assert allowed == {"read the video", "import", "thread"} | asks | own
    refused = {v for k, v in done.items() if k not in allowed}
    assert refused == {"PermissionError"}
    left = {p.name: p.read_text() for p in (tmp_path / "cache").iterdir()}
    assert left == {"of another video": "whole"}


# By a container, or to who is not root.
OFTEN_REFUSED = {
    *("change the root", "name the machine", "name its domain", "its rights"),
    *("read another", "write to another", "trace another", "take its file"),
    *("pages of another", "memory nodes of another", "key", "ask for a key", "queue"),
}


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
    refused = {k for k, v in done.items() if v != "done"}
    assert refused <= {"read the home", "mark another"} | OFTEN_REFUSED


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
sandbox._filter_calls(sandbox.Calls(arch, *range(0xFFF0, 0xFFF5), {calls}))
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


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="root alone gives files away")
def test_root_decodes_videos_of_other_users(video, tmp_path):
    """Of root's rights a decoder keeps the one that this needs."""
    folder = tmp_path / "theirs"
    (folder / "cache").mkdir(parents=True)
    theirs = video.rename(folder / "a.mp4")
    for path, mode in ((theirs, 0o400), (folder / "cache", 0o500), (folder, 0o500)):
        os.chown(path, 65534, 65534)
        path.chmod(mode)
    worker = Worker()
    try:
        result = worker.run(test_workers.job(theirs, folder / "cache"))
    finally:
        worker.close()
    assert result.seconds, result


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
        end = time.monotonic() + LIMIT
        while not (children := psutil.Process(pid).children()):
            assert time.monotonic() < end
            time.sleep(0.005)
        children[0].kill()
        thread.join(timeout=LIMIT)
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
    end = time.monotonic() + LIMIT
    while not (children := process.children()):
        assert time.monotonic() < end
        time.sleep(0.005)
    process.kill()
    thread.join(timeout=LIMIT)
    assert not psutil.wait_procs(children, timeout=LIMIT)[1]


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
