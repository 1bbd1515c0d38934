"""The processes of a run beside JAX: who is there, what they agree on, why it ended.

Process 0 listens on the coordinator's port until all have come, then leaves the port to
JAX's own service; the connections stay for the whole run. Each process sends messages
to a hub in process 0, which answers or passes them on. A connection that closes or
goes silent is a process that is gone: JAX alone would need a minute to notice, would
say nothing of the reason, and would wait five minutes for a process that only failed.
"""

import errno
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from fakedetect_jax.errors import ConfigError, PeerError
from fakedetect_jax.run.messages import (
    Beat,
    Done,
    End,
    Facts,
    Hello,
    Line,
    Meet,
    Message,
    Met,
    Waiting,
)

JOIN_SECONDS = 600  # a process that comes later is not waited for
LATE_SECONDS = 10  # for others to come and hear why the run ends before its start
TELL_SECONDS = 60  # the same for one whose command is wrong, which comes first of all
FAREWELL_SECONDS = 5  # for the others to end before process 0 does
BEAT_SECONDS = 3
SILENCE_SECONDS = 30  # a process that says nothing for so long is gone
STRANGER_SECONDS = 60  # for an earlier run to leave the port
NOTICE_SECONDS = 10  # between two lines that say who is waited for
START_AGAIN = (
    "start the same command on all hosts again: it goes on from the last checkpoint"
)


class Place(NamedTuple):
    """Which process of how many this one is, and where process 0 is found."""

    coordinator: str  # host:port
    num_processes: int
    process_id: int

    def address(self) -> tuple[str, int]:
        """(host, port). Raises ConfigError unless the coordinator is both."""
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError(
                f"--coordinator is {self.coordinator!r}; it must be host:port of "
                "process 0, for example host0:9876"
            )
        return host.strip("[]"), int(port)


def find_place(
    *,
    distributed: bool,
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> Place:
    """Which process of the run this one is, by flags or from the cluster.

    Raises ConfigError when the flags are incomplete or no cluster is detected.
    """
    if distributed:
        coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    given = coordinator, num_processes, process_id
    if distributed:
        given = _detected(*given)
    coordinator, num_processes, process_id = given
    if coordinator is None or num_processes is None or process_id is None:
        raise ConfigError(
            "no cluster of several hosts was detected; give --coordinator host:port, "
            "--num_processes and --process_id on every host"
            if distributed
            else "--coordinator, --num_processes and --process_id belong together; "
            "give all three, or --distributed alone on TPU, Slurm or Open MPI"
        )
    return Place(coordinator, num_processes, process_id)


def _detected(coordinator, num_processes, process_id):
    """What the cluster says of those that are None; the one use of JAX's own way."""
    # Not public in any version of JAX, and there is no public one.
    from jax._src import clusters

    try:
        # Without devices: those are chosen in local_devices.
        return clusters.ClusterEnv.auto_detect_unset_distributed_params(
            coordinator, num_processes, process_id, [], None, JOIN_SECONDS
        )[:3]
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the cluster could not be detected ({error}); give "
            "--coordinator host:port, --num_processes and --process_id on every host"
        ) from error


def check_place(place: Place) -> None:
    """Raises ConfigError for an address or a number that cannot be."""
    place.address()
    if not 0 <= place.process_id < place.num_processes:
        raise ConfigError(
            f"--process_id is {place.process_id} and --num_processes "
            f"{place.num_processes}; the processes are numbered from 0 to "
            "--num_processes minus 1"
        )


def disagreement(facts: Mapping[int, Facts], cure: str) -> str | None:
    """What differs between processes, with all values; None if nothing does.

    Args:
      facts: process -> name -> value.
      cure: the end of the sentence.
    """
    named = sorted({name for mine in facts.values() for name in mine})
    differing = []
    for name in named:
        holders: dict[str, list[int]] = {}
        for process in sorted(facts):
            value = facts[process].get(name, "not set")
            holders.setdefault(str(value), []).append(process)
        if len(holders) > 1:
            values = [f"{v} on {_processes(ids)}" for v, ids in holders.items()]
            differing.append(f"{name} is {' and '.join(values)}")
    if not differing:
        return None
    more = f"; {len(differing) - 6} more differ" if len(differing) > 6 else ""
    return f"the hosts do not agree: {'; '.join(differing[:6])}{more}; {cure}"


