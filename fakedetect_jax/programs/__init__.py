"""The network as compiled programs: of JAX, of StableHLO, of ONNX and its runtimes."""
