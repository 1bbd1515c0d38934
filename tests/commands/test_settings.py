"""Every field of every config is checked, and a wrong one refused in one sentence."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict
from tensorflow_datasets.core import BuilderConfig

from fakedetect_jax import settings, train
from fakedetect_jax.augment import fields as augment
from fakedetect_jax.data.batch import empty_batch
from fakedetect_jax.errors import ConfigError
from fakedetect_jax.model import steps
from fakedetect_jax.model.network import FakeDetector
from fakedetect_jax.run import process
from fakedetect_jax.settings import batch_shape, clip_shape, flatten
from tfds_ffpp import fields
from tfds_ffpp.errors import SettingError
from tfds_ffpp.tfds_ffpp_dataset_builder import FfppConfig

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_valid_and_takes_a_step(load_config, name):
    config = load_config(name)
    settings.check(config)
    step_settings = steps.make_step_settings(config, num_steps=10)
    shape = clip_shape(config)
    state = jax.eval_shape(lambda: steps.create_train_state(step_settings, shape))
    sizes = batch_shape(config, config.batch_size, train=True)
    batch = jax.eval_shape(lambda: empty_batch(*sizes))
    update = lambda s, b: steps.train_step(step_settings, s, b)  # noqa: E731
    after, metrics = jax.eval_shape(update, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics.loss.shape == ()


def test_the_base_config_is_the_original_recipe(load_config):
    config = load_config("ffpp", "c40")
    assert config.dataset.compression == "c40"
    assert (config.dataset.num_frames, config.data.clip_frames) == (30, 10)
    assert (config.dataset.image_size, config.batch_size) == (224, 32)
    assert (config.num_epochs, config.optimizer.learning_rate) == (50, 1e-3)
    assert config.model.backbone == "resnet50"
    assert all(config.augment[operation] == 0 for operation in augment.OPERATIONS)


def test_every_field_has_one_rule(load_config):
    assert set(flatten(load_config("ffpp").to_dict())) == set(settings.RULES)


def border_values(rule) -> list:
    """The last values that a rule takes and the first that it refuses, and others."""
    match rule:
        case fields.Whole(low, high):
            ends = [low - 1, low] + ([high, high + 1] if math.isfinite(high) else [])
            return [*ends, float(low), True, "1"]
        case fields.Number(low, high):
            return [low, math.nextafter(low, -math.inf), high, high + 1e-6, True, "1"]
        case fields.Choice(options):
            return [*options, "", "other", None]
    return [True, 1, 0.5, "", "x", [], ["x"], [1], None]


def refusal(check, *arguments, **named) -> str:
    """What a check says against its arguments; "" if nothing."""
    try:
        check(*arguments, **named)
    except (SettingError, ConfigError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", fields.FIELDS)
def test_what_a_build_accepts_the_trainer_accepts(load_config, name):
    """And the other way round: each value at a border of each dataset field."""
    config = load_config("ffpp").copy_and_resolve_references()
    verdicts = set()
    values = border_values(fields.FIELDS[name])
    for value in [*values, config.dataset[name]]:
        with config.unlocked():
            config.dataset = ConfigDict({**config.dataset, name: value})
            # Lets every other field's value pass the checks of several together.
            config.data.clip_frames = 1
        points = {"landmarks": "dlib"} if name == "align" else {}  # it needs them
        build = refusal(FfppConfig, **{"name": "x", **points, name: value})
        trainer = refusal(settings.check, config)
        # A map is a text for both; what it says is read by the build alone.
        if not (name == "map" and isinstance(value, str)):
            assert ("it must be" in build) == ("it must be" in trainer), value
            assert bool(build) == bool(trainer), value
        verdicts.add(not trainer)
    assert verdicts == {True, False}


def test_an_augmentation_has_one_range(load_config):
    """What the training step takes of config.augment, the check takes, and no more."""
    assert set(augment.FIELDS) == set(augment.Augmentation._fields)
    config = load_config("ffpp").copy_and_resolve_references()
    for name, rule in augment.FIELDS.items():
        usual = config.augment[name]
        for value in border_values(rule):
            with config.unlocked():
                config.augment = ConfigDict({**config.augment, name: value})
            step = refusal(augment.parse, config.augment)
            assert step == refusal(settings.check, config)
        with config.unlocked():
            config.augment = ConfigDict({**config.augment, name: usual})


def test_checking_a_config_loads_no_heavy_library():
    code = (
        "import sys, fakedetect_jax.settings\n"
        "print({'jax', 'tensorflow_datasets', 'cv2', 'av'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer.learning_rate", math.nan, "a number above 0"),
        ("optimizer.learning_rate", math.inf, "a number above 0"),
        ("optimizer.learning_rate", 0.0, "a number above 0"),
        ("batch_size", 0, "a whole number of at least 1|from 1"),
        ("data.clip_frames", -1, "a whole number from 1"),
        ("data.sampling", "balanced", "one of natural, class, method, pair"),
        ("optimizer.b1", 1.0, "a number from 0 to 0.9999"),
        ("seed", -1, "a whole number"),
        ("accelerator", "cuda", "one of any, cpu, gpu, tpu"),
    ],
)
def test_a_wrong_value_names_field_value_and_range(load_config, field, value, message):
    """C2 A wrong type, nan, inf, negative, out of range: field, value and range."""
    config = load_config("ffpp")
    group, _, name = field.rpartition(".")
    with config.unlocked():
        (config[group] if group else config)[name] = value
    with pytest.raises(ConfigError, match=message) as caught:
        settings.check(config)
    assert f"config.{field} is {value!r}" in str(caught.value)


def test_a_clip_longer_than_the_stored_frames_names_both(load_config):
    config = load_config("ffpp")
    config.data.frame_stride = 4
    with pytest.raises(ConfigError, match="needs 37 stored frames, but .* is 30"):
        settings.check(config)


def test_groups_of_batchnorm_must_divide_what_is_computed_at_once(load_config):
    config = load_config("ffpp")
    config.model.norm_groups = 8
    settings.check(config)
    config.accumulate = 8
    with pytest.raises(ConfigError, match="norm_groups is 8, and a part .* has 4 clip"):
        settings.check(config)
    config.accumulate, config.model.norm_groups = 1, 5
    with pytest.raises(ConfigError, match="norm_groups is 5, and a batch has 32 clips"):
        settings.check(config)


def test_a_batch_larger_than_an_epoch_is_refused(load_config):
    with pytest.raises(ConfigError, match="more than the 20 clips"):
        train.make_plan(load_config("ffpp"), num_videos=20)


def test_the_config_lists_every_field_of_the_dataset_and_the_model(load_config):
    config = load_config("ffpp")
    dataset = {field.name for field in dataclasses.fields(FfppConfig)}
    inherited = {field.name for field in dataclasses.fields(BuilderConfig)}
    assert set(config.dataset) == (dataset - inherited) | {"name"}
    model = {field.name for field in dataclasses.fields(FakeDetector)}
    assert set(config.model) == model - {"parent", "name"}


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are glibc's")
@pytest.mark.parametrize(
    ("options", "given", "starts"),
    [
        ((), {}, 2),
        (("--notune_malloc",), {}, 1),
        ((), {"MALLOC_TOP_PAD_": "9"}, 1),
        (("--config.accelerator=gpu",), {}, 1),
        ((), {"JAX_PLATFORMS": "cuda,cpu"}, 1),
        (("--config.accelerator=cpu",), {"JAX_PLATFORMS": ""}, 2),
    ],
)
def test_the_entry_point_sets_malloc_once_and_leaves_what_is_set(
    tmp_path, options, given, starts
):
    """Every start runs the config file once; here it notes what it finds."""
    log, config = tmp_path / "log", tmp_path / "noting.py"
    demo = str(ROOT / "configs/demo.py")
    config.write_text(
        "import json, os, runpy, sys\n"
        "def get_config():\n"
        f"    with open({str(log)!r}, 'a') as file:\n"
        "        found = {**os.environ, 'argv': sys.orig_argv[1:]}\n"
        "        print(json.dumps(found), file=file)\n"
        f"    return runpy.run_path({demo!r})['get_config']()\n"
    )
    workdir = tmp_path / "log" / "not-a-folder"  # ends the run before it begins
    command = [sys.executable, "-X", "utf8", "-m", "fakedetect_jax.main"]
    command += [f"--config={config}", f"--workdir={workdir}", *options]
    own = (*process.MALLOC, "JAX_PLATFORMS")
    environment = {k: v for k, v in os.environ.items() if k not in own}
    done = subprocess.run(
        command,
        env={**environment, **given},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4, done.stderr
    *before, last = done.stderr.splitlines()
    assert last.startswith("error: ") and len(before) == starts - 1
    assert all("anew with malloc set" in line for line in before)
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(one["argv"] == command[1:] for one in found)
    seen = [{k: v for k, v in f.items() if k in process.MALLOC} for f in found]
    malloc = {k: v for k, v in given.items() if k in process.MALLOC}
    assert seen == [malloc, process.MALLOC][:starts]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_the_same_from_any_folder(tmp_path, monkeypatch, name):
    """A child finds its parent by name, wherever the command is typed."""
    file = ROOT / "configs" / f"{name}.py"
    monkeypatch.chdir(ROOT)
    here = settings.load(f"configs/{name}.py").to_dict()
    monkeypatch.chdir(tmp_path)
    for path in (str(file), os.path.relpath(file, tmp_path)):
        assert settings.load(path).to_dict() == here


def test_test_is_scored_unasked_only_where_the_config_says_so_itself(load_config):
    """A look at test costs its honesty, so it is written in the file that takes it."""
    for name in CONFIGS:
        file = (ROOT / "configs" / f"{name}.py").read_text()
        said = 'final_split = "test"' in file
        assert load_config(name).eval.final_split == ("test" if said else "val")
    assert load_config("ffpp_original").dataset.protocol == "repeated"
