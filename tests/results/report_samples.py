"""Reports to look at: what a run would hand over, made up from a cheap model of a network."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

from evo_mpq.optimize.pareto import knee, non_dominated

HOSTILE = '</script><script>window.HACKED = 1</script><img src=x onerror="window.HACKED = 1"><!-- <b>%{x}</b>'


def layers_of(n_layers: int) -> list[dict[str, Any]]:
    """A residual network: a stem, blocks whose channels double, a head."""
    layers = [{"name": "stem", "kind": "conv2d", "shape": [16, 1, 3, 3], "n_parameters": 144, "macs": 9216}]
    channels = 16
    for place in range(n_layers - 2):
        stage, block = 1 + place // max(1, (n_layers - 2) // 3), place // 2
        channels = 16 * 2 ** min(stage - 1, 3)
        layers.append(
            {
                "name": f"stage{stage}.{block}.conv{1 + place % 2}",
                "kind": "conv2d",
                "shape": [channels, channels, 3, 3],
                "n_parameters": 9 * channels**2,
                "macs": 9 * channels**2 * 64 // 4 ** min(stage - 1, 3),
            }
        )
    head = {"name": "head", "kind": "linear", "shape": [10, channels], "n_parameters": 10 * channels}
    return [*layers, {**head, "macs": 10 * channels}]


def joint_layers(n_layers: int) -> list[dict[str, Any]]:
    """The same network with a product inside attention, channels that may be pruned and blocks that may be dropped."""
    layers = layers_of(n_layers)
    for layer in layers[1:-1]:
        layer["block"] = layer["name"].rpartition(".")[0]
        layer["prunable"] = layer["name"].endswith("conv1")
    product = {"name": "mix.attention_qk", "kind": "product", "shape": [], "n_parameters": 0, "macs": 5000}
    return [*layers[:-1], product, layers[-1]]


def joint_genes(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Genes of channels and blocks."""
    blocks = dict.fromkeys(layer["block"] for layer in layers if "block" in layer)
    return [
        *(
            {"name": f"{layer['name']}.prune_ratio", "values": [0.5, 0.25, 0.0]}
            for layer in layers
            if layer.get("prunable")
        ),
        *({"name": f"{block}.drop", "values": [True, False]} for block in blocks),
    ]


