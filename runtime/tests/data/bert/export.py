"""Writes the encoders beside this file, as PyTorch exports them, with what PyTorch answers.

    pip install torch transformers onnx onnxscript onnxruntime
    python export.py

Weights are random; nothing is downloaded. Each folder `<exporter>-<attention>` holds `model.onnx`,
and `input_<n>.pb` and `output_<n>.pb` in the layout of the ONNX project's test data. The answers are
PyTorch's; the script fails when onnxruntime's differ.
"""

import pathlib

import numpy
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from transformers import BertConfig, BertForSequenceClassification

HERE = pathlib.Path(__file__).parent
NAMES = ["input_ids", "attention_mask", "token_type_ids"]
AXES = {0: "batch", 1: "sequence"}


def model(attention):
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
        initializer_range=0.5,
        attn_implementation=attention,
    )
    return BertForSequenceClassification(config).eval()


def inputs():
    ids = torch.tensor([[2, 7, 39, 11, 5, 3], [2, 9, 14, 3, 0, 0]])
    mask = (ids != 0).long()
    kinds = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]])
    return (ids, mask, kinds)


def export(network, exporter, path):
    common = dict(input_names=NAMES, output_names=["logits"])
    if exporter == "torchscript":
        axes = {name: AXES for name in NAMES} | {"logits": {0: "batch"}}
        torch.onnx.export(
            network, inputs(), path, dynamo=False, opset_version=17, dynamic_axes=axes, **common
        )
        return
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=16)
    shapes = tuple({0: batch, 1: sequence} for _ in NAMES)
    torch.onnx.export(
        network, inputs(), path, dynamo=True, opset_version=18, dynamic_shapes=shapes,
        external_data=False, **common
    )


def main():
    for exporter in ["torchscript", "dynamo"]:
        for attention in ["eager", "sdpa"]:
            folder = HERE / f"{exporter}-{attention}"
            folder.mkdir(exist_ok=True)
            network = model(attention)
            path = folder / "model.onnx"
            with torch.no_grad():
                expected = network(*inputs()).logits.numpy()
                export(network, exporter, str(path))
            file = onnx.load(path)
            # Where the exporter was called from is of no use, and names folders.
            for node in file.graph.node:
                node.doc_string = ""
                del node.metadata_props[:]
            for value in list(file.graph.value_info) + list(file.graph.input) + list(file.graph.output):
                value.doc_string = ""
                del value.metadata_props[:]
            del file.metadata_props[:], file.graph.metadata_props[:]
            onnx.save(file, path)
            session = onnxruntime.InferenceSession(str(path))
            given = {name: tensor.numpy() for name, tensor in zip(NAMES, inputs())}
            known = {value.name for value in session.get_inputs()}
            (found,) = session.run(None, {name: given[name] for name in given if name in known})
            numpy.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            for index, name in enumerate(NAMES):
                tensor = numpy_helper.from_array(given[name], name)
                (folder / f"input_{index}.pb").write_bytes(tensor.SerializeToString())
            tensor = numpy_helper.from_array(expected, "logits")
            (folder / "output_0.pb").write_bytes(tensor.SerializeToString())
            print(folder.name, path.stat().st_size, "bytes")


main()
