"""Writes optuna.json: what Optuna computes, for the samplers' tests to agree with.

    pip install optuna==5.0.0 && python engine/tests/data/agree_with_optuna.py

Spaces are written as `engine::sweep::space` reads them.
"""

import json
import math
import pathlib
import warnings
from functools import partial

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import parzen_estimator, sampler as tpe
from optuna.trial import TrialState, create_trial

warnings.simplefilter("ignore")
optuna.logging.set_verbosity(optuna.logging.ERROR)

# Which of two equal observations NumPy sorts first depends on the CPU's vector instructions.
# Ours keeps their order, and so does Optuna here.
parzen_estimator.np.argsort = partial(np.argsort, kind="stable")

DOMAINS = {
    "uniform": ({"uniform": {"low": -5.0, "high": 10.0}}, FloatDistribution(-5.0, 10.0)),
    "step": (
        {"uniform": {"low": 0.0, "high": 1.0, "step": 0.1}},
        FloatDistribution(0.0, 1.0, step=0.1),
    ),
    "log": ({"log-uniform": {"low": 1e-5, "high": 0.1}}, FloatDistribution(1e-5, 0.1, log=True)),
    "int": ({"int": {"low": 1, "high": 12}}, IntDistribution(1, 12)),
    "int-step": (
        {"int": {"low": 32, "high": 512, "step": 32}},
        IntDistribution(32, 512, step=32),
    ),
    "int-log": ({"int": {"low": 1, "high": 1000, "log": True}}, IntDistribution(1, 1000, log=True)),
    "choice": (
        {"choice": ["relu", "gelu", "tanh"]},
        CategoricalDistribution(["relu", "gelu", "tanh"]),
    ),
}

PARAMETERS = parzen_estimator._ParzenEstimatorParameters(
    prior_weight=1.0,
    consider_magic_clip=True,
    consider_endpoints=False,
    weights=tpe.default_weights,
    multivariate=True,
)


def draw(distribution, rng):
    """A random value of the distribution, in Optuna's internal representation."""
    if isinstance(distribution, CategoricalDistribution):
        return float(rng.integers(len(distribution.choices)))
    if distribution.log:
        value = math.exp(rng.uniform(math.log(distribution.low), math.log(distribution.high)))
    else:
        value = rng.uniform(distribution.low, distribution.high)
    if distribution.step is not None:
        steps = round((value - distribution.low) / distribution.step)
        value = float(f"{distribution.low + steps * distribution.step:.12g}")
    return float(min(max(value, distribution.low), distribution.high))


def densities():
    """Logarithmic densities at points, of estimators made of observations."""
    rng = np.random.default_rng(1)
    cases = [([name], n) for name in DOMAINS for n in (0, 1, 2, 30)]
    cases += [(list(DOMAINS), n) for n in (0, 3, 26, 27, 120)]
    for names, n in cases:
        space = {name: DOMAINS[name][1] for name in names}
        columns = {name: np.array([draw(space[name], rng) for _ in range(n)]) for name in names}
        points = {name: np.array([draw(space[name], rng) for _ in range(10)]) for name in names}
        if n and names == ["uniform"]:
            points["uniform"][:2] = [-5.0, 10.0]
        estimator = parzen_estimator._ParzenEstimator(columns, space, PARAMETERS)
        yield {
            "domains": [DOMAINS[name][0] for name in names],
            "observations": [[float(columns[name][i]) for name in names] for i in range(n)],
            "points": [[float(points[name][i]) for name in names] for i in range(10)],
            "ln_densities": [float(v) for v in estimator.log_pdf(points)],
        }


def trial(rng, n_objectives):
    """A random trial: as `engine::sweep::sampler::Outcome` puts it, and as Optuna does."""
    distributions = {"x": FloatDistribution(0.0, 1.0)}
    common = {"params": {"x": float(rng.uniform())}, "distributions": distributions}
    objectives = [round(float(rng.uniform()), 2) for _ in range(n_objectives)]
    kind = rng.choice(["done", "done", "done", "broken", "paused", "pending", "failed"])
    if kind == "paused" and n_objectives > 1:
        kind = "done"  # Optuna does not stop trials with several objectives early
    if kind in ("done", "broken"):
        violation = round(float(rng.uniform()), 2) + 0.01 if kind == "broken" else 0.0
        ours = {"done": {"objectives": objectives, "violation": violation}}
        theirs = create_trial(
            state=TrialState.COMPLETE, values=objectives, constraints={"c": violation}, **common
        )
    elif kind == "paused":
        rung = int(rng.integers(4))
        ours = {"paused": {"rung": rung, "objectives": objectives}}
        theirs = create_trial(
            state=TrialState.PRUNED, intermediate_values={rung: objectives[0]}, **common
        )
    else:
        ours = kind
        state = TrialState.RUNNING if kind == "pending" else TrialState.FAIL
        theirs = create_trial(state=state, **common)
    return {"params": common["params"], "outcome": ours}, theirs