def _processes(ids: list[int]) -> str:
    if len(ids) == 1:
        return f"process {ids[0]}"
    shown = ", ".join(map(str, ids[:8])) + (" …" if len(ids) > 8 else "")
    return f"processes {shown}"


class _Member:
    """A process as the hub knows it."""

    def __init__(self, line: Line, process: int, name: str):
        self.line, self.process, self.name = line, process, name
        self.waits_at = ""  # the meeting that it has come to
        self.done = False


class _Hub:
    """In process 0, a thread: counts the processes, compares, passes on an end."""

    def __init__(self, listener: socket.socket, num_processes: int):
        self._listener: socket.socket | None = listener
        self._count = num_processes
        self._strangers: list[Line] = []
        self._members: dict[int, _Member] = {}
        self._came: set[int] = set()
        self._meetings: dict[str, dict[int, Meet]] = {}
        self._end: End | None = None
        self._ends_at = 0.0
        self._started = self._beat = self._noticed = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, None)

    def run(self) -> None:
        while (end := self._end) is None or not self._all_know(end):
            for key, _ in self._selector.select(timeout=0.5):
                if key.data is not None:
                    self._read(key.data)
                elif self._listener is not None:
                    self._accept(self._listener)
            self._tick(time.monotonic())
        # Last of all, since it ends the process that this thread is in.
        for _, member in sorted(self._members.items(), reverse=True):
            if member.process in (0, end.by):
                member.line.send(end)
                member.line.drain()
            member.line.close()

    def _all_know(self, end: End) -> bool:
        """Whether the others have heard of the end and gone, or had time to."""
        left = set(self._members) - {0, end.by}
        everyone = len(self._came) == self._count
        return (everyone and not left) or time.monotonic() > self._ends_at

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # it was given up meanwhile
            return
        line = Line(connection)
        self._strangers.append(line)
        self._selector.register(line, selectors.EVENT_READ, line)

    def _read(self, line: Line) -> None:
        try:
            messages = line.receive()
            for message in messages or []:
                self._take(line, message)
        except ValueError:
            messages = None  # no process of ours speaks like this
        if messages is None:
            self._lose(line)

    def _take(self, line: Line, message: Message) -> None:
        member = self._member(line)
        if member is None:
            if line in self._strangers:
                self._welcome(line, message)
        elif isinstance(message, End):
            self._finish(message.sentence, message.code, member.process)
        elif isinstance(message, Meet):
            self._meet(member, message)
        elif isinstance(message, Done):
            member.done = True

    def _member(self, line: Line) -> _Member | None:
        return next((m for m in self._members.values() if m.line is line), None)

    def _drop(self, line: Line) -> None:
        self._selector.unregister(line)
        line.close()
        if line in self._strangers:
            self._strangers.remove(line)

    def _lose(self, line: Line) -> None:
        member = self._member(line)
        self._drop(line)
        if member is None:
            return
        del self._members[member.process]
        if self._end is None and not member.done:
            self._finish(
                f"process {member.process} of the run ({member.name}) is gone without "
                f"a word: it was killed or its host is lost; {START_AGAIN}",
                PeerError.exit_code,
                None,
            )

    def _welcome(self, line: Line, hello: Message) -> None:
        """Makes a stranger a member, or ends the run when it cannot be one.

        Raises ValueError for what no process of ours says first.
        """
        if not isinstance(hello, Hello) or not 0 <= hello.process < hello.count:
            raise ValueError(hello)
        process, count, name = hello.process, hello.count, hello.name
        twin = self._members.get(process)
        if count != self._count:
            fault = (
                f"process {process} ({name}) was started with --num_processes {count} "
                f"and process 0 with {self._count}; give all hosts the same number"
            )
        elif twin is not None:
            fault = (
                f"two processes have --process_id {process} ({twin.name} and {name}); "
                "give each its own number"
            )
        else:
            self._strangers.remove(line)
            self._came.add(process)
            member = self._members[process] = _Member(line, process, name)
            if self._end is not None and process != 0:
                line.send(self._end)
            elif hello.failed is not None:
                self._finish(hello.failed, hello.code, process)
                self._ends_at = time.monotonic() + TELL_SECONDS
            elif self._end is None:
                code = ConfigError.exit_code
                self._meet(member, Meet("start", hello.facts, code, hello.cure))
            return
        line.send(End(fault, ConfigError.exit_code))
        self._finish(fault, ConfigError.exit_code, None)

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _meet(self, member: _Member, meet: Meet) -> None:
        member.waits_at = meet.place
        came = self._meetings.setdefault(meet.place, {})
        came[member.process] = meet
        if len(came) == self._count:
            # The port must be free before anyone starts JAX.
            self._close_listener()
            facts = {process: m.facts for process, m in came.items()}
            fault = disagreement(facts, meet.cure)
            if fault:
                self._finish(fault, meet.code, None)
                return
            del self._meetings[meet.place]
            # Process 0 last: it may end, and the hub with it, as soon as it hears.
            for _, other in sorted(self._members.items(), reverse=True):
                other.waits_at = ""
                other.line.send(Met(meet.place))
        elif len(self._members) == self._count and all(
            m.waits_at for m in self._members.values()
        ):
            places = {p: {"place": m.waits_at} for p, m in self._members.items()}
            fault = disagreement(places, "they run different code or data")
            self._finish(fault or "the hosts wait for each other", 2, None)

    def _finish(self, end: str, code: int, by: int | None) -> None:
        """Begins the end: all but process 0 and the one that failed hear it now."""
        if self._end is not None:
            return
        self._end = End(end, code, by)
        everyone = len(self._came) == self._count
        wait = FAREWELL_SECONDS if everyone else LATE_SECONDS
        self._ends_at = time.monotonic() + wait
        for member in self._members.values():
            if member.process != 0 and member.process != by:
                member.line.send(self._end)

    def _tick(self, now: float) -> None:
        if now - self._beat >= BEAT_SECONDS:
            self._beat = now
            for member in self._members.values():
                member.line.send(Beat())
        for line in list(self._strangers):
            if now - line.heard > LATE_SECONDS:
                self._drop(line)
        if self._listener is not None and now - self._noticed >= NOTICE_SECONDS:
            self._noticed = now
            missing = sorted(set(range(self._count)) - set(self._members))
            for member in self._members.values():
                member.line.send(Waiting(missing))
        if self._end is not None:
            return
        for member in self._members.values():
            silent = now - member.line.heard
            if silent > SILENCE_SECONDS and not member.done:
                self._finish(
                    f"process {member.process} of the run ({member.name}) has not "
                    f"answered for {silent:.0f} s: it is stopped or cut off from the "
                    f"network; {START_AGAIN}",
                    PeerError.exit_code,
                    None,
                )
                return


