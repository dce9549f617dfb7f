"""The runtimes that the bench `encoder` times in turn with ours: OpenVINO and onnxruntime.

usage: python peers.py FOLDER THREADS
packages: openvino, nncf, onnxruntime, onnx, sympy

FOLDER holds MODEL.onnx in f32 and MODEL.qdq.onnx, which we quantized; what the peers make of them
is written beside them, once. The first line of the output says what is here:
{"versions": TEXT, "peers": {NAME: PRECISION}, "missing": {NAME: REASON}}. After that each line of
the input, `run MODEL PEER BATCH SEQUENCE SECONDS`, is answered by one line:
{"seconds": [one a run], "logits": [...]}, or {"error": TEXT}. A turn lasts SECONDS, and at least
LEAST_RUNS runs, after one that does not count.
"""

import json
import os
import sys
import time
from pathlib import Path

# Progress bars of the libraries belong to the other stream: this one carries answers.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import numpy as np
import nncf
import onnx
import onnxruntime as ort
import openvino as ov
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

FOLDER, THREADS = Path(sys.argv[1]), int(sys.argv[2])
VOCABULARY, FIRST_TOKEN = 30_522, 1000
LEAST_RUNS = 3
CALIBRATION_ROWS, CALIBRATION_LENGTHS = 128, (16, 32, 64, 128)

core = ov.Core()
HAS_BF16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def feeds(batch, sequence):
    """The tokens that `encoder` gives to ours, without padding."""
    index = np.arange(batch * sequence, dtype=np.int64).reshape(batch, sequence)
    ids = FIRST_TOKEN + index * 7919 % (VOCABULARY - FIRST_TOKEN)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def calibration():
    random = np.random.default_rng(7)
    for row in range(CALIBRATION_ROWS):
        length = CALIBRATION_LENGTHS[row % len(CALIBRATION_LENGTHS)]
        ids = random.integers(FIRST_TOKEN, VOCABULARY, (1, length), dtype=np.int64)
        yield {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def openvino_int8(model):
    """Post-training quantization by NNCF, as its documentation does it for transformers."""
    path = FOLDER / f"{model}.openvino-int8.xml"
    if not path.exists():
        rows = nncf.Dataset(list(calibration()))
        quantized = nncf.quantize(
            core.read_model(FOLDER / f"{model}.onnx"),
            rows,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=CALIBRATION_ROWS,
        )
        ov.save_model(quantized, path, compress_to_fp16=False)
    return path


def in_classic_form(model):
    """Our graph as fusers look for it: the mask widened before it is made a bias, the attention's
    scores divided rather than multiplied."""
    graph = model.graph
    producers = {node.output[0]: node for node in graph.node}
    bias = producers["attention_mask.bias"]
    for node in graph.node:
        node.input[:] = [bias.input[0] if name == bias.output[0] else name for name in node.input]
    graph.node.remove(bias)
    steps = [("attention_mask", "mask.3d"), ("mask.3d", "mask.4d")]
    for position, (source, target) in enumerate(steps):
        axes = onnx.numpy_helper.from_array(np.array([position + 1]), f"{target}.axes")
        graph.initializer.append(axes)
        widen = onnx.helper.make_node("Unsqueeze", [source, axes.name], [target], target)
        graph.node.insert(position, widen)
    producers["attention_mask.float"].input[0] = "mask.4d"
    for node in graph.node:
        if node.output[0].endswith(".self.scaled"):
            node.op_type = "Div"
    for scale in graph.initializer:
        if scale.name.endswith(".self.scale"):
            inverse = 1 / onnx.numpy_helper.to_array(scale)
            scale.CopyFrom(onnx.numpy_helper.from_array(inverse, scale.name))
    return model


def onnxruntime_fused(model):
    """The graph after onnxruntime's own fusions for BERT."""
    path = FOLDER / f"{model}.onnxruntime-fused.onnx"
    if not path.exists():
        source = onnx.load(FOLDER / f"{model}.onnx")
        # 0 heads and width: found from the graph.
        fused = optimizer.optimize_model(
            in_classic_form(source),
            "bert",
            num_heads=0,
            hidden_size=0,
            optimization_options=FusionOptions("bert"),
            opt_level=0,
        )
        counts = {name: n for name, n in fused.get_fused_operator_statistics().items() if n}
        print(f"{model}: onnxruntime fused {counts}", file=sys.stderr)
        fused.save_model_to_file(str(path))
    return path


def onnxruntime_int8(model):
    path = FOLDER / f"{model}.onnxruntime-int8.onnx"
    if not path.exists():
        quantize_dynamic(
            onnxruntime_fused(model),
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Attention", "Gemm", "Gather"],
            extra_options={"DefaultTensorType": 1, "MatMulConstBOnly": True},
        )
    return path


def openvino(path, precision):
    def prepare(batch, sequence):
        model = core.read_model(path)
        model.reshape({i.get_any_name(): [batch, sequence] for i in model.inputs})
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": THREADS,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
        }
        request = core.compile_model(model, "CPU", options).create_infer_request()
        for name, tensor in feeds(batch, sequence).items():
            request.set_tensor(name, ov.Tensor(tensor))
        return request.infer, lambda: request.get_output_tensor(0).data.astype(float)

    return prepare


