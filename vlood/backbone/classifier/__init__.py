"""Closed-world classifiers beside the model: networks with local weights, ONNX, TorchScript."""
