"""The jobs in Redis, which several machines share."""

import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError
from redis.retry import Retry

from fakedetect_jax.errors import ConfigError
from fakedetect_jax.service.queue.database import Changing, Reading
from fakedetect_jax.service.queue.jobs import StoreFull, StoreGone, Total

T = TypeVar("T")
PREFIX = "fakedetect"
WAIT_SECONDS = 10  # for an answer or a connection
_TURN = f"{PREFIX}:turn"  # changes with each change, and so tells of those of others
_TOTALS = f"{PREFIX}:totals"
# Settings with which Redis keeps what it has taken.
_NEEDED = {"appendonly": "yes", "maxmemory-policy": "noeviction"}


class _Looking:
    """See database.Reading."""

    def __init__(self, client: Any):
        self._client = client

    def now(self) -> float:
        seconds, parts = self._client.time()
        return seconds + parts / 1e6

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        wanted = list(names)
        found = self._client.mget(map(_text, wanted)) if wanted else []
        pairs = zip(wanted, found, strict=True)
        return {name: text for name, text in pairs if text is not None}

    def shelf(
        self, shelf: str, *, below: float = math.inf, most: int | None = None
    ) -> list[str]:
        limit = "+inf" if below == math.inf else f"({below!r}"
        cut = {} if most is None else {"start": 0, "num": most}
        return self._client.zrangebyscore(_shelf(shelf), "-inf", limit, **cut)

    def count(self, shelf: str) -> int:
        return self._client.zcard(_shelf(shelf))

    def totals(self) -> list[Total]:
        counted = self._client.hgetall(_TOTALS)
        return sorted(
            Total(name, label, float(value))
            for key, value in counted.items()
            for name, label in [json.loads(key)]
        )


class _Change(_Looking):
    """See database.Changing; what is written waits for the end of the change."""

    def __init__(self, client: Any):
        super().__init__(client)
        self.writes: list[Callable[[Any], Any]] = []

    def put(self, name: str, text: str) -> None:
        self.writes.append(lambda pipe: pipe.set(_text(name), text))

    def drop(self, *names: str) -> None:
        self.writes.append(lambda pipe: pipe.delete(*map(_text, names)))

    def place(self, id: str, shelves: Mapping[str, float | None]) -> None:
        for shelf, rank in shelves.items():
            key = _shelf(shelf)
            if rank is None:
                self.writes.append(lambda pipe, key=key: pipe.zrem(key, id))
            else:
                score = {id: rank}
                self.writes.append(lambda pipe, key=key, s=score: pipe.zadd(key, s))

    def add(self, name: str, label: str, value: float) -> None:
        key = json.dumps([name, label])
        self.writes.append(lambda pipe: pipe.hincrbyfloat(_TOTALS, key, value))


class RedisDatabase:
    """See database.Database."""

    def __init__(self, url: str):
        """Connects. Raises ConfigError where Redis would forget what it has taken."""
        parts = urlsplit(url)
        # Without a password.
        self._name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        # Of this process one thread makes changes at a time, so that they seldom meet.
        self._lock = threading.Lock()
        self._client: Any = redis.Redis.from_url(
            url,
            decode_responses=True,
            socket_timeout=WAIT_SECONDS,
            socket_connect_timeout=WAIT_SECONDS,
            # A change whose answer was lost may have been made: it is not sent again.
            retry=Retry(NoBackoff(), 0),
        )
        self._check()

    def _check(self) -> None:
        try:
            with self._faults():
                found = self._client.config_get(*_NEEDED)
        except StoreGone as error:
            if isinstance(error.__cause__, ResponseError):
                return  # a host's Redis may keep its settings to itself
            raise
        for name, needed in _NEEDED.items():
            if found.get(name) != needed:
                raise ConfigError(
                    f"--store {self._name} would lose jobs; set {name} {needed} in "
                    f"its redis.conf, where it is {found.get(name)}"
                )

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Says what is wrong in a sentence."""
        try:
            yield
        except RedisError as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            # MISCONF: it cannot write its file.
            if isinstance(error, OutOfMemoryError) or "MISCONF" in said:
                raise StoreFull(
                    f"no space is left for the jobs in {self._name}; free some"
                ) from error
            raise StoreGone(
                f"the store of jobs, {self._name}, does not answer ({said}); start it, "
                "or give another --store"
            ) from error

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """See database.Database."""
        with self._faults():
            yield _Looking(self._client)

    def change(self, act: Callable[[Changing], T]) -> T:
        """See database.Database."""

        def attempt(pipe: Any) -> T:
            # Watches _TURN: where another change comes between, this is done again.
            change = _Change(pipe)
            done = act(change)
            pipe.multi()
            for write in change.writes:
                write(pipe)
            if change.writes:
                pipe.incr(_TURN)
            return done

        with self._lock, self._faults():
            return self._client.transaction(attempt, _TURN, value_from_callable=True)


def _text(name: str) -> str:
    return f"{PREFIX}:text:{name}"


def _shelf(shelf: str) -> str:
    return f"{PREFIX}:shelf:{shelf}"
