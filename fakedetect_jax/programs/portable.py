"""A trained model as a program: of this process, or of others as StableHLO or ONNX."""

from pathlib import Path
from typing import Any

from fakedetect_jax import settings
from fakedetect_jax.trained import cache
from fakedetect_jax.trained.model import TrainedModel

PLATFORMS = ("cpu", "cuda", "tpu")


def eval_step(model: TrainedModel, mesh: Any, folder: Path | None, rows: int) -> Any:
    """The jitted (variables, so many clips) -> logits and features over the mesh.

    Where it has a place in the folder it is kept there as StableHLO: what Flax and the
    tracing of the network take is spared at the next start. Both compile to the same.
    """
    import jax
    from jax import export

    def traced() -> Any:
        from fakedetect_jax.model.network import make_model
        from fakedetect_jax.programs import compiled

        return compiled.compile_clip_outputs(make_model(model.config), mesh)

    def exported() -> bytes:
        clips = abstract_clips(model, rows)
        return bytes(export.export(traced())(model.variables, clips).serialize())

    path = place(model, mesh, folder, rows)
    if path is None:
        return traced()
    kept = cache.kept(path.parent, path.name, exported)
    return jax.jit(export.deserialize(bytearray(kept)).call)


def place(
    model: TrainedModel, mesh: Any, folder: Path | None, rows: int
) -> Path | None:
    """Where the program of so many clips is kept; only those of one CPU are."""
    import jax

    if not folder or mesh.devices.size > 1 or mesh.devices.flat[0].platform != "cpu":
        return None
    clips = (rows, *settings.clip_shape(model.config))
    facts = (model.config.model.to_dict(), clips, jax.device_count())
    return folder / f"{cache.name_of('eval_step', *facts)}.stablehlo"


def abstract_clips(model: TrainedModel, rows: int, sharding: Any = None) -> Any:
    """Shapes and types of what eval_step takes, frames and lengths."""
    import jax

    shape = (rows, *settings.clip_shape(model.config))
    return (
        jax.ShapeDtypeStruct(shape, "uint8", sharding=sharding),
        jax.ShapeDtypeStruct(shape[:1], "int32", sharding=sharding),
    )


def stablehlo(model: TrainedModel) -> bytes:
    """A program frames uint8[b,T,S,S,3], length int32[b] -> float32[b], float32[b,D].

    The logits, and the features that a guard looks at. b is free; the weights are in
    it; jax.export.deserialize reads it on a CPU, a GPU or a TPU, without this project.
    """
    import jax
    import numpy as np
    from jax import export

    from fakedetect_jax.model import steps
    from fakedetect_jax.model.network import make_model

    network = make_model(model.config)

    def score(frames, length):
        return steps.clip_outputs(network, model.variables, (frames, length))

    (clips,) = export.symbolic_shape("clips")
    shape = settings.clip_shape(model.config)
    program = export.export(jax.jit(score), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((clips, *shape), np.uint8),
        jax.ShapeDtypeStruct((clips,), np.int32),
    )
    return bytes(program.serialize())


def write_onnx(model: TrainedModel, path: Path) -> None:
    """The same as an ONNX graph in float32. Raises ConfigError without onnx."""
    from fakedetect_jax.model.network import make_model
    from fakedetect_jax.programs.onnx.graph import serialised

    network = make_model(model.config)
    shape = settings.clip_shape(model.config)
    path.write_bytes(serialised(network, model.variables, shape))
