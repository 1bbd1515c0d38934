"""Films of made heads whose regions and points are known."""

import numpy as np

from tests import true_faces
from tests.made_videos import Film
from tfds_ffpp.synthetic import identity, rendering

SIZE = 224


def film_head(seed: int, *, frames: int = 8, size: int = SIZE) -> Film:
    """A made head, every fourth frame of its film, with its true regions and points."""
    rng = np.random.default_rng(seed)
    face = identity.make_head(rng)
    scene = rendering.neck_layer(face, rendering.make_scene(rng, size))
    moments = rendering.make_performance(rng, 4 * frames)[::4]
    pictures = []
    for moment in moments:
        head = rendering.render_head(face, scene, moment)
        picture = rendering.compose(scene, moment, head=head)
        pictures.append(rendering.expose(picture, rendering.grain(scene, rng)))
    return Film(
        frames=pictures,
        indices=[4 * i for i in range(frames)],
        regions=[true_faces.true_regions(face, m, size) for m in moments],
        points=[true_faces.true_points(face, m, size) for m in moments],
    )
