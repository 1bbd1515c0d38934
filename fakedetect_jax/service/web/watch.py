"""What is seen of the store from the side: progress, health, and what is to be deleted.

One look serves all who watch, so that many of them cost no more than one.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import NamedTuple

from fakedetect_jax.service.queue.jobs import Job, StoreFull, StoreGone
from fakedetect_jax.service.queue.places import Places
from fakedetect_jax.service.queue.store import Store

LOOK_SECONDS = 0.3
HEALTH_SECONDS = 1.0
CLEAN_SECONDS = 15.0
FULL = "the disk of the service is full; it goes on when there is space"


class Seen(NamedTuple):
    """A job, and how many are before it while it waits."""

    job: Job
    place: int | None


class Watch:
    """Looks at the store now and then, in the loop of the server."""

    def __init__(self, store: Store, places: Places, *, keep_seconds: float):
        """keep_seconds: after which an ended job is deleted."""
        self._store, self._places, self._keep = store, places, keep_seconds
        self._watched: Counter[str] = Counter()
        self._asked: frozenset[str] = frozenset()  # at the last look
        self._seen: dict[str, Seen] = {}
        self._turn = asyncio.Condition()
        self.stopping = False
        self.fault = ""  # of the store
        self.has_model = False
        self.is_full = False  # the disk

    async def run(self) -> None:
        """Looks until it is cancelled."""
        await asyncio.gather(self._look(), self._check(), self._clean())

    async def follow(self, id: str) -> AsyncIterator[Seen | None]:
        """A job at each look; ends when it is over, gone, or the server stops."""
        self._watched[id] += 1
        try:
            while not self.stopping:
                async with self._turn:
                    await self._turn.wait()
                if id not in self._asked:
                    continue  # that look had begun before
                seen = self._seen.get(id)
                yield seen
                if seen is None or seen.job.is_over:
                    return
        finally:
            self._watched[id] -= 1
            if not self._watched[id]:
                del self._watched[id]

    @property
    def waits_for(self) -> str:
        """What keeps the service from going on; "" where nothing does."""
        return FULL if self.is_full else ""

    def stop(self) -> None:
        """Ends all that follow, at the next look."""
        self.stopping = True

    async def _look(self) -> None:
        while True:
            ids = frozenset(self._watched)
            if ids:
                with contextlib.suppress(StoreGone, StoreFull):
                    found = await asyncio.to_thread(see, self._store, list(ids))
                    self._asked, self._seen = ids, found
                async with self._turn:
                    self._turn.notify_all()
            await asyncio.sleep(LOOK_SECONDS)

    async def _check(self) -> None:
        while True:
            try:
                self.has_model = bool(await asyncio.to_thread(self._store.model))
                self.fault = ""
            except (StoreGone, StoreFull) as error:
                self.fault = str(error)
            self.is_full = await asyncio.to_thread(self._places.is_full)
            await asyncio.sleep(HEALTH_SECONDS)

    async def _clean(self) -> None:
        while True:
            with contextlib.suppress(StoreGone, StoreFull, OSError):
                await asyncio.to_thread(clean, self._store, self._places, self._keep)
            await asyncio.sleep(min(CLEAN_SECONDS, max(self._keep / 4, 0.2)))


def see(store: Store, ids: list[str]) -> dict[str, Seen]:
    """The jobs of these ids, each with its place."""
    jobs = store.get(*ids)
    place = {id: i for i, id in enumerate(store.waiting())}
    return {id: Seen(job, place.get(id)) for id, job in jobs.items()}


def clean(store: Store, places: Places, keep_seconds: float) -> None:
    """Deletes what has been kept long enough, and folders that belong to no job."""
    for id in store.ended(keep_seconds):
        store.delete(id)
        places.remove(id)
    old = places.orphans()
    known = store.get(*old) if old else {}
    for id in old:
        if id not in known:
            places.remove(id)
