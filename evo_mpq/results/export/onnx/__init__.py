"""ONNX files: the compressed network as standard operators that an integer runtime runs with integer kernels."""
