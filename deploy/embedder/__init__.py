"""The embedder that ships with Tandem: all-MiniLM-L6-v2 as an int8 graph, and how it is made again.

Serving needs the files beside this one and none of its code: `graph`, `quantize` and `export` turn
the original weights into them, with onnx and onnxruntime and without PyTorch.
"""
