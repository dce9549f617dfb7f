"""One training step and one inference of a BERT-shaped encoder in PyTorch, as `train.rs` times ours.

usage: python pytorch.py HIDDEN LAYERS HEADS INTERMEDIATE STEPS
prints the median seconds of a training step and of an inference, after two steps to warm up
"""

import statistics
import sys
import time

import torch
from torch import nn

BATCH, SEQUENCE, VOCABULARY, WARM_UP = 32, 64, 30_522, 2


class Encoder(nn.Module):
    def __init__(self, hidden, layers, heads, intermediate):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, hidden)
        self.positions = nn.Embedding(512, hidden)
        self.norm = nn.LayerNorm(hidden)
        layer = nn.TransformerEncoderLayer(
            hidden, heads, intermediate, dropout=0.1, activation="gelu", batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.classifier = nn.Linear(hidden, 2)

    def forward(self, ids):
        hidden = self.words(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.classifier(self.layers(self.norm(hidden)).mean(1))


def main():
    hidden, layers, heads, intermediate, steps = map(int, sys.argv[1:])
    torch.manual_seed(42)
    model = Encoder(hidden, layers, heads, intermediate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.01)
    ids = torch.randint(0, VOCABULARY, (steps + WARM_UP, BATCH, SEQUENCE))
    training = []
    for batch in ids:
        start = time.perf_counter()
        loss = nn.functional.cross_entropy(model(batch), (batch[:, 0] > 15_000).long())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        training.append(time.perf_counter() - start)
    model.eval()
    inference = []
    with torch.inference_mode():
        for batch in ids:
            start = time.perf_counter()
            model(batch)
            inference.append(time.perf_counter() - start)
    print(*(statistics.median(times[WARM_UP:]) for times in (training, inference)))


main()
