"""Runs an ONNX file with ONNX Runtime alone: python predict.py FILE.onnx INPUTS.npy [OUTPUTS.npy]."""

import sys
from typing import Any

import numpy as np
import onnxruntime


def predict(file: str, inputs: Any) -> Any:
    """The output for an array, or for a mapping of arrays (an .npz file) by the names of the inputs."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    named = dict(inputs) if hasattr(inputs, "keys") else {session.get_inputs()[0].name: inputs}
    return session.run(None, named)[0]


if __name__ == "__main__":
    outputs = predict(sys.argv[1], np.load(sys.argv[2]))
    np.save(sys.argv[3] if len(sys.argv) > 3 else "outputs.npy", outputs)
    print(outputs.argmax(-1))