def policy_of(genome: Any, genes: list[dict[str, Any]], layers: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a genome means."""
    chosen = {gene["name"]: gene["values"][int(place)] for gene, place in zip(genes, genome, strict=True)}
    kinds = {"weight_bits": 32, "activation_bits": 32, "prune_ratio": 0.0}
    return {
        "layers": {
            layer["name"]: {kind: chosen.get(f"{layer['name']}.{kind}", other) for kind, other in kinds.items()}
            for layer in layers
        },
        "architecture": {name: True for name, value in chosen.items() if name.endswith(".drop") and value},
    }


def canonical(genome: Any, genes: list[dict[str, Any]]) -> Any:
    """The genome with inactive genes at 0."""
    gone = idle_genes(genome, genes)
    return [0 if gene["name"] in gone else place for gene, place in zip(genes, genome, strict=True)]


def idle_genes(genome: Any, genes: list[dict[str, Any]]) -> list[str]:
    """Names of the genes of layers in dropped blocks."""
    names = [gene["name"] for gene in genes]
    dropped = [
        name.removesuffix("drop") for name, g in zip(names, genome, strict=True) if name.endswith(".drop") and not g
    ]
    return [name for name in names if not name.endswith(".drop") and name.startswith(tuple(dropped))]


def point_of(policy: dict[str, dict[str, Any]], layers: list[dict[str, Any]], float_size: int) -> dict[str, Any]:
    """What a policy leaves of the network, as a run describes it."""
    blocks = [name.removesuffix(".drop") for name in policy["architecture"]]
    left = [layer for layer in layers if layer.get("block") not in blocks]
    chosen = {layer["name"]: policy["layers"][layer["name"]] for layer in left}
    channels = {
        layer["name"]: (round(layer["shape"][0] * (1 - chosen[layer["name"]]["prune_ratio"])), layer["shape"][0])
        for layer in left
        if layer.get("prunable")
    }
    parameters = {
        layer["name"]: round(layer["n_parameters"] * (1 - chosen[layer["name"]]["prune_ratio"])) for layer in left
    }
    n_weights = sum(parameters.values())
    bits = sum(n * chosen[name]["weight_bits"] for name, n in parameters.items())
    computed = sum(layer["n_parameters"] for layer in left)
    dropped = 4 * (sum(layer["n_parameters"] for layer in layers) - computed)
    pruned = 4 * (computed - n_weights)
    grids = 5 * sum(choice["activation_bits"] < 32 for choice in chosen.values())
    size = math.ceil(bits / 8) + 2048 + grids
    n_channels = sum(n for _, n in channels.values())
    return {
        "blocks": blocks,
        "parameters": parameters,
        "channels": channels,
        "removed_channels": 1 - sum(kept for kept, _ in channels.values()) / n_channels if n_channels else None,
        "weight_bits": bits / n_weights,
        "activation_bits": sum(choice["activation_bits"] for choice in chosen.values()) / len(chosen),
        "n_bytes": size,
        "savings": {
            "drop": dropped,
            "prune_ratio": pruned,
            "weight_bits": float_size - size - dropped - pruned + grids,
            "activation_bits": -grids,
        },
    }


def sample(
    *,
    n_layers: int = 12,
    n: int = 420,
    objectives: tuple[str, ...] = ("kl_divergence", "size"),
    activations: bool = True,
    joint: bool = False,
    finished: bool = True,
    bound: float | None = None,
    failures: int = 0,
    seed: int = 0,
    refinements: int = 30,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Front, candidates and meta of a run that measured ``n`` genomes.

    Args:
        n_layers: of the network.
        n: genomes measured.
        objectives: names out of kl_divergence, size, bops, latency, error_rate, accuracy.
        activations: activation bits are searched, too.
        joint: channels and blocks are searched, too, and there is a product inside attention.
        finished: test values were shown.
        bound: the largest feasible size.
        failures: genomes that fail.
        seed: of everything.
        refinements: rounds of a crude evolutionary search; more give a longer front.
    """
    rng = np.random.default_rng(seed)
    layers = joint_layers(n_layers) if joint else layers_of(n_layers)
    float_size = sum(layer["n_parameters"] for layer in layers) * 4 + 2048
    weight_steps, activation_steps = (2, 3, 4, 6, 8), (4, 8)
    weighted = [layer for layer in layers if layer["kind"] != "product"]
    genes: list[dict[str, Any]] = [
        {"name": f"{layer['name']}.weight_bits", "values": list(weight_steps)} for layer in weighted
    ]
    if activations:
        genes += [{"name": f"{layer['name']}.activation_bits", "values": list(activation_steps)} for layer in layers]
    genes += joint_genes(layers) if joint else []
    cardinalities = np.array([len(gene["values"]) for gene in genes])
    sensitivity = np.exp(rng.normal(0, 1.0, (3, len(layers)))) / len(layers)

    def measured(genome: Any, noise: float = 0.0) -> dict[str, float]:
        policy = policy_of(genome, genes, layers)
        point = point_of(policy, layers, float_size)
        left = [layer["name"] in point["parameters"] for layer in layers]
        chosen = [policy["layers"][layer["name"]] for layer in layers]
        weight, activation, ratio = (
            np.array([choice[kind] for choice in chosen]) for kind in ("weight_bits", "activation_bits", "prune_ratio")
        )
        damage = float(sensitivity[0] @ (4.0 ** (2.0 - weight) * left)) * 0.16
        damage += float(sensitivity[1] @ (4.0 ** (4.0 - activation) * left)) * 0.004
        damage += float(sensitivity[2] @ (ratio * left)) * 0.05 + 0.03 * len(point["blocks"])
        damage *= math.exp(noise * rng.normal())
        macs = np.array([layer["macs"] for layer in layers]) * left * (1 - ratio)
        size = point["n_bytes"]
        accuracy = 0.982 - 0.9 * damage - 0.004 * abs(rng.normal()) * min(1, damage * 20)
        return {
            "kl_divergence": float(damage),
            "size": size,
            "bops": float(macs @ (weight * np.minimum(activation, 8))),
            "latency": float((macs @ weight) / 4e5 * (1 + 0.02 * rng.normal())),
            "accuracy": round(float(np.clip(accuracy, 0.1, 1)) * 400) / 400,
            "error_rate": 1 - round(float(np.clip(accuracy, 0.1, 1)) * 400) / 400,
        }

    columns = {
        "kl_divergence": ("nats", "minimize", "measured", "log10"),
        "size": ("B", "minimize", "exact", "linear"),
        "bops": ("BOPs", "minimize", "exact", "linear"),
        "latency": ("ms", "minimize", "modelled", "linear"),
        "accuracy": ("", "maximize", "measured", "linear"),
        "error_rate": ("", "minimize", "measured", "linear"),
    }
    ladder = []
    for w, bits in enumerate(weight_steps):
        for a, activation_bits in enumerate(activation_steps if activations else (32,)):
            steps = {"weight_bits": w, "activation_bits": a, "prune_ratio": 2, "drop": 1}
            genome = [steps[gene["name"].rpartition(".")[2]] for gene in genes]
            ladder.append((f"uniform W{bits}A{activation_bits}" if activations else f"uniform W{bits}", genome))
    order: dict[tuple[int, ...], dict[str, float]] = {}

    def measure(genome: Any) -> None:
        key = tuple(int(g) for g in canonical(genome, genes))
        if key not in order and len(order) < n:
            order[key] = measured(key, 0.04)

    def losses() -> Any:
        signs = np.array([1.0 if columns[o][1] == "minimize" else -1.0 for o in objectives])
        return np.array([[values[o] for o in objectives] for values in order.values()]) * signs

    for _, genome in ladder:
        measure(genome)
    for level in np.linspace(0, 1, max(4, n // 5)):
        measure(rng.binomial(cardinalities - 1, level))
    curve: list[float] = []
    counts: list[int] = []
    for generation in range(refinements):
        front_rows = np.flatnonzero(non_dominated(losses()))
        genomes = np.array(list(order))
        for _ in range(max(1, (n - len(order)) // (refinements - generation))):
            mother, father = genomes[rng.choice(front_rows, 2)]
            child = np.where(rng.random(len(genes)) < 0.5, mother, father)
            moved = rng.random(len(genes)) < 1.5 / len(genes)
            child = np.clip(child + moved * rng.choice([-1, 1], len(genes)), 0, cardinalities - 1)
            measure(child)
        counts.append(len(order))
        curve.append(round(1.62 - 0.5 * math.exp(-generation / 6), 4))
    genomes = np.array(list(order))
    values = list(order.values())
    failed = set(rng.choice(len(values), failures, replace=False).tolist()) - set(range(len(ladder)))
    feasible = [row not in failed and (bound is None or v["size"] <= bound) for row, v in enumerate(values)]
    table = losses()
    table[[not ok for ok in feasible]] = np.nan
    rows = np.flatnonzero(non_dominated(table))
    rows = rows[np.lexsort(table[rows].T[::-1])]

    def interval(value: float, spread: float, samples: int) -> dict[str, float | None]:
        if not finished:
            return {"value": None, "low": None, "high": None}
        error = 1.96 * spread / math.sqrt(samples)
        return {"value": value, "low": value - error, "high": value + error}

    def test(v: dict[str, float]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if "kl_divergence" in objectives:
            shifted = v["kl_divergence"] * math.exp(0.12 + 0.1 * rng.normal())
            found["kl_divergence"] = interval(shifted, shifted * 2.2, 497)
        accuracy = min(1.0, round((v["accuracy"] - 0.002 + 0.003 * rng.normal()) * 497) / 497)
        if "error_rate" in objectives:
            found["error_rate"] = interval(1 - accuracy, 0.15, 497)
        found["accuracy"] = interval(accuracy, math.sqrt(max(accuracy * (1 - accuracy), 1e-4)), 497)
        return found

    def identity(genome: Any) -> str:
        return hashlib.sha256(np.array(genome, dtype="<i8").tobytes()).hexdigest()[:8]

    members = [
        {
            "id": identity(genomes[row]),
            "genome": genomes[row].tolist(),
            "policy": policy_of(genomes[row], genes, layers),
            "search": {o: values[row][o] for o in objectives},
            "test": test(values[row]),
        }
        for row in rows
    ]
    reference = {
        "kl_divergence": 0.0,
        "size": float_size,
        "bops": float(sum(layer["macs"] for layer in layers) * 32 * 32),
        "latency": sum(layer["macs"] for layer in layers) / 4e4,
        "accuracy": 0.985,
        "error_rate": 0.015,
    }
    reference_test = {name: interval(reference[name], 0.13, 497) for name in test(values[0])}
    verdicts = ["dominated", "dominated", "tied", "dominated", "not", "tied", "dominated", None]
    seeds = []
    for place, (name, genome) in enumerate(ladder):
        row = list(order).index(tuple(genome))
        seeds.append(
            {
                "name": name,
                "genome": genome,
                "feasible": feasible[row],
                "search": {o: values[row][o] for o in objectives},
                "test": test(values[row]),
                "verdict": verdicts[place % len(verdicts)] if finished and feasible[row] else None,
            }
        )
    front = {
        "finished": finished,
        "reproducible": True,
        "objectives": [
            {
                "name": o,
                "unit": columns[o][0],
                "direction": columns[o][1],
                "kind": columns[o][2],
                "scale": columns[o][3],
            }
            for o in objectives
        ],
        "genes": genes,
        "measurements": len(values),
        "cost": {"cpu_seconds": 83.1, "sample_forwards": len(values) * 656},
        "hypervolume": {
            "value": curve[-1] if curve else None,
            "reference_point": [0.2] * len(objectives),
            "per_generation": curve,
            "measurements": counts,
        },
        "reference": {"search": {o: reference[o] for o in objectives}, "test": reference_test},
        "seeds": seeds,
        "members": members,
    }
    candidates = {
        "genomes": genomes.tolist(),
        "search": {o: [None if row in failed else v[o] for row, v in enumerate(values)] for o in objectives},
        "feasible": feasible,
        "failures": [
            [genomes[row].tolist(), "my_objective raised ZeroDivisionError: float division by zero"]
            for row in sorted(failed)
        ],
    }
    kept = table[rows].copy()
    for column, o in enumerate(objectives):
        if columns[o][3] == "log10":
            kept[:, column] = np.log10(kept[:, column])
    meta = {
        "run": "digits_resnet",
        "network": "digits_resnet",
        "layers": layers,
        "knee": members[knee(kept)]["id"] if members else None,
        "points": [
            {
                **point_of(member["policy"], layers, float_size),
                "inactive_genes": idle_genes(member["genome"], genes),
            }
            for member in members
        ],
        "constraints": [] if bound is None else [{"name": "size", "comparison": "<=", "bound": bound, "unit": "B"}],
        "space": {"genes": str(len(genes))},
        "log10_genomes": float(np.log10(cardinalities).sum()),
        "settings": SETTINGS,
        "versions": {"evo-mpq": "0.1.0", "torch": "2.9.1", "numpy": "2.3.4", "pymoo": "0.6.2"},
        "directory": "runs/digits_resnet",
        "test_shown": len(members) + len(seeds) + 1 if finished else 0,
        "notes": ["3 exact copies of test samples were left out of the search split."],
        "samples": {"calibration": 256, "search": 400, "test": 497, "train": 900},
        "log_scale": [o for o in objectives if columns[o][3] == "log10"],
    }
    return front, candidates, meta


METHODS = ("sensitivity", "shapley", "hawq", "clado", "my_nets:Sums")
"""Allocation methods beside the uniform ladder."""


def contributions_of(front: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """The document of ``contributions.json`` of a front: contributions that fall by a factor with every bit."""
    rng = np.random.default_rng(seed)
    weights = np.sort(rng.lognormal(0, 1.3, len(front["genes"])))[rng.permutation(len(front["genes"]))]
    genes = []
    for gene, weight in zip(front["genes"], weights.tolist(), strict=True):
        n_steps = len(gene["values"]) - 1
        losses = 0.004 * weight * 2.5 ** np.arange(n_steps) + rng.normal(0, 0.001, n_steps)
        layer, _, kind = gene["name"].rpartition(".")
        genes.append(
            {
                "name": gene["name"],
                "kind": kind,
                "layers": [layer],
                "total": float(losses.sum()),
                "total_error": float(0.08 * losses.sum() + 0.001),
                "steps": [
                    {
                        "from": gene["values"][n_steps - place],
                        "to": gene["values"][n_steps - place - 1],
                        "loss": float(loss),
                        "error": float(0.15 * abs(loss) + 0.0005),
                    }
                    for place, loss in enumerate(losses)
                ],
            }
        )
    return {
        "estimator": "kernel",
        "objective": {"name": "kl_divergence", "unit": "nats"},
        "measurements": 148,
        "cpu_seconds": 12.5,
        "top": 0.0004,
        "bottom": 0.0004 + sum(gene["total"] for gene in genes),
        "efficiency_gap": 0.0,
        "genes": genes,
    }


def with_recipes(
    front: dict[str, Any], candidates: dict[str, Any], methods: tuple[str, ...] = METHODS, n: int = 6
) -> dict[str, Any]:
    """The front with ``n`` recipes more of each method: candidates that were measured."""
    rng = np.random.default_rng(0)
    rows = rng.choice(len(candidates["genomes"]), (len(methods), n), replace=False)
    verdicts = ("dominated", "dominated", "tied", "not")
    seeds = [
        {
            "name": f"{method} {place + 1}",
            "genome": candidates["genomes"][row],
            "feasible": candidates["feasible"][row],
            "search": {name: values[row] for name, values in candidates["search"].items()},
            "test": {
                name: {
                    end: candidates["search"][name][row] if name in candidates["search"] else number
                    for end, number in entry.items()
                }
                for name, entry in front["seeds"][0]["test"].items()
            },
            "verdict": verdicts[place % 4] if candidates["feasible"][row] and front["finished"] else None,
        }
        for method, chosen in zip(methods, rows.tolist(), strict=True)
        for place, row in enumerate(chosen)
    ]
    return {**front, "seeds": [*front["seeds"], *seeds]}


def predictions_of(
    front: dict[str, Any], candidates: dict[str, Any], seed: int = 0, *, batch_size: int = 10, misled: bool = True
) -> dict[str, Any]:
    """The document of ``predictions.json`` of a run whose second half was predicted.

    Args:
        front: of the run.
        candidates: of the run.
        seed: of the predictions.
        batch_size: candidates per batch.
        misled: in the third and the fourth batch predictions say nothing, so that NSGA-II chooses the two after them.
    """
    rng = np.random.default_rng(seed)
    measured = [objective for objective in front["objectives"] if objective["kind"] == "measured"]
    table = np.array([candidates["search"][objective["name"]] for objective in measured], dtype=np.float64).T
    begin, end = len(table) // 2, len(table)
    rounds: list[dict[str, Any]] = []
    for place, first in enumerate(range(begin, end, batch_size)):
        rows = table[first : min(first + batch_size, end)]
        predicted = rows * np.exp(rng.normal(0, 0.15, rows.shape))
        if misled and place in (2, 3):
            predicted = predicted[np.argsort(predicted[:, 0])[::-1]][np.argsort(np.argsort(rows[:, 0]))]
        rounds.append(
            {
                "measured_before": first,
                "proposer": "nsga2" if misled and place in (4, 5) else "surrogate",
                "predicted": _or_none(predicted),
                "measured": _or_none(rows),
                "tau": None,
            }
        )
    final = front["hypervolume"]["value"] or 1.0
    told = [("uniform", 0.9, 0.2), ("table of single options", 0.86, 0.5), ("sensitivity", 0.96, 0.15)]
    spent: list[dict[str, Any]] = [
        {"purpose": purpose, "measurements": int(share * begin), "hypervolume": level * final}
        for purpose, level, share in told
    ]
    left = begin - sum(each["measurements"] for each in spent)
    spent.append({"purpose": "shapley", "measurements": left, "hypervolume": 0.9 * final})
    for proposer in ("surrogate", "nsga2"):
        n = sum(len(each["predicted"]) for each in rounds if each["proposer"] == proposer)
        spent += [{"purpose": proposer, "measurements": n, "hypervolume": None}] if n else []
    return {
        "surrogate": "gp",
        "objectives": [{key: objective[key] for key in ("name", "unit", "scale")} for objective in measured],
        "rounds": rounds,
        "spent": spent,
    }


def _or_none(rows: Any) -> list[list[float | None]]:
    return [[value if math.isfinite(value) else None for value in row] for row in rows.tolist()]


def rich(**settings: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A sample with contributions, predictions, 40 recipes, methods not measured and choices beside the run."""
    front, candidates, meta = sample(**settings)
    front = with_recipes(front, candidates)
    chosen = [
        {
            **{key: member[key] for key in ("id", "genome", "policy", "search", "test")},
            "method": method,
            "budget": budget,
        }
        for method, budget, member in zip(
            ("clado", "hawq"), ("size<=40kB", "size<=90kB"), front["members"], strict=False
        )
    ]
    if chosen:
        chosen[-1]["id"] = "0a1b2c3d"  # one that is not on the front
    unmeasured = {
        "fisher": "Gradient scores.",
        "spdy": "A program over coefficients.",
        "uniform": "The same everywhere.",
    }
    return (
        front,
        candidates,
        {
            **meta,
            "contributions": contributions_of(front),
            "predictions": predictions_of(front, candidates),
            "allocations": chosen,
            "methods": unmeasured,
        },
    )


SETTINGS = """\
name: digits_resnet
seed: 0
model: {kind: digits_resnet}
data: {kind: digits, batch_size: 256}
space:
  defaults: {weight_bits: [2, 3, 4, 6, 8], activation_bits: [4, 8]}
objectives: [{kind: kl_divergence}, {kind: size}]
metrics: [accuracy]
search: {algorithm: nsga2, population: 40, evaluations: 420}
"""
