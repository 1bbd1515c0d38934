"""What a process gives up before it decodes a stranger's file: all but that file.

Landlock and seccomp of the Linux kernel need no rights of their own. Both by system
calls: what Python packages there are of them want a library of the system's, or are not
kept. Root's rights are dropped too. See the manuals landlock(7), seccomp(2) and
capabilities(7).
"""

import ctypes
import functools
import os
import platform
import struct
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

FILES = "files beyond the video"
PROGRAMS = "network, other programs"

# include/uapi/linux/landlock.h
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_REG = 1 << 5, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_PATH_BENEATH = 1
_O_PATH = getattr(os, "O_PATH", 0)

# include/uapi/linux/prctl.h
_SET_SECCOMP, _DROP_RIGHT, _SET_NO_NEW_PRIVS = 22, 24, 38
_FILTER_MODE = 2

# include/uapi/linux/capability.h
_RIGHTS_VERSION = 0x20080522
_DAC_OVERRIDE = 1 << 1
_NUM_RIGHTS = 64  # of which a kernel knows the first 41


Step = tuple[int, int, int, int]


class Calls(NamedTuple):
    """The numbers of an architecture's system calls; AUDIT_ARCH of linux/audit.h."""

    architecture: int
    clone: int
    clone3: int
    tgkill: int
    prlimit: int
    fcntl: int
    refused: Sequence[int]


# Refused are, in this order: socket socketpair connect bind listen io_uring_setup
# (contacts), execve execveat fork vfork (programs), kill tkill pidfd_open
# pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo (signals), setsid setpgid (leaving
# the group that is ended at once), ptrace process_vm_readv process_vm_writev, unshare
# setns bpf userfaultfd perf_event_open. Then what Landlock does not cover: chmod fchmod
# fchmodat fchmodat2, chown fchown lchown fchownat, utime utimes futimesat utimensat,
# setxattr lsetxattr fsetxattr setxattrat, and the four of removexattr. Then what any
# process may do to others of its user: sched_setaffinity sched_setscheduler
# sched_setparam sched_setattr setpriority ioprio_set migrate_pages move_pages, shmget
# shmat shmctl semget semop semctl semtimedop msgget msgsnd msgrcv msgctl, add_key
# request_key keyctl; and to all, sethostname setdomainname.
_CALLS = {
    "x86_64": Calls(0xC000003E, 56, 435, 234, 302, 72, [
        41, 53, 42, 49, 50, 425, 59, 322, 57, 58, 62, 200, 434, 424, 129, 297, 112, 109,
        101, 310, 311, 272, 308, 321, 323, 298,
        90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280,
        188, 189, 190, 463, 197, 198, 199, 466,
        203, 144, 142, 314, 141, 251, 256, 279,
        29, 30, 31, 64, 65, 66, 220, 68, 69, 70, 71, 248, 249, 250, 170, 171,
    ]),
    # It has neither fork nor vfork, chmod, chown, lchown, utime, utimes nor futimesat.
    "aarch64": Calls(0xC00000B7, 220, 435, 131, 261, 25, [
        198, 199, 203, 200, 201, 425, 221, 281, 129, 130, 434, 424, 138, 240, 157, 154,
        117, 270, 271, 97, 268, 280, 282, 241,
        52, 53, 452, 55, 54, 88, 5, 6, 7, 463, 14, 15, 16, 466,
        122, 119, 118, 274, 140, 30, 238, 239,
        194, 196, 195, 190, 193, 191, 192, 186, 189, 188, 187, 217, 218, 219, 161, 162,
    ]),
}  # fmt: skip
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_X32 = 0x40000000  # the other way of making system calls on x86_64
_CLONE_THREAD = 0x10000
_SIGNALLED = (8, 10, 15)  # fcntl's F_SETOWN, F_SETSIG, F_SETOWN_EX: whom, and by what


@functools.cache
def libraries() -> list[Path]:
    """The folders of Python and of this package: what an import may read."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    own = Path(__file__).resolve().parents[1]
    return sorted({own, *(Path(sysconfig.get_path(kind)) for kind in kinds)})


def confine(*, read: Iterable[Path], write: Iterable[Path]) -> list[str]:
    """Gives up, for this process and for good, all files but these and all contacts.

    What can still be seen of others are names, sizes and times. The process has one
    thread when it calls this.

    Args:
      read: files, and folders with all in them, that may be read.
      write: folders in which files may be made, read, changed and removed.

    Returns what the kernel could not be made to refuse, of FILES and PROGRAMS.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return [FILES, PROGRAMS]
    _libc().prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    left = [] if _forbid_files(read, write) else [FILES]
    calls = _CALLS.get(platform.machine())
    closed = _drop_rights() and calls and _filter_calls(calls)
    return left if closed else [*left, PROGRAMS]


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    whole = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    return _libc().syscall(ctypes.c_long(number), *whole)


