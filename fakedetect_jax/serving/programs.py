"""A trained model as a program of other runtimes: StableHLO, ONNX."""

from pathlib import Path

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo(model) -> bytes:
    """A program frames uint8[b,T,S,S,3], length int32[b] -> logits float32[b].

    b is free; the weights are in it; jax.export.deserialize reads it on a CPU, a GPU or
    a TPU, without this project.
    """
    import jax
    import numpy as np
    from jax import export

    from fakedetect_jax import settings
    from fakedetect_jax.model import steps
    from fakedetect_jax.model.network import make_model

    network = make_model(model.config)

    def score(frames, length):
        batch = {"frames": frames, "length": length}
        return steps.eval_step(network, model.variables, batch)

    (clips,) = export.symbolic_shape("clips")
    shape = settings.clip_shape(model.config)
    program = export.export(jax.jit(score), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((clips, *shape), np.uint8),
        jax.ShapeDtypeStruct((clips,), np.int32),
    )
    return bytes(program.serialize())


def write_onnx(model, path: Path) -> None:
    """The same as an ONNX graph in float32. Raises ConfigError without onnx."""
    from fakedetect_jax import settings
    from fakedetect_jax.model.network import make_model
    from fakedetect_jax.serving import onnx_graph

    network = make_model(model.config)
    shape = settings.clip_shape(model.config)
    onnx_graph.write(path, network, model.variables, shape)