def splits():
    """Which trials are good and which bad."""
    rng = np.random.default_rng(2)
    for n_objectives in (1, 2, 3):
        for n in (1, 12, 30, 45, 90, 300 if n_objectives == 1 else 120):
            ours, theirs = zip(*(trial(rng, n_objectives) for _ in range(n)))
            study = optuna.create_study(directions=["minimize"] * n_objectives)
            study.add_trials(theirs)
            trials = [t for t in study.trials if t.state != TrialState.FAIL]
            n_ended = sum(t.state != TrialState.RUNNING for t in trials)
            gamma = tpe.default_gamma if n_objectives == 1 else tpe.default_gamma_multiobjective
            good, bad = tpe._split_trials(study, trials, gamma(n_ended))
            yield {
                "history": ours,
                "good": [t.number for t in good],
                "bad": [t.number for t in bad],
            }


def branin(trial):
    x = trial.suggest_float("x", -5.0, 10.0)
    y = trial.suggest_float("y", 0.0, 15.0)
    b, c, t = 5.1 / (4 * math.pi**2), 5 / math.pi, 1 / (8 * math.pi)
    return (y - b * x**2 + c * x - 6) ** 2 + 10 * (1 - t) * math.cos(x) + 10


HARTMANN_A = [
    [10, 3, 17, 3.5, 1.7, 8],
    [0.05, 10, 17, 0.1, 8, 14],
    [3, 3.5, 1.7, 10, 17, 8],
    [17, 8, 0.05, 10, 0.1, 14],
]
HARTMANN_P = [
    [0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886],
    [0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991],
    [0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650],
    [0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381],
]


def hartmann6(trial):
    x = [trial.suggest_float(f"x{i}", 0.0, 1.0) for i in range(6)]
    return -sum(
        alpha * math.exp(-sum(a * (v - p) ** 2 for a, v, p in zip(row_a, x, row_p)))
        for alpha, row_a, row_p in zip([1.0, 1.2, 3.0, 3.2], HARTMANN_A, HARTMANN_P)
    )


def searches():
    """Best values that Optuna's TPE finds, by seed."""
    for name, function, budget in (("branin", branin, 100), ("hartmann6", hartmann6, 100)):
        best = []
        for seed in range(1, 81):
            options = {"multivariate": True, "group": True, "constant_liar": True}
            study = optuna.create_study(sampler=TPESampler(seed=seed, **options))
            study.optimize(function, n_trials=budget)
            best.append(study.best_value)
        yield {"function": name, "budget": budget, "best": best}


def proposals():
    """What Optuna's TPE asks for, given one history: by seed, dimension by dimension."""
    rng = np.random.default_rng(3)
    space = {f"x{i}": FloatDistribution(0.0, 1.0) for i in range(6)}
    center = [0.2, 0.15, 0.48, 0.28, 0.31, 0.66]
    history = []
    for number in range(60):
        x = rng.uniform(size=6)
        if number >= 30:
            x = np.clip(center + 0.15 * rng.normal(size=6), 0.0, 1.0)
        params = dict(zip(space, map(float, x)))
        history.append((params, hartmann6(optuna.trial.FixedTrial(params))))
    asked = []
    for seed in range(300):
        options = {"multivariate": True, "group": True, "constant_liar": True}
        study = optuna.create_study(sampler=TPESampler(seed=seed, **options))
        study.add_trials(
            [create_trial(value=v, params=p, distributions=space) for p, v in history]
        )
        trial = study.ask(space)
        asked.append([round(trial.params[name], 4) for name in space])
    outcomes = [{"done": {"objectives": [value], "violation": 0.0}} for _, value in history]
    history = [{"params": p, "outcome": o} for (p, _), o in zip(history, outcomes)]
    return {"history": history, "asked": np.transpose(asked).tolist()}


def main():
    assert optuna.__version__ == "5.0.0", optuna.__version__
    fixture = {
        "optuna": optuna.__version__,
        "densities": list(densities()),
        "splits": list(splits()),
        "proposals": proposals(),
        "searches": list(searches()),
    }
    lines = []
    for key, value in fixture.items():
        if isinstance(value, list):
            items = ",\n".join(json.dumps(item, separators=(",", ":")) for item in value)
            lines.append(f"{json.dumps(key)}:[\n{items}\n]")
        else:
            lines.append(f"{json.dumps(key)}:{json.dumps(value)}")
    path = pathlib.Path(__file__).with_name("optuna.json")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