class Hosts:
    """The processes of a run, as one of them sees them; alone if not joined."""

    def __init__(self, place: Place | None = None, line: Line | None = None):
        self.process_id = place.process_id if place else 0
        self.num_processes = place.num_processes if place else 1
        self._line = line
        self._met: dict[str, threading.Event] = {}
        self._done = False
        self._leaving = threading.Lock()  # taken once, by whoever ends this process
        self._sending = threading.Lock()
        self._ended = threading.Event()  # the hub said so, or is gone
        if line is not None:
            watch = threading.Thread(target=self._watch, args=(line,), daemon=True)
            watch.start()

    def meet(
        self, name: str, facts: Facts | None = None, *, code: int = 2, cure: str = ""
    ) -> None:
        """Waits, however long, until all have come here with the same facts.

        When facts differ every process ends: with a sentence that names them and the
        values, ended by `cure`, and the exit code `code`. Takes part in no collective.
        """
        if self._line is None:
            return
        met = self._met.setdefault(name, threading.Event())
        self._send(self._line, Meet(name, dict(facts or {}), code, cure))
        met.wait()
        del self._met[name]

    def done(self) -> None:
        """Says that this process has done its work: that it goes is no failure."""
        self._done = True
        if self._line is not None:
            self._send(self._line, Done())

    def claim_end(self) -> None:
        """Makes the caller the one who ends this process, with a sentence of its own.

        Does not return when another thread is about to, for a reason of its own.
        """
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()

    def fail(self, sentence: str, code: int) -> NoReturn:
        """Ends every process, this one included; call claim_end and print first.

        JAX would wait for the others before this process may end.
        """
        if self._line is not None:
            self._send(self._line, End(sentence, code))
            self._ended.wait(LATE_SECONDS + FAREWELL_SECONDS)
        _leave(code)

    def quit(self, sentence: str, code: int) -> NoReturn:
        """Prints a sentence and ends every process, from any thread."""
        self.claim_end()
        print(f"error: {sentence}", file=sys.stderr)
        self.fail(sentence, code)

    def await_reason(self) -> None:
        """Gives the hub time to say why a collective failed; it then ends us."""
        if self._line is not None:
            time.sleep(FAREWELL_SECONDS)

    def _send(self, line: Line, message: Message) -> None:
        with self._sending:  # a beat must not cut a message in two
            line.send(message)

    def _watch(self, line: Line) -> None:
        selector = selectors.DefaultSelector()
        selector.register(line, selectors.EVENT_READ)
        beat = time.monotonic()
        self._heed(line.unread)
        while True:
            now = time.monotonic()
            if now - beat >= BEAT_SECONDS:
                beat = now
                self._send(line, Beat())
            # Read first: after a stop of our own the answers are waiting.
            messages: list[Message] | None = []
            if selector.select(timeout=0.5):
                try:
                    messages = line.receive()
                except ValueError:
                    messages = None
            elif now - line.heard > SILENCE_SECONDS and not self._done:
                self._leave_with(
                    f"process 0 of the run has not answered for {SILENCE_SECONDS} s: "
                    f"it is stopped or cut off from the network; {START_AGAIN}",
                    PeerError.exit_code,
                )
            if messages is None:
                if self._done:
                    return
                self._leave_with(
                    "process 0 of the run is gone without a word: it was killed or its "
                    f"host is lost; {START_AGAIN}",
                    PeerError.exit_code,
                )
            else:
                self._heed(messages)

    def _heed(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Met):
                self._met[message.place].set()
            elif isinstance(message, End):
                self._leave_with(str(message), message.code)

    def _leave_with(self, sentence: str, code: int) -> None:
        self._ended.set()
        self.claim_end()
        print(f"error: {sentence}", file=sys.stderr)
        _leave(code)


