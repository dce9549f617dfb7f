"""Image models for the bench `images`, and the runtimes that it times in turn with ours.

usage: python peers.py write FOLDER
       python peers.py run FILE PEER THREADS SECONDS
packages: onnx, onnxruntime, openvino

`write` puts the networks that the package `onnx` has for its tests into FOLDER, and MobileNetV2, with
random weights, one image a run; MobileNetV2 and ResNet-50 in int8 too. `run` answers with {"seconds": [one a run], "output": [...]} for the
input that `bench` makes up; a turn lasts SECONDS, and at least LEAST_RUNS runs, after one that does
not count.
"""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

LEAST_RUNS = 3
NAMES = ["squeezenet", "shufflenet", "resnet50", "inception_v2", "densenet121", "vgg19"]
# Expansion, channels, blocks and stride of MobileNetV2 (Sandler et al. 2018, table 2).
MOBILENET = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]


def filled(model, random):
    """The model with numbers where it makes tensors of one number out of shapes."""
    import onnx

    graph = model.graph
    shapes = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    roles = {}
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            roles |= {node.input[1]: "scale", node.input[4]: "variance"}
    nodes = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape, name = shapes[node.input[0]], node.output[0]
        if name in roles:
            values = random.uniform(0.8, 1.2, shape)
        else:
            values = random.standard_normal(shape) * (2 / max(1, np.prod(shape[1:]))) ** 0.5
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype("f"), name))
    used = {name for node in nodes for name in node.input}
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    known = {tensor.name for tensor in initializers}
    inputs = [value for value in graph.input if value.name in used - known]
    for field, items in (("node", nodes), ("initializer", initializers), ("input", inputs)):
        del getattr(graph, field)[:]
        getattr(graph, field).extend(items)
    return model


class Network:
    """A network of images of 224², built convolution by convolution."""

    def __init__(self, random):
        self.random, self.nodes, self.initializers = random, [], []

    def weight(self, name, values):
        import onnx

        self.initializers.append(onnx.numpy_helper.from_array(np.asarray(values, "f"), name))
        return name

    def node(self, kind, inputs, **options):
        from onnx import helper

        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **options))
        return name

    def conv(self, x, inputs, outputs, kernel, stride=1, groups=1):
        fan, name = inputs // groups * kernel**2, f"filters{len(self.nodes)}"
        shape = (outputs, inputs // groups, kernel, kernel)
        values = self.random.standard_normal(shape) * (2 / fan) ** 0.5
        tensors = [x, self.weight(name, values), self.weight(f"{name}.bias", np.zeros(outputs))]
        options = {"strides": [stride] * 2, "group": groups, "pads": [kernel // 2] * 4}
        return self.node("Conv", tensors, **options)

    def finish(self, x, channels):
        from onnx import TensorProto, helper

        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        head = self.random.standard_normal((channels, 1000)) * channels**-0.5
        logits = self.node("MatMul", [x, self.weight("head", head)])
        value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        values = [value("x", [1, 3, 224, 224])], [value(logits, [1, 1000])]
        graph = helper.make_graph(self.nodes, "network", *values, self.initializers)
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def mobilenet(random):
    network = Network(random)
    low, high = network.weight("low", 0.0), network.weight("high", 6.0)

    def conv(*sizes):
        return network.node("Clip", [network.conv(*sizes), low, high])

    x, channels = conv("x", 3, 32, 3, 2), 32
    for expansion, outputs, blocks, stride in MOBILENET:
        for block in range(blocks):
            step = stride if block == 0 else 1
            inner = channels * expansion
            y = conv(x, channels, inner, 1) if expansion > 1 else x
            y = conv(y, inner, inner, 3, step, inner)
            y = network.conv(y, inner, outputs, 1)
            x = network.node("Add", [x, y]) if step == 1 and channels == outputs else y
            channels = outputs
    return network.finish(conv(x, channels, 1280, 1), 1280)


def resnet(random):
    """ResNet-50 (He et al. 2015, table 1), strides in the 3 × 3 filters, norms folded."""
    network = Network(random)

    def conv(*sizes):
        return network.node("Relu", [network.conv(*sizes)])

    x, channels = conv("x", 3, 64, 7, 2), 64
    x = network.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for inner, blocks, stride in [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]:
        for block in range(blocks):
            step = stride if block == 0 else 1
            y = conv(x, channels, inner, 1)
            y = conv(y, inner, inner, 3, step)
            y = network.conv(y, inner, 4 * inner, 1)
            if block == 0:
                x = network.conv(x, channels, 4 * inner, 1, step)
            x, channels = network.node("Relu", [network.node("Add", [x, y])]), 4 * inner
    return network.finish(x, channels)


def quantize(file, random):
    """Writes FILE quantized by onnxruntime, with unsigned activations, which it multiplies fastest."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static

    class Images(CalibrationDataReader):
        left = 3

        def get_next(self):
            self.left -= 1
            images = random.random((1, 3, 224, 224), dtype=np.float32) - np.float32(0.5)
            return {"x": images} if self.left >= 0 else None

    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    output = file.with_stem(f"{file.stem}_int8")
    quantize_static(file, output, Images(), QuantFormat.QDQ, per_channel=True, **types)


def write(folder):
    import onnx

    tests = Path(onnx.__file__).parent / "backend/test/data/light"
    random = np.random.default_rng(1)
    for name in NAMES:
        onnx.save(filled(onnx.load(tests / f"light_{name}.onnx"), random), folder / f"{name}.onnx")
    onnx.save(mobilenet(random), folder / "mobilenet_v2.onnx")
    quantize(folder / "mobilenet_v2.onnx", random)
    folded = folder / "resnet50_folded.onnx"
    onnx.save(resnet(random), folded)
    quantize(folded, random)
    folded.unlink()


def image(shape):
    """What `bench` gives to ours."""
    index = np.arange(np.prod(shape))
    return ((index * 7919 % 1009) / np.float32(1009) - np.float32(0.5)).astype("f").reshape(shape)


def openvino(file, threads, precision="f32"):
    import openvino as ov

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": precision,
    }
    model = ov.Core().compile_model(file, "CPU", options)
    request = model.create_infer_request()
    for value in model.inputs:
        request.set_tensor(value, ov.Tensor(image(tuple(value.shape))))
    return request.infer, lambda: request.get_output_tensor(0).data


def onnxruntime(file, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    tensors = {value.name: image(value.shape) for value in session.get_inputs()}
    run = lambda: session.run(None, tensors)
    return run, lambda: run()[0]


def turn(file, peer, threads, seconds):
    # What libraries print belongs to the other stream.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    peers = {
        "openvino": openvino,
        "openvino-bf16": partial(openvino, precision="bf16"),
        "onnxruntime": onnxruntime,
    }
    run, output = peers[peer](file, threads)
    run()
    times, start = [], time.perf_counter()
    while len(times) < LEAST_RUNS or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    print(json.dumps({"seconds": times, "output": output().ravel().tolist()}), file=answers)


match sys.argv[1:]:
    case ["write", folder]:
        write(Path(folder))
    case ["run", file, peer, threads, seconds]:
        turn(file, peer, int(threads), float(seconds))
    case _:
        sys.exit(__doc__)
