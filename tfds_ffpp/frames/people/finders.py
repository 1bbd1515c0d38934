"""What finds faces in one picture, and the points of a face.

The only file that knows the face detectors.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from tfds_ffpp.errors import DataError
from tfds_ffpp.frames.found import Box
from tfds_ffpp.frames.people.track import place_points

DLIB = ("dlib", "dlib_network")  # the finders that are dlib's


class FaceFinder(Protocol):
    """Finds faces in one picture."""

    name: str

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """The boxes in pixels of all faces in RGB uint8[H,W,3]; faint: maybes too."""
        ...

    def find_hard(self, image: np.ndarray) -> list[Box]:
        """As find, by slower means, if there are any: for where find sees nothing."""
        del image
        return []

    def points(self, image: np.ndarray, box: Box) -> np.ndarray:
        """The five points float[5,2] of a face found there; see track.Track."""
        ...


def _model(name: str, use: str, cure: str) -> Path:
    """A model of dlib in the package face-recognition-models.

    use: what needs it; cure: a field by which a dataset does without. Their author
    gave them to the public domain (CC0). The package's 68-point model, whose training
    data are not free, is never opened. Raises DataError without the package.
    """
    spec = find_spec("face_recognition_models")  # its own code needs old setuptools
    for place in (spec and spec.submodule_search_locations) or ():
        file = Path(place) / "models" / name
        if file.is_file():
            return file
    raise DataError(
        f"{use} need the package face-recognition-models (extra faces); pip install "
        "it, or in the clone `pip install -e '.[faces]'`; a dataset does without by "
        f"{cure}"
    )


def landmark_model() -> Path:
    """dlib's five-point model. Raises DataError without its package."""
    use = "dlib's points, and faces aligned by them,"
    return _model("shape_predictor_5_face_landmarks.dat", use, "landmarks=none")


def network_model() -> Path:
    """dlib's detection network (MMOD). Raises DataError without its package."""
    use = "faces that dlib's network is to find"
    return _model("mmod_human_face_detector.dat", use, "face_finder=dlib")


class DlibFinder(FaceFinder):
    """dlib's frontal face detector (HOG); its model is part of the library."""

    def __init__(self, *, landmarks: bool = False, network: bool = False):
        """Imports dlib here: its detectors cannot be handed to another process.

        landmarks: find points by the five-point model; else they are placed in the
        box. network: find_hard asks dlib's network (King, "Max-Margin Object
        Detection", 2015), which knows heads that are turned away. Raises DataError
        when a model is not there.
        """
        import dlib

        self._detector = dlib.get_frontal_face_detector()  # pyright: ignore
        self._predictor = None
        if landmarks:
            self._predictor = dlib.shape_predictor(  # pyright: ignore
                str(landmark_model())
            )
        self._network = None
        if network:
            self._network = dlib.cnn_face_detection_model_v1(  # pyright: ignore
                str(network_model())
            )
        self.name = "dlib_network" if network else "dlib"

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """See FaceFinder."""
        found, scores, _ = self._detector.run(image, 0, -0.2 if faint else 0.0)
        order = sorted(range(len(found)), key=lambda i: -scores[i])
        return [
            (
                float(found[i].top()),
                float(found[i].left()),
                float(found[i].bottom() + 1),
                float(found[i].right() + 1),
            )
            for i in order
        ]

    def find_hard(self, image: np.ndarray) -> list[Box]:
        """See FaceFinder. The network's boxes are made as large as the HOG's, and put
        where those are, so that a crop does not depend on who found the face."""
        if self._network is None:
            return []
        found = sorted(self._network(image, 0), key=lambda face: -face.confidence)
        boxes: list[Box] = []
        for rect in (face.rect for face in found):
            side = NETWORK_TO_HOG * (rect.bottom() + 1 - rect.top())
            y = (rect.top() + rect.bottom() + 1) / 2 + NETWORK_DOWN * side
            x = (rect.left() + rect.right() + 1) / 2 + NETWORK_RIGHT * side
            half = side / 2
            boxes.append((y - half, x - half, y + half, x + half))
        return boxes

    def points(self, image: np.ndarray, box: Box) -> np.ndarray:
        """See FaceFinder. The model gives four corners of the eyes and the nose's base;
        the mouth's corners are placed by the proportions of a face."""
        if self._predictor is None:
            return place_points(box)
        import dlib

        top, left, bottom, right = (round(v) for v in box)
        area = dlib.rectangle(left, top, right - 1, bottom - 1)  # pyright: ignore
        shape = self._predictor(image, area)
        corners = np.array([[p.y, p.x] for p in shape.parts()], float)
        right_eye, left_eye, nose = (
            corners[:2].mean(0),
            corners[2:4].mean(0),
            corners[4],
        )
        across = right_eye - left_eye
        below = np.array([across[1], -across[0]])  # at a right angle to the eyes' line
        middle = (left_eye + right_eye) / 2
        size = max(across @ across, 1.0)  # square pixels; both eyes at one place: 0
        down = (nose - middle) @ below / size + NOSE_TO_MOUTH
        aside = MOUTH_ASIDE * ((nose - middle) @ across) / size
        mouth = middle + down * below + aside * across
        half = MOUTH_TO_EYES * across / 2
        return np.stack([left_eye, right_eye, nose, mouth - half, mouth + half])


