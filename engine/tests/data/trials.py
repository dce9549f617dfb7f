"""Writes trials.tsv: real trials of a small distil-and-quantize chain, for samplers to be compared on.

    cargo build && python engine/tests/data/trials.py target/debug/pipeline FOLDER

FOLDER keeps the runs, so that the script can be stopped and started again. Parameters are drawn
independently of each other and of any result; every trial that ran is a row.
"""

import csv
import gzip
import json
import math
import pathlib
import random
import subprocess
import sys

N_TRIALS = 96
HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parents[2] / "data" / "finefoods.tsv.gz"

# Few rows and a tiny teacher: a trial takes seconds.
N_ROWS = {"train": 1200, "test": 200}
MANIFEST = """
schema = 1
name = "trials"
seed = 7
device = "cpu"

[data.reviews]
path = "reviews.tsv"
text = "text"
label = "label"
labels = ["other", "great"]
split = "split"
group = "product"
validation = 0.25

[stages.teacher]
kind = "train-teacher"
inputs = { data = "data.reviews" }
[stages.teacher.params]
epochs = 4
max-length = 32
vocabulary-size = 2_000
architecture = { layers = 2, hidden = 64, heads = 2, intermediate = 128 }
training = { learning-rate = 2e-3, classifier-learning-rate = 2e-3 }

[stages.student]
kind = "distill"
inputs = { data = "data.reviews", teacher = "teacher.model", logits = "teacher.logits" }
[stages.student.params]
epochs = 2
student = { architecture = { layers = 1, hidden = 32, heads = 2, intermediate = 64 } }
alpha = 0.5
temperature = { constant = { value = 2.0 } }
training = { learning-rate = 1e-3, batch-size = 32, dropout = 0.1 }

[stages.int8]
kind = "qat"
inputs = { data = "data.reviews", model = "student.model", logits = "teacher.logits" }
params = { epochs = 1, sensitivity = false, training = { learning-rate = 2e-5 } }
"""

PREFIX = "stages.student.params."
SPACE = {
    PREFIX + "alpha": lambda rng: rng.uniform(0.0, 1.0),
    PREFIX + "temperature.constant.value": lambda rng: log_uniform(rng, 0.5, 8.0),
    PREFIX + "training.learning-rate": lambda rng: log_uniform(rng, 1e-4, 1e-1),
    PREFIX + "training.batch-size": lambda rng: rng.choice([8, 16, 32, 64]),
    PREFIX + "training.dropout": lambda rng: rng.uniform(0.0, 0.5),
    "stages.int8.params.training.learning-rate": lambda rng: log_uniform(rng, 1e-6, 1e-2),
}
METRICS = ["validation/cross-entropy", "validation/accuracy"]


def log_uniform(rng, low, high):
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def prepare(folder):
    """Writes the manifest and its rows: the first ones of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.toml").write_text(MANIFEST)
    with gzip.open(DATA, "rt") as source, open(folder / "reviews.tsv", "w") as rows:
        rows.write(next(source))
        left = dict(N_ROWS)
        for line in source:
            split = line.rstrip("\n").split("\t")[2]
            if left.get(split, 0) > 0:
                left[split] -= 1
                rows.write(line)


def run(pipeline, folder, params):
    """The metrics of one trial; nothing where it failed."""
    sets = [part for key, value in params.items() for part in ("--set", f"{key}={value}")]
    command = [pipeline, "run", folder / "manifest.toml", "--home", folder / "home", "--json"]
    done = subprocess.run([*command, *sets], capture_output=True, text=True)
    found = {}
    for line in done.stdout.splitlines():
        event = json.loads(line)
        if event.get("stage") == "int8":
            for metric in event.get("metrics", [event.get("metric") or {}]):
                if metric.get("name") in METRICS:
                    found[metric["name"]] = metric["value"]
    if done.returncode != 0 or len(found) < len(METRICS):
        print(done.stdout[-500:], done.stderr[-500:], file=sys.stderr)
        return None
    return [found[name] for name in METRICS]


def main():
    pipeline, folder = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    prepare(folder)
    rng = random.Random(1)
    with open(HERE / "trials.tsv", "w") as table:
        rows = csv.writer(table, delimiter="\t", lineterminator="\n")
        rows.writerow([*SPACE, *METRICS])
        for number in range(N_TRIALS):
            params = {key: draw(rng) for key, draw in SPACE.items()}
            params = {k: v if isinstance(v, int) else float(f"{v:.4g}") for k, v in params.items()}
            values = run(pipeline, folder, params)
            print(number, values, flush=True)
            if values is not None:
                rows.writerow([*params.values(), *values])
                table.flush()


main()