def onnxruntime(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def prepare(batch, sequence):
        tensors = feeds(batch, sequence)

        def run():
            return session.run(None, tensors)

        return run, lambda: run()[0].astype(float)

    return prepare


# What OpenVINO computes the rest of a quantized model in.
REST = "bf16" if HAS_BF16 else "f32"
PEERS = {
    "openvino-f32": ("f32", lambda model: openvino(FOLDER / f"{model}.onnx", "f32")),
    "onnxruntime-f32": ("f32", lambda model: onnxruntime(FOLDER / f"{model}.onnx")),
    "onnxruntime-fused-f32": ("f32", lambda model: onnxruntime(onnxruntime_fused(model))),
    "openvino-int8": ("int8", lambda model: openvino(openvino_int8(model), REST)),
    "openvino-qdq-int8": ("int8", lambda model: openvino(FOLDER / f"{model}.qdq.onnx", REST)),
    "onnxruntime-int8": ("int8", lambda model: onnxruntime(onnxruntime_int8(model))),
    "onnxruntime-qdq-int8": ("int8", lambda model: onnxruntime(FOLDER / f"{model}.qdq.onnx")),
    "openvino-bf16": ("bf16", lambda model: openvino(FOLDER / f"{model}.onnx", "bf16")),
}
MISSING = {} if HAS_BF16 else {"openvino-bf16": "OpenVINO has no bf16 on this CPU"}


class Loaded:
    """The models of the last cell: what other cells need is dropped, to keep memory small."""

    def __init__(self):
        self.model, self.setups, self.cell, self.runs = None, {}, None, {}

    def get(self, model, peer, cell):
        if model != self.model:
            self.model, self.setups, self.cell = model, {}, None
        if cell != self.cell:
            self.cell, self.runs = cell, {}
        if peer not in self.setups:
            self.setups[peer] = PEERS[peer][1](model)
        if peer not in self.runs:
            self.runs[peer] = self.setups[peer](*cell)
        return self.runs[peer]


def turn(run, logits, seconds):
    run()
    times, start = [], time.perf_counter()
    while len(times) < LEAST_RUNS or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return {"seconds": times, "logits": logits().ravel().tolist()}


def answer(content):
    print(json.dumps(content), file=ANSWERS)


def main():
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (ov, nncf, ort))
    peers = {name: precision for name, (precision, _) in PEERS.items() if name not in MISSING}
    answer({"versions": versions, "peers": peers, "missing": MISSING})
    loaded = Loaded()
    for line in sys.stdin:
        _, model, peer, batch, sequence, seconds = line.split()
        try:
            run, logits = loaded.get(model, peer, (int(batch), int(sequence)))
            answer(turn(run, logits, float(seconds)))
        except Exception as error:  # the bench reports it in this cell and goes on
            answer({"error": f"{type(error).__name__}: {error}"})


main()
