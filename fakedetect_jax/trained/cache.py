"""What a model was made into before, kept for the next start: shapes, programs, graphs.

All of it can be made again. A file's name follows from all that its content follows
from, and its content is held against a digest: what is old or damaged is made anew. A
folder that cannot be written costs only time.
"""

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import fakedetect_jax
from fakedetect_jax.run.leaves import Nested, to_leaves
from tfds_ffpp.files import whole

# Whose versions change what a model is made into, beside the code that is read here.
_PACKAGES = ("flax", "jax", "jaxlib")
_CODE = ("model", "programs")
_MOST_GRAPHS = 4  # ONNX, each as large as its model; what else is kept is small
_DIGEST_BYTES = hashlib.sha256().digest_size


def name_of(*facts: Any) -> str:
    """A name for what follows from these facts, this code and these versions."""
    body = json.dumps([_made_with(), *facts], sort_keys=True, default=list)
    return hashlib.sha256(body.encode()).hexdigest()[:32]


@functools.cache
def _made_with() -> list[str]:
    root = Path(fakedetect_jax.__file__).parent
    code = hashlib.sha256()
    for place in _CODE:
        for path in sorted((root / place).rglob("*.py")):
            code.update(path.read_bytes())
    settings = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k[:4] == "JAX_"]
    return [code.hexdigest(), *map(metadata.version, _PACKAGES), *settings]


def kept(folder: Path | None, name: str, make: Callable[[], bytes]) -> bytes:
    """The content of a name: as it was kept in the folder, else made and kept."""
    content = _read(folder / name) if folder else None
    if content is None:
        content = make()
        if folder:
            _write(folder / name, content)
    return content


def _read(path: Path) -> bytes | None:
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    digest, content = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == digest else None


def _write(path: Path, content: bytes) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            partial.write_bytes(hashlib.sha256(content).digest() + content)
        graphs = sorted(path.parent.glob("*.onnx"), key=lambda p: p.stat().st_mtime)
        for old in graphs[:-_MOST_GRAPHS]:
            old.unlink(missing_ok=True)


def abstract_variables(config: Any, folder: Path | None = None) -> Nested:
    """Shapes and types of the variables of a config's model, as arrays without memory.

    They are traced once, which takes a second, and then kept in the folder.
    """
    name = name_of("shapes", config.model.to_dict(), config.dataset.image_size)
    found = kept(folder, f"{name}.json", functools.partial(_traced, config))
    empty: Nested = {"batch_stats": {}}
    for path, (shape, dtype) in json.loads(found).items():
        *above, last = path.split(".")
        group = functools.reduce(lambda g, part: g.setdefault(part, {}), above, empty)
        group[last] = np.broadcast_to(np.zeros((), dtype), shape)
    return empty


def _traced(config: Any) -> bytes:
    import jax

    from fakedetect_jax import settings
    from fakedetect_jax.model import network

    initialise = functools.partial(network.make_model(config).init, train=False)
    frames = jax.ShapeDtypeStruct((1, *settings.clip_shape(config)), np.float32)
    length = jax.ShapeDtypeStruct((1,), np.int32)
    variables = jax.eval_shape(initialise, jax.random.key(0), frames, length)
    leaves = to_leaves(variables)
    return json.dumps({k: (v.shape, v.dtype.name) for k, v in leaves.items()}).encode()