def _leave(code: int) -> NoReturn:
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h")  # a progress bar has hidden the cursor
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


# Coming together -----------------------------------------------------------------


def join(place: Place, facts: Facts, *, cure: str, say: Callable[[str], None]) -> Hosts:
    """Waits until all processes of the run have come with the same facts.

    `say` gets a line now and then of who is waited for.

    Raises:
      ConfigError: for an address that cannot be.
      PeerError: with the reason when another process ends the run; not all came.
    """
    check_place(place)
    if place.num_processes == 1:
        return Hosts()
    return Hosts(place, _Joining(place, say).join(_hello(place, facts, cure)))


def send_failure(place: Place, sentence: str, code: int) -> None:
    """Tells the others, those who come within 60 s, of a failure before the join."""
    check_place(place)
    if place.num_processes == 1:
        return
    joining = _Joining(place, lambda _: None, patience=TELL_SECONDS + 1)
    hello = _hello(place, {}, "")._replace(failed=sentence, code=code)
    try:
        joining.join(hello)
    except (ConfigError, PeerError):
        return


def _hello(place: Place, facts: Facts, cure: str) -> Hello:
    name = f"{socket.gethostname()}, pid {os.getpid()}"
    return Hello(place.process_id, place.num_processes, name, dict(facts), cure)


class _Joining:
    """One process on its way to the others."""

    def __init__(
        self, place: Place, say: Callable[[str], None], patience: float | None = None
    ):
        self._place, self._say = place, say
        self._patience = JOIN_SECONDS if patience is None else patience
        self._host, self._port = place.address()
        self._started = self._noticed = time.monotonic()
        self._reason = "it has not come yet"
        self._has_hub = False
        self._strange = 0.0  # since when something else has answered there

    def join(self, hello: Hello) -> Line:
        """The connection to the hub, once all have come.

        Raises PeerError with the reason when the run ends instead.
        """
        while True:
            line = self._connect()
            line.send(hello)
            if self._answered(line):
                return line
            line.close()
            self._strange = self._strange or time.monotonic()
            self._check_stranger()
            time.sleep(0.5)

    def _answered(self, line: Line) -> bool:
        """Whether all have come; False when this is not a hub, or no longer one."""
        beat = began = time.monotonic()
        line.connection.settimeout(0.5)
        while True:
            self._check_time()
            if line.heard <= began and time.monotonic() - began > 4 * BEAT_SECONDS:
                self._reason = "nothing is answered there"
                return False
            try:
                messages = line.receive()
            except ValueError:
                self._reason = "something else answers there"
                return False
            if messages is None:
                self._reason = "it closed the connection"
                return False
            for number, message in enumerate(messages):
                if isinstance(message, End):
                    raise PeerError(str(message), message.code)
                if isinstance(message, Waiting):
                    self._notice(_processes(message.missing), "")
                if isinstance(message, Met):
                    line.connection.settimeout(FAREWELL_SECONDS)
                    line.unread = messages[number + 1 :]
                    return True
            if time.monotonic() - beat > BEAT_SECONDS:
                beat = time.monotonic()
                line.send(Beat())

    def _connect(self) -> Line:
        while True:
            self._check_time()
            if self._place.process_id == 0 and not self._has_hub:
                self._has_hub = self._start_hub()
            try:
                address = (self._host, self._port)
                return Line(socket.create_connection(address, timeout=5))
            except OSError as error:
                self._reason = error.strerror or str(error)
            if time.monotonic() - self._noticed > NOTICE_SECONDS:
                where = f" at {self._host}:{self._port} ({self._reason})"
                self._notice("process 0", where)
            time.sleep(0.2)

    def _start_hub(self) -> bool:
        """Begins to listen, unless the port is taken; then its owner is asked."""
        try:
            listener = _listen(self._port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise ConfigError(
                f"process 0 cannot listen on port {self._port} ({error.strerror}); "
                "choose another port in --coordinator"
            ) from error
        hub = _Hub(listener, self._place.num_processes)
        threading.Thread(target=hub.run, daemon=True).start()
        return True

    def _check_stranger(self) -> None:
        """Raises PeerError when the port has long been another's."""
        now, where = time.monotonic(), f"{self._host}:{self._port}"
        if now - self._strange > STRANGER_SECONDS:
            raise PeerError(
                f"{where} does not answer as process 0 of a run that waits for process "
                f"{self._place.process_id} ({self._reason}): another program has this "
                "port, or the run began without this process; compare --coordinator, "
                "--num_processes and --process_id of all hosts"
            )
        if now - self._noticed > NOTICE_SECONDS:
            self._notice("process 0", f" at {where} ({self._reason})")

    def _notice(self, whom: str, where: str) -> None:
        self._noticed = time.monotonic()
        waited = self._noticed - self._started
        count = self._place.num_processes
        self._say(f"waiting for {whom} of {count}{where}: {waited:.0f} s")

    def _check_time(self) -> None:
        if time.monotonic() - self._started > self._patience:
            where = f"{self._host}:{self._port}"
            raise PeerError(
                f"not all {self._place.num_processes} processes came within "
                f"{self._patience:.0f} s (process 0 at {where}: {self._reason}); look "
                "at the hosts that are missing, and start the same command on all"
            )


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(
            ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
    return socket.create_server(("", port), backlog=1024)
