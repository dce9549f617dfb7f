"""Image models for the bench `images`, and the runtimes that it times in turn with ours.

usage: python peers.py write FOLDER
       python peers.py run FILE PEER THREADS SECONDS
packages: onnx, onnxruntime, openvino

`write` puts the networks that the package `onnx` has for its tests into FOLDER, and MobileNetV2, with
random weights, one image a run. `run` answers with {"seconds": [one a run], "output": [...]} for the
input that `bench` makes up; a turn lasts SECONDS, and at least LEAST_RUNS runs, after one that does
not count.
"""

import json
import os
import sys
import time
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


def mobilenet(random):
    import onnx
    from onnx import TensorProto, helper

    nodes, initializers = [], []

    def weight(name, values):
        initializers.append(onnx.numpy_helper.from_array(np.asarray(values, "f"), name))
        return name

    def conv(x, inputs, outputs, kernel, stride=1, groups=1, clip=True):
        name = f"conv{len(nodes)}"
        fan = inputs // groups * kernel**2
        shape = (outputs, inputs // groups, kernel, kernel)
        values = random.standard_normal(shape) * (2 / fan) ** 0.5
        tensors = [x, weight(f"{name}.weight", values), weight(f"{name}.bias", np.zeros(outputs))]
        pads = [kernel // 2] * 4
        options = {"strides": [stride] * 2, "group": groups, "pads": pads}
        nodes.append(helper.make_node("Conv", tensors, [name], name, **options))
        if not clip:
            return name
        nodes.append(helper.make_node("Clip", [name, "low", "high"], [f"{name}.clip"]))
        return f"{name}.clip"

    weight("low", 0.0)
    weight("high", 6.0)
    x, channels = conv("x", 3, 32, 3, 2), 32
    for expansion, outputs, blocks, stride in MOBILENET:
        for block in range(blocks):
            step = stride if block == 0 else 1
            inner = channels * expansion
            y = conv(x, channels, inner, 1) if expansion > 1 else x
            y = conv(y, inner, inner, 3, step, inner)
            y = conv(y, inner, outputs, 1, clip=False)
            if step == 1 and channels == outputs:
                nodes.append(helper.make_node("Add", [x, y], [f"sum{len(nodes)}"]))
                y = nodes[-1].output[0]
            x, channels = y, outputs
    x = conv(x, channels, 1280, 1)
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"]))
    head = random.standard_normal((1280, 1000)) * 1280**-0.5
    nodes.append(helper.make_node("MatMul", ["flat", weight("head", head)], ["logits"]))
    value = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        nodes, "mobilenet", [value("x", [1, 3, 224, 224])], [value("logits", [1, 1000])], initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(folder):
    import onnx

    tests = Path(onnx.__file__).parent / "backend/test/data/light"
    random = np.random.default_rng(1)
    for name in NAMES:
        onnx.save(filled(onnx.load(tests / f"light_{name}.onnx"), random), folder / f"{name}.onnx")
    onnx.save(mobilenet(random), folder / "mobilenet_v2.onnx")


def image(shape):
    """What `bench` gives to ours."""
    index = np.arange(np.prod(shape))
    return ((index * 7919 % 1009) / np.float32(1009) - np.float32(0.5)).astype("f").reshape(shape)


def openvino(file, threads):
    import openvino as ov

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
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
    run, output = {"openvino": openvino, "onnxruntime": onnxruntime}[peer](file, threads)
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
