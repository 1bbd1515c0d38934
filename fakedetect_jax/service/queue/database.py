"""What a store of jobs asks of a database: texts by name, shelves in order, counts."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from fakedetect_jax.service.queue.jobs import Total

T = TypeVar("T")


class Reading(Protocol):
    """What can be asked. A shelf holds ids, each with a rank, lowest first."""

    def now(self) -> float:
        """Seconds since 1970, by one clock for all who use the database."""
        ...

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """Those of these names that are there."""
        ...

    def shelf(
        self, shelf: str, *, below: float = math.inf, most: int | None = None
    ) -> list[str]:
        """The ids on a shelf, of ranks below a limit."""
        ...

    def count(self, shelf: str) -> int:
        """How many ids are on a shelf."""
        ...

    def totals(self) -> list[Total]:
        """All that was counted, in the order of the names."""
        ...


class Changing(Reading, Protocol):
    """One change: all of it is kept, or nothing. What it wrote it does not read."""

    def put(self, name: str, text: str) -> None:
        """Keeps a text in place of the one of that name."""
        ...

    def drop(self, *names: str) -> None:
        """Forgets texts."""
        ...

    def place(self, id: str, shelves: Mapping[str, float | None]) -> None:
        """Puts an id on shelves, by rank, or takes it off where the rank is None."""
        ...

    def add(self, name: str, label: str, value: float) -> None:
        """Counts further."""
        ...


class Database(Protocol):
    """Safe to use from several threads and processes; changes come one after another.

    All of it raises StoreGone where the database cannot be reached, and StoreFull where
    it has no space.
    """

    def reading(self) -> AbstractContextManager[Reading]:
        """To ask, between changes of others."""
        ...

    def change(self, act: Callable[[Changing], T]) -> T:
        """What `act` returns, once its changes are kept; it may be called again."""
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...