def _forbid_files(read: Iterable[Path], write: Iterable[Path]) -> bool:
    version = _call(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    rights = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        rights |= right if version >= since else 0
    # TCP and, last, unnamed sockets and signals of others; older kernels know neither.
    ruleset = struct.pack("QQQ", rights, 3 if version >= 4 else 0, 3)
    ruleset = ruleset[: 24 if version >= 6 else 16 if version >= 4 else 8]
    rules = _call(_CREATE_RULESET, ruleset, len(ruleset), 0)
    if rules < 0:
        return False
    for paths, allowed in ((read, _READ), (write, _WRITE)):
        for path in paths:
            with suppress(OSError):  # what is not there cannot be opened either
                _allow(rules, path, allowed & rights)
    done = _call(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return done


def _allow(rules: int, path: Path, allowed: int) -> None:
    file = os.open(path, _O_PATH | os.O_CLOEXEC)
    try:
        if not path.is_dir():
            allowed &= _FILE_RIGHTS
        rule = struct.pack("=Qi", allowed, file)
        if _call(_ADD_RULE, rules, _PATH_BENEATH, rule, 0) < 0:
            raise OSError(ctypes.get_errno(), "no rule for it", str(path))
    finally:
        os.close(file)


def _drop_rights() -> bool:
    """Drops root's rights, such as to raise its own limits, but for one.

    It may open files of other users, as the video may be theirs: those that Landlock
    allows.
    """
    libc = _libc()
    for right in range(_NUM_RIGHTS):  # programs could get them; root alone may do this
        libc.prctl(_DROP_RIGHT, right, 0, 0, 0)
    header = struct.pack("Ii", _RIGHTS_VERSION, 0)
    rights = ctypes.create_string_buffer(24)
    if libc.capget(header, rights):
        return False
    # Effective, permitted and inherited ones: the first 32 of each, then the others.
    effective, permitted, *_ = struct.unpack("6I", rights)
    kept = (effective & _DAC_OVERRIDE, permitted & _DAC_OVERRIDE, 0, 0, 0, 0)
    return libc.capset(header, struct.pack("6I", *kept)) == 0


def program(calls: Calls, process: int) -> bytes:
    """The filter: struct sock_filter (code, jump if true, jump if false, value).

    process: the one that is filtered, which may signal its own threads, as abort does.
    """
    architecture, clone, clone3, tgkill, prlimit, fcntl, refused = calls
    refuse = (_RETURN, 0, 0, _REFUSE | _EPERM)
    steps = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, architecture),
        refuse,
        (_LOAD, 0, 0, 0),  # the call's number
        (_AT_LEAST, 0, 1, _X32),
        refuse,
        (_EQUAL, 0, 1, clone3),  # its flags cannot be seen; the C library then clones
        (_RETURN, 0, 0, _REFUSE | _ENOSYS),
    ]
    for number in refused:
        steps += [(_EQUAL, 0, 1, number), refuse]
    steps += _ask(tgkill, 0, (_EQUAL, 1, 0, process), refuse)
    steps += _ask(prlimit, 0, (_EQUAL, 1, 0, 0), refuse)  # getrlimit and setrlimit too
    for command in _SIGNALLED:
        steps += _ask(fcntl, 1, (_EQUAL, 0, 1, command), refuse)
    steps += _ask(clone, 0, (_ANY_BIT, 1, 0, _CLONE_THREAD), refuse)
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def _ask(number: int, argument: int, *tests: Step) -> list[Step]:
    """Steps that test the low half of an argument of this call, and of no other."""
    return [
        (_EQUAL, 0, len(tests) + 1, number),
        (_LOAD, 0, 0, 16 + 8 * argument),
        *tests,
        (_LOAD, 0, 0, 0),
    ]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _filter_calls(calls: Calls) -> bool:
    steps = program(calls, os.getpid())
    handed = _Program(len(steps) // 8, steps)
    return _libc().prctl(_SET_SECCOMP, _FILTER_MODE, ctypes.byref(handed), 0, 0) == 0
