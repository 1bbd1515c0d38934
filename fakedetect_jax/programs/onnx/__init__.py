"""A trained model as an ONNX graph, written node by node."""
