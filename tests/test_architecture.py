"""The house: arrows point one way, and each fast-moving library has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the top of the house down; a module imports only from lines below its own.
LEVELS = [
    ["main", "predict", "export"],
    ["train", "evidence", "onnx_graph"],
    ["detector"],
    ["bundle"],
    ["description"],
    ["evaluate", "explain"],
    ["steps", "timeline", "trivial"],
    ["pretrained"],
    ["models", "augment", "selfblend", "report", "checkpoint", "data"],
    ["workdir", "comparison"],
    ["results"],
    ["calibration"],
    ["intervals", "figures"],
    ["metrics", "convolution", "imaging", "parallel", "interrupt", "writer"],
    ["settings"],
    ["supervise", "hosts"],
    ["sources"],
    ["errors", "files"],
]
# Who may import a library; the others go through it.
DOORS = {
    "orbax": {"checkpoint"},
    "grain": {"data"},
    "tensorflow_datasets": {"data", "tfds_ffpp_dataset_builder", "build", "packaging"},
    "av": {"video", "worker", "synthetic"},
    "dlib": {"faces"},
    "array_record": {"data", "packaging"},
    "tensorboardX": {"writer"},
    "onnx": {"onnx_graph"},
    "safetensors": {"bundle", "pretrained"},
}
# Anything of these runs in data workers or serves people without a device.
WITHOUT_JAX = {
    "data",
    "metrics",
    "report",
    "comparison",
    "results",
    "calibration",
    "intervals",
    "figures",
    "files",
    "settings",
    "sources",
    "timeline",
    "trivial",
}


def modules(package: str) -> dict[str, Path]:
    return {path.stem: path for path in (ROOT / package).glob("*.py")}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path: Path, package: str) -> set[str]:
    names = {name.split(".")[1] for name in imports(path) if name.count(".")}
    return names & set(modules(package))


def test_modules_import_only_from_below():
    level = {name: i for i, names in enumerate(LEVELS) for name in names}
    wrong = []
    for name, path in modules("fakedetect_jax").items():
        if name == "__init__":
            continue
        assert name in level, f"{name} has no place in LEVELS"
        for other in own_imports(path, "fakedetect_jax") - {name, "__init__"}:
            if level[other] <= level[name]:
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_the_builder_knows_neither_the_trainer_nor_jax():
    for path in modules("tfds_ffpp").values():
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"fakedetect_jax", "jax", "flax", "optax", "orbax"}, path


@pytest.mark.parametrize("library", sorted(DOORS))
def test_each_fast_moving_library_has_one_door(library):
    everything = modules("fakedetect_jax") | modules("tfds_ffpp")
    users = {
        name
        for name, path in everything.items()
        if any(imported.split(".")[0] == library for imported in imports(path))
    }
    assert users <= DOORS[library]


@pytest.mark.parametrize("name", sorted(WITHOUT_JAX))
def test_works_without_jax(name):
    roots = {i.split(".")[0] for i in imports(modules("fakedetect_jax")[name])}
    assert not roots & {"jax", "flax", "optax", "orbax"}


def test_nothing_imports_tensorflow_torch_or_pickle():
    everything = modules("fakedetect_jax") | modules("tfds_ffpp")
    for path in everything.values():
        roots = {name.split(".")[0] for name in imports(path)}
        assert not roots & {"tensorflow", "torch", "pickle", "joblib"}, path
