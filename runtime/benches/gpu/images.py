"""Image networks of torchvision for the bench `gpu`, and PyTorch's times for them.

usage: python images.py DEVICE FOLDER RUNS MODEL BATCH...
packages: torch, torchvision, onnx

Writes the network with random weights to FOLDER/MODEL.onnx and prints {"WAY BATCH": median
milliseconds}, from images in memory to logits in memory, for the ways f32 (products in full f32, not
TF32) and bf16: eager, channels last, recorded as a CUDA graph on a GPU.
"""

import json
import sys
import time
from pathlib import Path

import torch
import torchvision

DEVICE, FOLDER, RUNS, MODEL = torch.device(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
BATCHES = [int(batch) for batch in sys.argv[5:]]
IMAGE, WARM_UP = (3, 224, 224), 3

torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False


def network():
    torch.manual_seed(1)
    model = getattr(torchvision.models, MODEL)(weights=None).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def write(model):
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}}
    torch.onnx.export(model, torch.randn(2, *IMAGE), FOLDER / f"{MODEL}.onnx", dynamo=False, **names)


def recorded(model, x):
    """The model as one CUDA graph that reads its input from a fixed place."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = model(x)

    def run():
        graph.replay()
        return answer

    return run


def median_ms(model, batch, dtype):
    images = torch.randn(batch, *IMAGE)
    x = images.to(DEVICE, dtype).to(memory_format=torch.channels_last)
    run = recorded(model, x) if DEVICE.type == "cuda" else lambda: model(x)
    times = []
    for index in range(WARM_UP + RUNS):
        start = time.perf_counter()
        x.copy_(images)
        run().float().cpu()
        if index >= WARM_UP:
            times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[len(times) // 2]


def main():
    model = network()
    write(model)
    answers = {}
    with torch.inference_mode():
        for way, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            typed = model.to(DEVICE, dtype).to(memory_format=torch.channels_last)
            for batch in BATCHES:
                answers[f"{way} {batch}"] = median_ms(typed, batch, dtype)
    print(json.dumps(answers))


main()
