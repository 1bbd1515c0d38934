"""Small pictures of a video's frames, one after another -> where its shots begin.

A hard cut is a frame whose picture differs from the one before far more than pictures
do around it (an adaptive threshold), and that neither goes back to what was shown
before, as after a flash, nor shows the same under another light. A dissolve is a
stretch whose middle is the mean of its ends, and whose ends show different things. A
fade goes through pictures that show nothing.
"""

from collections import deque

import cv2
import numpy as np

HEIGHT, WIDTH = 27, 48  # of the pictures
AROUND = 6  # pictures on each side of a cut that it is compared with
LEAST = 6.0  # grey levels: mean difference across a cut
PEAK = 1.8  # times the differences around it
MOVING = 1.15  # the same where pictures move so fast that they differ by themselves
LIKENESS = 0.35  # by which they are more alike around such a cut than across it
BACK = 0.6  # of a cut's difference: pictures nearer than this are the same again
SAME_SHAPE = 0.9  # correlation from which two pictures show the same thing
SHIFT = 5  # pixels: how far a picture may have moved to be compared
SOFT = (4, 6, 9, 13, 18)  # half the lengths in which dissolves are looked for
SOFT_EVERY = 2  # pictures
SOFT_LEAST = 20.0  # grey levels between the ends of a dissolve
SOFT_BEND = 0.2  # of that: how far its middle may be from the mean of its ends
SOFT_SHAPE = 0.6  # correlation of the ends below which they show different things
BLANK = 3.0  # grey levels: the spread of a picture that shows nothing
_KEPT = 2 * max(SOFT) + 2 * AROUND + 2


def shape_match(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two pictures, of the best of small shifts; 0 of an even one."""
    inner = b[SHIFT:-SHIFT, SHIFT:-SHIFT]
    if inner.std() < 1 or a.std() < 1:
        return 0.0
    return float(cv2.matchTemplate(a, inner, cv2.TM_CCOEFF_NORMED).max())


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of two pictures, in grey levels."""
    return cv2.norm(a, b, cv2.NORM_L1) / a.size


class ShotFinder:
    """Finds where shots begin while the pictures come; keeps the last few alone."""

    def __init__(self):
        """Nothing was seen yet."""
        self._hard: list[int] = []
        self._soft: list[tuple[int, float]] = []  # (middle, how plain it is)
        self._count = 0
        self._kept: deque[np.ndarray] = deque(maxlen=_KEPT)
        self._steps: deque[float] = deque(maxlen=_KEPT)  # from the picture before
        self._blank = 0  # how many pictures of nothing came last

    def add(self, picture: np.ndarray) -> None:
        """The next picture, uint8[HEIGHT,WIDTH]."""
        last = self._kept[-1] if self._kept else picture
        self._steps.append(_apart(picture, last))
        self._kept.append(picture)
        self._count += 1
        if self._count > AROUND:
            self._decide(self._count - 1 - AROUND)
        if self._count % SOFT_EVERY == 0:
            self._look_for_dissolve()
        self._look_for_blank(picture)

    def finish(self) -> list[int]:
        """The numbers of the pictures that begin a shot, rising, without the first."""
        for number in range(max(self._count - AROUND, 1), self._count):
            self._decide(number)
        near = max(SOFT)
        soft = [
            middle
            for middle, _ in self._soft
            if not any(abs(middle - cut) <= near for cut in self._hard)
        ]
        return sorted({*self._hard, *soft} - {0})

    def _step(self, number: int) -> float:
        place = number - self._count + len(self._steps)
        return self._steps[place] if 0 <= place < len(self._steps) else 0.0

    def _picture(self, number: int) -> np.ndarray | None:
        place = number - self._count + len(self._kept)
        return self._kept[place] if 0 <= place < len(self._kept) else None

    # Hard cuts

    def _decide(self, number: int) -> None:
        """Whether a picture begins a shot."""
        step = self._step(number)
        if step < LEAST or number == 0:
            return
        before = sorted(self._step(number - i) for i in range(1, AROUND + 1))
        after = sorted(self._step(number + i) for i in range(1, AROUND + 1))
        # One other cut near by is no reason against this one.
        around = max(before[-2], after[-2]) + 1
        if step < MOVING * around:
            return
        old, new = self._picture(number - 1), self._picture(number)
        if old is None or new is None or self._goes_back(number, old, new, BACK * step):
            return
        alike = shape_match(old, new)
        if step < PEAK * around and alike > self._alike_around(number) - LIKENESS:
            return
        if alike < SAME_SHAPE:
            self._hard.append(number)

    def _alike_around(self, number: int) -> float:
        """How alike neighbours are, moved or not, on the less alike side."""
        pairs = [(number - 2, number - 1), (number - 3, number - 2)]
        pairs += [(number, number + 1), (number + 1, number + 2)]
        found = []
        for a, b in pairs:
            old, new = self._picture(a), self._picture(b)
            found.append(1.0 if old is None or new is None else shape_match(old, new))
        return min(max(found[:2]), max(found[2:]))

    def _goes_back(
        self, number: int, old: np.ndarray, new: np.ndarray, near: float
    ) -> bool:
        """Whether a later picture is the one before the step, or an earlier its own."""
        later = (self._picture(number + i) for i in range(1, AROUND + 1))
        earlier = (self._picture(number - 1 - i) for i in range(1, AROUND + 1))
        return any(p is not None and _apart(p, old) < near for p in later) or any(
            p is not None and _apart(p, new) < near for p in earlier
        )

    # Soft cuts

    def _look_for_dissolve(self) -> None:
        last = self._picture(self._count - 1)
        for half in SOFT:
            first = self._picture(self._count - 1 - 2 * half)
            middle = self._picture(self._count - 1 - half)
            if first is None or middle is None or last is None:
                return
            apart = _apart(first, last)
            if apart < SOFT_LEAST:
                continue
            mean = cv2.addWeighted(first, 0.5, last, 0.5, 0)
            bend = _apart(mean, middle) / apart
            if bend < SOFT_BEND and shape_match(first, last) < SOFT_SHAPE:
                self._add_soft(self._count - 1 - half, apart * (1 - bend))

    def _add_soft(self, middle: int, plain: float) -> None:
        """The plainest of those that are near each other stays."""
        if self._soft and middle - self._soft[-1][0] <= max(SOFT):
            if plain > self._soft[-1][1]:
                self._soft[-1] = middle, plain
            return
        self._soft.append((middle, plain))

    def _look_for_blank(self, picture: np.ndarray) -> None:
        if picture.std() < BLANK:
            self._blank += 1
            return
        before = self._picture(self._count - 2 - self._blank)
        if self._blank and self._count > self._blank + AROUND:
            flash = before is not None and shape_match(before, picture) > SAME_SHAPE
            if not flash:
                self._add_soft(self._count - 1 - (self._blank + 1) // 2, 255.0)
        self._blank = 0
