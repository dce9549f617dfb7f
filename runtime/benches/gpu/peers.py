"""PyTorch's times for the encoders of the bench `gpu`.

usage: python peers.py DEVICE LAYERS HIDDEN INTERMEDIATE RUNS BATCHxSEQUENCE...
packages: torch

Prints {"WAY BATCHxSEQUENCE": median milliseconds}, from tokens in memory to logits in memory, for
the ways f32 (products in full f32, not TF32) and bf16: the fastest of eager, eager recorded as a
CUDA graph and, unless GPU_COMPILED=0, torch.compile. Weights are random: times do not depend on
them.
"""

import json
import os
import sys
import time

import torch
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention

DEVICE = torch.device(sys.argv[1])
LAYERS, HIDDEN, INTERMEDIATE, RUNS = map(int, sys.argv[2:6])
CELLS = [tuple(map(int, cell.split("x"))) for cell in sys.argv[6:]]
VOCABULARY, HEADS, LABELS, WARM_UP = 30_522, 12, 2, 5

torch.set_float32_matmul_precision("highest")


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, INTERMEDIATE), nn.Linear(INTERMEDIATE, HIDDEN)
        self.norm1, self.norm2 = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)

    def forward(self, x, mask):
        batch, sequence, _ = x.shape
        parts = self.qkv(x).view(batch, sequence, 3, HEADS, HIDDEN // HEADS)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.out(y.transpose(1, 2).reshape(batch, sequence, HIDDEN)))
        return self.norm2(x + self.down(gelu(self.up(x))))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(512, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.pooler, self.classifier = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, LABELS)

    def forward(self, ids, mask):
        x = self.norm(self.words(ids) + self.places.weight[: ids.shape[1]])
        bias = ((1 - mask) * -10_000).to(x.dtype)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


def median_ms(model, ids, mask):
    times = []
    for run in range(WARM_UP + RUNS):
        start = time.perf_counter()
        model(ids, mask).float().cpu()
        if run >= WARM_UP:
            times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)[len(times) // 2]


def eager(model):
    return lambda ids, mask: model(ids.to(DEVICE), mask.to(DEVICE))


def recorded(model, ids, mask):
    """The model as one CUDA graph that reads its inputs from fixed places."""
    ids, mask = ids.to(DEVICE), mask.to(DEVICE)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(ids, mask)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = model(ids, mask)

    def run(new_ids, new_mask):
        ids.copy_(new_ids)
        mask.copy_(new_mask)
        graph.replay()
        return answer

    return run


def main():
    answers = {}
    with torch.inference_mode():
        for way, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            model = Encoder().eval().to(DEVICE, dtype)
            ways = [lambda _: eager(model), lambda inputs: recorded(model, *inputs)]
            if os.environ.get("GPU_COMPILED", "1") != "0":
                compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
                ways.append(lambda _: eager(compiled))
            for batch, sequence in CELLS:
                ids = torch.randint(1000, VOCABULARY, (batch, sequence))
                mask = torch.ones(batch, sequence, dtype=torch.int64)
                times = []
                for make in ways:
                    try:
                        times.append(median_ms(make((ids, mask)), ids, mask))
                    except Exception as error:  # no compiler on this machine, no CUDA graphs
                        print(f"{way} {batch}x{sequence}: {error}", file=sys.stderr)
                print(way, batch, sequence, times, file=sys.stderr)
                answers[f"{way} {batch}x{sequence}"] = min(times)
    print(json.dumps(answers))


main()
