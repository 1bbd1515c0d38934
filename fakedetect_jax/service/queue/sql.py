"""What a store of jobs asks, in the SQL that SQLite and PostgreSQL share."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from fakedetect_jax.service.queue.jobs import Total

Rows = Sequence[tuple]
TABLES = """
CREATE TABLE IF NOT EXISTS texts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS shelves (
  shelf TEXT NOT NULL, id TEXT NOT NULL, place DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (id, shelf));
CREATE INDEX IF NOT EXISTS shelves_in_order ON shelves (shelf, place);
CREATE TABLE IF NOT EXISTS totals (
  name TEXT NOT NULL, label TEXT NOT NULL, value DOUBLE PRECISION NOT NULL,
  PRIMARY KEY (name, label));
"""
MOST_VALUES = 500  # in one query; SQLite may be built for 999


class Statements:
    """See database.Changing; a mark in a query is ?."""

    def __init__(
        self, execute: Callable[[str, tuple], Rows], clock: Callable[[], float]
    ):
        """execute: runs a query with its values; clock: seconds since 1970."""
        self._execute, self.now = execute, clock

    def texts(self, names: Iterable[str]) -> dict[str, str]:
        """See database.Reading."""
        wanted, found = list(names), {}
        for first in range(0, len(wanted), MOST_VALUES):
            some = wanted[first : first + MOST_VALUES]
            marks = ", ".join("?" * len(some))
            query = f"SELECT name, value FROM texts WHERE name IN ({marks})"
            found |= dict(self._execute(query, tuple(some)))
        return found

    def shelf(
        self, shelf: str, *, below: float = math.inf, most: int | None = None
    ) -> list[str]:
        """See database.Reading."""
        query = "SELECT id FROM shelves WHERE shelf = ?"
        values: tuple = (shelf,)
        if below != math.inf:
            query, values = f"{query} AND place < ?", (*values, below)
        query += " ORDER BY place"
        if most is not None:
            query, values = f"{query} LIMIT ?", (*values, most)
        return [id for (id,) in self._execute(query, values)]

    def count(self, shelf: str) -> int:
        """See database.Reading."""
        query = "SELECT count(*) FROM shelves WHERE shelf = ?"
        return self._execute(query, (shelf,))[0][0]

    def totals(self) -> list[Total]:
        """See database.Reading."""
        query = "SELECT name, label, value FROM totals ORDER BY name, label"
        return [Total(*row) for row in self._execute(query, ())]

    def put(self, name: str, text: str) -> None:
        """See database.Changing."""
        self._execute(
            "INSERT INTO texts VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, text),
        )

    def drop(self, *names: str) -> None:
        """See database.Changing."""
        for name in names:
            self._execute("DELETE FROM texts WHERE name = ?", (name,))

    def place(self, id: str, shelves: Mapping[str, float | None]) -> None:
        """See database.Changing."""
        if off := tuple(shelf for shelf, rank in shelves.items() if rank is None):
            marks = ", ".join("?" * len(off))
            query = f"DELETE FROM shelves WHERE id = ? AND shelf IN ({marks})"
            self._execute(query, (id, *off))
        for shelf, rank in shelves.items():
            if rank is not None:
                self._execute(
                    "INSERT INTO shelves VALUES (?, ?, ?) "
                    "ON CONFLICT (id, shelf) DO UPDATE SET place = excluded.place",
                    (shelf, id, rank),
                )

    def add(self, name: str, label: str, value: float) -> None:
        """See database.Changing."""
        self._execute(
            "INSERT INTO totals VALUES (?, ?, ?) ON CONFLICT (name, label) "
            "DO UPDATE SET value = totals.value + excluded.value",
            (name, label, value),
        )
