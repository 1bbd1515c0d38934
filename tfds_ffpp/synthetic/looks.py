"""What the scenes, lights and cameras of one made set have in common.

Two sets of different looks are as two real datasets: other scenes, other cameras, the
same task. A detector that learned one look's noise and light fails on another's.
"""

from dataclasses import dataclass

Range = tuple[float, float]  # each video draws its own value between these


@dataclass(frozen=True)
class Look:
    """Ranges of one set's scenes, lights and cameras."""

    light_height: Range = (-0.7, 0.1)  # direction of the light, y; below 0 is above
    warmth: Range = (-0.12, 0.12)  # of the light: red against blue
    key: Range = (0.75, 1.05)  # brightness of the direct light
    ambient: Range = (0.18, 0.4)  # brightness of the light from all around
    exposure: Range = (0.85, 1.2)
    noise: Range = (1.2, 5.0)  # sensor noise, grey levels of 255
    grain: Range = (0.4, 0.8)  # pixels, size of the noise's grain
    blur: Range = (0.3, 0.8)  # pixels, sigma of the lens
    sharpening: float = 0.0  # share of the detail that the camera adds again
    chroma: Range = (0.05, 0.6)  # colourfulness of backgrounds and clothes
    scale: Range = (0.95, 1.12)  # size of the head
    restlessness: float = 1.0  # of the head: its motion, times this


INDOOR = Look()
LOOKS = {
    "indoor": INDOOR,
    # Daylight from above, a sharp camera that sharpens once more, people who move.
    "street": Look(
        light_height=(-1.1, -0.5),
        warmth=(-0.2, -0.02),
        key=(1.0, 1.3),
        ambient=(0.25, 0.45),
        exposure=(0.75, 1.0),
        noise=(0.6, 1.6),
        grain=(0.3, 0.45),
        blur=(0.2, 0.4),
        sharpening=0.8,
        chroma=(0.3, 1.0),
        scale=(0.85, 1.0),
        restlessness=1.5,
    ),
    # A dim warm lamp before a cheap camera: little light, a soft lens, coarse noise.
    "webcam": Look(
        light_height=(-0.4, 0.3),
        warmth=(0.08, 0.25),
        key=(0.45, 0.7),
        ambient=(0.12, 0.25),
        exposure=(0.9, 1.3),
        noise=(4.0, 8.0),
        grain=(0.8, 1.3),
        blur=(0.7, 1.1),
        chroma=(0.05, 0.3),
        scale=(1.05, 1.2),
        restlessness=0.7,
    ),
}
