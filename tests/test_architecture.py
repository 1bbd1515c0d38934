"""Imports point downwards, and each fast-moving library is known to few modules."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the top down. A module or folder imports only from layers below its own, and
# inside its folder; inside a folder there is no circle.
LAYERS = {
    "fakedetect_jax": [
        ["__main__", "main", "predict", "report", "export", "suite", "doctor", "serve"],
        ["train", "service"],
        ["outputs", "training"],
        ["evaluation", "serving"],
        ["programs"],
        ["trained"],
        ["pages", "run", "model"],
        ["reports", "settings"],
        ["metrics", "augment"],
        ["data"],
        ["errors"],
    ],
    "tfds_ffpp": [
        ["__main__", "layout"],
        ["build"],
        ["tfds_ffpp_dataset_builder"],
        ["packaging"],
        ["workers", "card"],
        ["frames", "synthetic"],
        ["tree"],
        ["store"],
        ["terminal", "system", "files", "records", "fields"],
        ["errors"],
    ],
}
# The only modules that import a library; the others go through them.
IMPORTERS = {
    "orbax": {"run.checkpoint"},
    "grain": {"data.feed"},
    "tensorflow_datasets": {
        *("data.reader", "tfds_ffpp_dataset_builder", "build", "packaging"),
    },
    "av": {
        "frames.decoding.container",
        "frames.decoding.index",
        "frames.decoding.groups",
        "frames.decoding.frames",
        "frames.decoding.colours",
        "frames.origin.container",
        "frames.video",
        "frames.images",
        "workers.child",
        "workers.playable",
        "workers.annotated",
        "synthetic.tree",
        "data.reencode",
    },
    "c2pa": {"frames.origin.credentials"},
    "fsspec": {"store.addresses"},
    "gcsfs": {"store.addresses"},
    "dlib": {"frames.people.finders", "frames.people.descriptors"},
    "array_record": {"data.reader", "packaging"},
    "tensorboardX": {"training.metrics_file"},
    "huggingface_hub": {"trained.hub"},
    "onnx": {"programs.onnx.graph"},
    "onnxruntime": {"programs.runtimes"},
    "openvino": {"programs.runtimes"},
    "safetensors": {"trained.guard", "trained.model", "model.pretrained"},
    "matplotlib": {
        *("pages.figures", "pages.evaluation_page", "pages.comparison_page"),
        "pages.robustness_page",
    },
    "jinja2": {"pages.render"},
    "fastapi": {"service.web.app"},
    "starlette": {"service.web.app"},
    "pydantic": {"service.web.answers"},
    "uvicorn": {"service.server"},
    "python_multipart": {"service.web.upload"},
    "prometheus_client": {"service.web.metrics"},
    "sqlite3": {"service.queue.sqlite"},
    "psycopg": {"service.queue.postgres"},
    "redis": {"service.queue.redis"},
    "PIL": {"frames.images", "pages.evaluation_page"},
    "pillow_heif": {"frames.images"},
}
# What runs in data workers, or serves people without a device.
WITHOUT_JAX = (
    *("data", "metrics", "reports", "pages"),
    *("errors", "settings", "report", "serve", "service"),
)
JAX = {"jax", "flax", "optax", "orbax"}


def modules(package: str, root: Path = ROOT) -> dict[str, Path]:
    """Name below the package -> file, for example "data.order"."""
    folder = root / package
    return {
        ".".join(path.relative_to(folder).with_suffix("").parts): path
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    }


EVERYTHING = modules("fakedetect_jax") | modules("tfds_ffpp")


def imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports, wherever in it."""
    return imports_of(path.read_text())


@functools.cache
def imports_of(source: str) -> tuple[str, ...]:
    return tuple(_imports(source))


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


def own_imports(name: str, package: str, root: Path = ROOT) -> set[str]:
    """The modules of the same package that one imports."""
    known = modules(package, root)
    below = {i.removeprefix(f"{package}.") for i in imports(known[name])}
    return (below & set(known)) - {name}


def faults(package: str, root: Path = ROOT) -> list[str]:
    """Every import of a package that does not point downwards."""
    level = {n: i for i, names in enumerate(LAYERS[package]) for n in names}
    found = []
    graph: dict[str, set[str]] = {}
    for name in modules(package, root):
        top = name.split(".")[0]
        if top not in level:
            found.append(f"{name} has no layer")
            continue
        for other in own_imports(name, package, root):
            if other.split(".")[0] == top:
                graph.setdefault(name, set()).add(other)
            elif level.get(other.split(".")[0], -1) <= level[top]:
                found.append(f"{name} imports {other}")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"a circle: {' -> '.join(error.args[1])}")
    return found


@pytest.mark.parametrize("package", LAYERS)
def test_imports_point_downwards(package):
    assert faults(package) == []


@pytest.mark.parametrize(
    ("package", "name", "line", "fault"),
    [
        (
            "fakedetect_jax",
            "data/order.py",
            "from fakedetect_jax import train",
            "train",
        ),
        (
            "fakedetect_jax",
            "run/process.py",
            "from fakedetect_jax.run import workdir",
            0,
        ),
        ("tfds_ffpp", "tree/scan.py", "import tfds_ffpp.frames.video", "frames.video"),
        ("tfds_ffpp", "tree/naming.py", "from tfds_ffpp.tree import scan", 0),
    ],
)
def test_an_import_upwards_or_in_a_circle_is_found(
    tmp_path, package, name, line, fault
):
    for path in modules(package).values():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    with (tmp_path / package / name).open("a") as file:
        file.write(f"\n{line}\n")
    (found,) = faults(package, tmp_path)
    assert (f" imports {fault}" if fault else "a circle") in found


def test_no_stage_of_scoring_knows_the_detector():
    stages = [n for n in modules("fakedetect_jax") if n.startswith("serving.")]
    users = [
        n for n in stages if "serving.detector" in own_imports(n, "fakedetect_jax")
    ]
    assert len(stages) > 5 and users == []


def test_the_builder_knows_neither_the_trainer_nor_jax():
    for path in modules("tfds_ffpp").values():
        assert not roots(path) & {"fakedetect_jax", *JAX}, path


@pytest.mark.parametrize("library", sorted(IMPORTERS))
def test_each_fast_moving_library_has_few_importers(library):
    users = {n for n, path in EVERYTHING.items() if library in roots(path)}
    assert users <= IMPORTERS[library]


@pytest.mark.parametrize("top", WITHOUT_JAX)
def test_works_without_jax(top):
    for name, path in modules("fakedetect_jax").items():
        if name.split(".")[0] == top:
            assert not roots(path) & JAX, name


def test_nothing_imports_tensorflow_torch_or_pickle():
    for path in EVERYTHING.values():
        assert not roots(path) & {"tensorflow", "torch", "pickle", "joblib"}, path


@pytest.mark.parametrize("module", ["train", "evaluation.evaluate", "predict"])
def test_heavy_libraries_of_pages_wait_until_a_page_is_written(module):
    code = (
        f"import sys, fakedetect_jax.{module}\n"
        "print(*{'matplotlib', 'sklearn', 'jinja2'} & set(sys.modules))"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == []
