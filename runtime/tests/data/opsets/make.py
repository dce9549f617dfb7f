"""Writes operators in the forms of older operator sets, with what onnxruntime answers.

    pip install onnx onnxruntime
    python make.py

Each folder `<operator>-<opset>-<what>` holds `model.onnx`, `input_0.pb` and `output_0.pb`.
"""

import pathlib

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).parent
RANDOM = numpy.random.default_rng(7)
X = RANDOM.normal(size=(2, 3, 4, 5)).astype(numpy.float32)


def floats(name, values):
    return numpy_helper.from_array(numpy.array(values, numpy.float32), name)


def integers(name, values):
    return numpy_helper.from_array(numpy.array(values, numpy.int64), name)


def case(name, opset, node, constants):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], name, [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"x": X})
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "input_0.pb").write_bytes(numpy_helper.from_array(X, "x").SerializeToString())
    (folder / "output_0.pb").write_bytes(numpy_helper.from_array(found, "y").SerializeToString())


def node(kind, inputs, **attributes):
    return helper.make_node(kind, inputs, ["y"], name="node", **attributes)


SCALES = [1.0, 1.0, 2.0, 3.0]
for mode in ["nearest", "linear"]:
    case(f"upsample-7-{mode}", 7, node("Upsample", ["x"], mode=mode, scales=SCALES), [])
    case(f"upsample-9-{mode}", 9, node("Upsample", ["x", "s"], mode=mode), [floats("s", SCALES)])
    down = [1.0, 1.0, 0.5, 1.5]
    case(f"resize-10-{mode}", 10, node("Resize", ["x", "s"], mode=mode), [floats("s", down)])
    for opset in [11, 13]:
        for coordinates in ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]:
            attributes = dict(mode=mode, coordinate_transformation_mode=coordinates)
            if mode == "nearest":
                attributes["nearest_mode"] = "floor"
            inputs, empty = ["x", "roi", "s"], floats("roi", [])
            case(
                f"resize-{opset}-{mode}-{coordinates.replace('_', '-')}", opset,
                node("Resize", inputs, **attributes), [empty, floats("s", SCALES)],
            )
        sizes = integers("sizes", [2, 3, 7, 3])
        case(
            f"resize-{opset}-{mode}-sizes", opset,
            node("Resize", ["x", "roi", "s", "sizes"], mode=mode),
            [floats("roi", []), floats("s", []), sizes],
        )

CHANNELS = [floats(name, RANDOM.uniform(0.5, 1.5, 3)) for name in ["scale", "b", "mean", "var"]]
for opset in [7, 9, 13]:
    inputs = ["x", "scale", "b", "mean", "var"]
    attributes = dict(epsilon=1e-3, momentum=0.8)
    case(f"batch-norm-{opset}", opset, node("BatchNormalization", inputs, **attributes), CHANNELS)
