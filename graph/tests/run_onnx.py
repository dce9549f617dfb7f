"""Runs ONNX models with onnxruntime: reads one JSON request, writes one JSON answer."""

import json
import sys

import numpy
import onnxruntime

request = json.load(sys.stdin)
outputs = []
for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        request["model"], options, providers=["CPUExecutionProvider"]
    )
    for feeds in request["runs"]:
        arrays = {
            name: numpy.array(feed["data"], dtype=feed["dtype"]).reshape(feed["shape"])
            for name, feed in feeds.items()
        }
        result = session.run(None, arrays)
        outputs.append([{"shape": y.shape, "data": y.ravel().tolist()} for y in result])
json.dump(outputs, sys.stdout)