# The HOG's boxes in sides of the network's, and how far they lie below and right of
# them in sides of their own: medians over made heads (benchmarks/results/faces.md).
NETWORK_TO_HOG = 1.09
NETWORK_DOWN = 0.09
NETWORK_RIGHT = 0.06
# Proportions of a face, in distances between the eyes' middles (60 to 62 mm). From the
# nose's base to the line between the lips are 20 to 22 mm, a mouth is 50 to 54 mm wide
# (Farkas, "Anthropometry of the Head and Face", 2nd ed. 1994, adults: sn-sto, ch-ch):
# 0.34 and 0.86. By dlib's points, made heads have 0.39 for the first.
NOSE_TO_MOUTH = 0.37
MOUTH_TO_EYES = 0.86
# Of a turned head the nose's base, which stands out, moves aside; the mouth's corners,
# about as deep as the eyes', do not, and the lips between them do in part.
MOUTH_ASIDE = 0.5


# SHA-256 -> name of the files of github.com/opencv/opencv_zoo (MIT, Shiqi Yu) that
# docs/data.md describes: of 640x640 pixels, and the same weights for any size.
YUNET_FILES = {
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4": (
        "face_detection_yunet_2023mar.onnx"
    ),
    "ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0": (
        "face_detection_yunet_2026may.onnx"
    ),
}


def need_model(model: str) -> Path:
    """The file of a YuNet model. Raises DataError where there is none."""
    if not Path(model).is_file():
        raise DataError(
            "face_finder yunet needs face_finder_model, an .onnx file; "
            f"{model or 'nothing'} is not one"
        )
    return Path(model)


class YunetFinder(FaceFinder):
    """OpenCV's FaceDetectorYN with the user's own .onnx file."""

    name = "yunet"

    def __init__(self, model: str):
        """Raises DataError when the file is missing or not such a model."""
        file = str(need_model(model))
        try:
            self._detector = cv2.FaceDetectorYN.create(file, "", (320, 320))
        except cv2.error as error:
            raise DataError(
                f"{model} is not a YuNet model ({str(error).splitlines()[0]})"
            ) from None

    def _rows(self, image: np.ndarray, *, faint: bool) -> np.ndarray:
        """A row for each face: x, y, width, height, five points as x, y, score."""
        self._detector.setScoreThreshold(0.5 if faint else 0.8)
        self._detector.setInputSize((image.shape[1], image.shape[0]))
        _, faces = self._detector.detect(np.ascontiguousarray(image[..., ::-1]))
        return np.empty((0, 15)) if faces is None else np.asarray(faces, float)

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """See FaceFinder."""
        return [
            (float(y), float(x), float(y + h), float(x + w))
            for x, y, w, h in self._rows(image, faint=faint)[:, :4]
        ]

    def points(self, image: np.ndarray, box: Box) -> np.ndarray:
        """See FaceFinder; the model gives all, the tip of the nose for its base."""
        rows = self._rows(image, faint=True)
        nearest = np.abs(rows[:, :2] - [box[1], box[0]]).sum(axis=1).argmin()
        return rows[nearest, 4:14].reshape(5, 2)[:, ::-1]


class NoFinder(FaceFinder):
    """Takes the largest centred square: for videos that are face crops already."""

    name = "none"

    def find(self, image: np.ndarray, *, faint: bool = False) -> list[Box]:
        """See FaceFinder."""
        del faint
        height, width = image.shape[:2]
        side = min(height, width)
        y0, x0 = (height - side) / 2, (width - side) / 2
        return [(y0, x0, y0 + side, x0 + side)]

    def points(self, image: np.ndarray, box: Box) -> np.ndarray:
        """See FaceFinder."""
        del image
        return place_points(box)


@lru_cache(maxsize=4)
def open_finder(name: str, model: str = "", landmarks: str = "none") -> FaceFinder:
    """dlib, dlib_network (landmarks none or dlib), yunet (with a model file), none."""
    if name in DLIB:
        return DlibFinder(landmarks=landmarks == "dlib", network=name != "dlib")
    if name == "yunet":
        return YunetFinder(model)
    if name == "none":
        return NoFinder()
    raise DataError(
        f"face_finder {name} is not one of {', '.join((*DLIB, 'yunet', 'none'))}"
    )
