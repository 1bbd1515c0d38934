"""Which fields a trained model fixes: once, for a resume and an evaluation alike."""

import pytest

from fakedetect_jax import settings
from fakedetect_jax.evaluation.evaluate import scored_with
from fakedetect_jax.run import fixed
from fakedetect_jax.run.checkpoint import CheckpointFacts


def test_the_lists_name_fields_that_there_are(load_config):
    fields = settings.field_names(load_config("ffpp"))
    groups = {field.split(".")[0] for field in fields}
    named = (*fixed.TRAINED_FIELDS, *fixed.FREE_FIELDS, *fixed.SCORING_FIELDS)
    assert set(named) <= set(fields) and set(fixed.TRAINED_GROUPS) <= groups
    for name in fixed.TRAINING_FIELDS:
        assert any(field.startswith(name) for field in fields), name


@pytest.mark.parametrize(
    ("field", "is_fixed"),
    [
        ("model.width", True),
        ("dataset.image_size", True),
        ("data.clip_frames", True),
        ("optimizer.ema_decay", True),
        ("model.remat", False),  # how it is computed, not what
        ("model.cpu_kernels", False),
        ("dataset.allow_one_class", False),
        ("optimizer.learning_rate", False),
        ("data.eval_clips_per_video", False),
    ],
)
def test_a_trained_model_fixes_what_it_is(field, is_fixed):
    assert fixed.is_fixed(field) == is_fixed


def test_a_result_of_other_clips_is_another_result(tiny_run):
    """Fewer clips are scored where more of a clip must show the face."""
    from fakedetect_jax.data.dataset import open_dataset

    config = tiny_run.config.copy_and_resolve_references()
    folder = open_dataset(config).data_dir
    facts = CheckpointFacts()
    before = scored_with(config, facts, folder)
    config.data.min_coverage = 0.9
    assert scored_with(config, facts, folder) != before
