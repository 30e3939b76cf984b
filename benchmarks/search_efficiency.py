"""How few measurements does a search need?

Everything counts: tables, seeds, the uncompressed network. Of ``bits`` and ``joint`` every network is known on every
image of digits, so that each seed has its own split of the images and its exact front; ``kernel_switches`` is the
second with a third objective that is no sum over layers, and ``pairs_60`` is synthetic. The others are measured, each
genome once for all searches, and compared with the best that any of them found. Held-out losses are what is searched
by, on samples that are not searched; plain KL is shown beside where another divergence is searched by.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.efficiency.arms import ARMS, Found
from benchmarks.efficiency.judges import Judge, judge_of
from benchmarks.efficiency.problems import NAMES, kinds, split_sizes, world, worlds
from benchmarks.efficiency.splits import Redrawn
from benchmarks.efficiency.worlds import Cached, World
from benchmarks.presenting import show, spread
from evo_mpq.typing import FloatMatrix, FloatVector

BUDGETS: Mapping[str, tuple[int, ...]] = {"tiny_gpt": (60, 100), "pairs_60": (60, 100, 200, 300, 500)}
DEFAULT_BUDGETS = (60, 100, 200, 400)
SEEDS = {"tiny_gpt": 3}
BASELINE = "sensitivity + program"
TIE = 0.001
"""Shares that differ by less are equal."""

LOSS_OF_RANGE = 0.1
"""Nats: the smallest network below is how far down a search reaches."""

SPLIT_SIZES = (200, 400, 1000, 3000)

REACHED = 0.98
REACH = 2000
"""Measurements within which pymoo's NSGA-II may reach that share."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What a search's findings are worth.

    Attributes:
        share: of the front's hypervolume.
        regret: held-out.
        seconds: CPU, of measuring and of searching.
        forwards: samples that were put through a network.
        own_seconds: of searching alone.
        smallest: bytes of the smallest network with a loss of at most 0.1.
        held_out: ``(2, 9)`` losses and plain KLs of what is handed over for each budget of size, at least the floor.
        fits: ``(9,)`` whether it is within the budget.
        at_many: ``(n,)`` held-out losses at many budgets, at least the floor; NaN where nothing fits.
    """

    share: float
    regret: float
    seconds: float
    forwards: float
    own_seconds: float
    smallest: float
    held_out: FloatMatrix
    fits: np.ndarray
    at_many: FloatVector

    def ratios(self, other: Judged) -> FloatVector:
        """``(3,)`` of held-out losses, of plain KLs, and of held-out losses at many budgets, to another's.

        Geometric means over budgets that both keep, 1 without any. Where nothing fits, the smallest is handed over,
        whose loss is low because it is too large.
        """
        both = self.fits & other.fits
        if not both.any():
            return np.ones(3)
        logs = np.log(self.held_out[:, both] / other.held_out[:, both]).mean(axis=1)
        return np.exp([*logs, np.nanmean(np.log(self.at_many / other.at_many))])


Runs = dict[tuple[str, int, int], Found]
"""By arm, budget and seed."""


def run_arms(places: Sequence[World], names: Sequence[str], budgets: Sequence[int]) -> Runs:
    """What each arm measures with each budget, once a seed on its world."""
    runs: Runs = {}
    for name in names:
        arm = ARMS[name]
        for seed, place in enumerate(places):
            if seed > 0 and not arm.chance and place is places[0]:
                runs |= {(name, budget, seed): runs[name, budget, 0] for budget in budgets}
            elif arm.anytime:
                found = arm.run(place, max(budgets), seed)
                runs |= {(name, budget, seed): found.first(budget) for budget in budgets}
            else:
                runs |= {(name, budget, seed): arm.run(place, budget, seed) for budget in budgets}
        source = places[0].source
        if isinstance(source, Cached):
            source.save()
        print(f"{places[0].name}: {name} done", flush=True)
    return runs


def judges(places: Sequence[World]) -> list[tuple[Judge, FloatVector]]:
    """Per seed the exact or best known front, and the held-out losses of what it hands over."""
    return [judge(place) for place in places] if places[-1] is not places[0] else [judge(places[0])] * len(places)


def judge(place: World) -> tuple[Judge, FloatVector]:
    """The exact or best known front, and the held-out losses of what it hands over."""
    genomes = place.everything
    if genomes is None:
        assert isinstance(place.source, Cached | Redrawn)
        genomes = place.source.genomes
    found = place.source.search(genomes)
    best = judge_of(found.losses, place.computed(genomes), found.standard_errors)
    handed = genomes[best.rows][best.handed_over(best.losses, best.costs)]
    return best, place.source.test(handed)


def judged(place: World, found: Found, best: Judge, held_out: FloatVector) -> Judged:
    """What a run is worth."""
    losses, costs = place.source.search(found.genomes).losses, place.computed(found.genomes)
    handed = found.genomes[best.handed_over(losses, costs)]
    many = found.genomes[best.handed_over(losses, costs, best.many_budgets)]
    good = losses <= LOSS_OF_RANGE
    own = place.source.test(handed)
    return Judged(
        best.share(losses, costs),
        best.regret(own, held_out),
        place.source.seconds_each * len(found.genomes)
        + place.source.sketch_seconds_each * found.n_sketched
        + found.own_seconds,
        place.samples * (len(found.genomes) + found.part * found.n_sketched),
        found.own_seconds,
        float(costs[good, 0].min()) if good.any() else np.inf,
        np.maximum([own, place.source.test_kl(handed)], best.floor),
        np.all(place.computed(handed) <= best.budgets, axis=1),
        np.where(
            np.all(place.computed(many) <= best.many_budgets, axis=1),
            np.maximum(place.source.test(many), best.floor),
            np.nan,
        ),
    )


def paired(ratios: FloatVector) -> tuple[float, float, float]:
    """Geometric mean of ratios with its 95 % interval, by t on logarithms."""
    from scipy.stats import t

    logs = np.log(ratios)
    half = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs)) if len(logs) > 1 else np.nan
    return tuple(np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]).tolist())  # type: ignore[return-value]


def common_share(place: World, best: Judge, one: Found, other: Found) -> tuple[float, float]:
    """Shares of two searches over the sizes that both reach."""
    parts = []
    for found in (one, other):
        losses = place.source.search(found.genomes).losses
        parts.append((losses, place.computed(found.genomes)))
    smallest = max(costs[losses <= LOSS_OF_RANGE, 0].min(initial=np.inf) for losses, costs in parts)
    within = best.from_size(min(smallest, best.costs[:, 0].max()))
    return tuple(within.share(losses, costs) for losses, costs in parts)  # type: ignore[return-value]


def show_problem(
    places: Sequence[World], names: Sequence[str], budgets: Sequence[int], plots: Path | None = None
) -> tuple[Runs, list[Judge]]:
    """Runs and judges all arms on a problem, once a seed on its world; prints its table and its gates."""
    runs = run_arms(places, names, budgets)
    fronts = judges(places)
    place, n_seeds = places[0], len(places)
    results = {key: judged(places[key[2]], found, *fronts[key[2]]) for key, found in runs.items()}
    if isinstance(place.source, Cached):
        place.source.save()
    best = [front for front, _ in fronts]
    rows = []
    for name in names:
        of = {budget: [results[name, budget, seed] for seed in range(n_seeds)] for budget in budgets}
        rows.append(
            [
                name,
                *(spread([one.share for one in of[budget]]) for budget in budgets),
                *(spread([one.regret for one in of[budget]], ".2f") for budget in budgets),
                spread([one.seconds for one in of[max(budgets)]], ".1f"),
                spread([one.own_seconds for one in of[max(budgets)]], ".1f"),
            ]
        )
    show(
        f"{place.name}: how few measurements does a search need?",
        [
            "search",
            *(f"share at {budget}" for budget in budgets),
            *(f"regret at {budget}" for budget in budgets),
            f"CPU s at {max(budgets)}",
            "its own",
        ],
        rows,
        f"{place.space.n_genes} genes; front of {len(best[0].losses)}, floor {best[0].floor:.2g}; "
        f"{1000 * place.source.seconds_each:.1f} CPU ms a measurement. Medians and ranges of {n_seeds} seeds.",
    )
    if plots is not None:
        plot(place, results, names, budgets, n_seeds, plots)
    if {"engine", BASELINE} <= set(names):
        show_gates(places, runs, results, best, budgets)
    return runs, best


def show_gates(
    places: Sequence[World],
    runs: Runs,
    results: Mapping[tuple[str, int, int], Judged],
    best: Sequence[Judge],
    budgets: Sequence[int],
) -> None:
    """The engine against sensitivity + program at equal measurements, and at equal CPU seconds."""
    n_seeds = len(places)
    rows = []
    for budget in budgets:
        ours = [results["engine", budget, seed] for seed in range(n_seeds)]
        theirs = [results[BASELINE, budget, seed] for seed in range(n_seeds)]
        difference = np.median([one.share for one in ours]) - np.median([one.share for one in theirs])
        ratios = np.array([one.ratios(other) for one, other in zip(ours, theirs, strict=True)])
        (ratio, low, high), plain, at_many = (paired(column) for column in ratios.T)
        common = [
            common_share(place, front, runs["engine", budget, seed], runs[BASELINE, budget, seed])
            for seed, (place, front) in enumerate(zip(places, best, strict=True))
        ]
        ahead = np.median([one - other for one, other in common])
        rows.append(
            [
                budget,
                f"{difference:+.4f}",
                "pass" if difference >= -TIE else "FAIL",
                f"{ratio:.3f} ({low:.3f}–{high:.3f})",
                "FAIL" if low > 1 else "pass",
                "{:.3f} ({:.3f}–{:.3f})".format(*at_many),
                "{:.3f} ({:.3f}–{:.3f})".format(*plain),
                "{:.3f} ({:.3f}–{:.3f})".format(*paired(1 / np.array([one.regret for one in theirs]))),
                f"{ahead:+.4f}",
                f"{np.median([one.smallest for one in ours]) / 1000:.1f} / "
                f"{np.median([one.smallest for one in theirs]) / 1000:.1f}",
                f"{np.median([one.seconds for one in ours]):.1f} / {np.median([one.seconds for one in theirs]):.1f}",
            ]
        )
    show(
        f"{places[0].name}: is the engine ever behind {BASELINE}?",
        [
            "measurements",
            "share, difference of medians",
            "gate",
            "held-out loss where both fit, ratio (95 %)",
            "gate",
            "at many sizes",
            "plain KL",
            "the front's own ratio",
            "share where both reach",
            "kB for a loss of .1",
            "CPU s",
        ],
        rows,
    )


def plot(
    place: World,
    results: Mapping[tuple[str, int, int], Judged],
    names: Sequence[str],
    budgets: Sequence[int],
    n_seeds: int,
    folder: Path,
) -> None:
    """Median shares over measurements, over CPU seconds and over samples that were forwarded, as a page."""
    from plotly.colors import qualitative
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    titles = ["measurements", "CPU seconds", "sample-forwards"]
    figure = make_subplots(
        1, 3, shared_yaxes=True, x_title="", y_title=f"share of the best known front of {place.name}"
    )
    for color, name in zip(itertools.cycle(qualitative.Dark24), names, strict=False):
        of = [[results[name, budget, seed] for seed in range(n_seeds)] for budget in budgets]
        shares = [float(np.median([one.share for one in some])) for some in of]
        costs = [
            list(budgets),
            [float(np.median([one.seconds for one in some])) for some in of],
            [float(np.median([one.forwards for one in some])) for some in of],
        ]
        for column, cost in enumerate(costs, start=1):
            line = Scatter(x=cost, y=shares, name=name, legendgroup=name, showlegend=column == 1, line={"color": color})
            figure.add_trace(line, 1, column)
    for column, title in enumerate(titles, start=1):
        figure.update_xaxes(title=title, type="log", row=1, col=column)
    folder.mkdir(parents=True, exist_ok=True)
    figure.update_layout(template="plotly_white", height=520)
    figure.write_html(folder / f"{place.name}.html", include_plotlyjs=True)


def measurements_to(place: World, best: Judge, found: Found, share: float) -> float:
    """Measurements after which a search has a share; infinite if never."""
    losses, costs = place.source.search(found.genomes).losses, place.computed(found.genomes)
    low, high = 1, len(losses)
    if best.share(losses, costs) < share:
        return float("inf")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if best.share(losses[:middle], costs[:middle]) >= share else (middle + 1, high)
    return float(low)


def show_reach(places: Sequence[World], runs: Runs, best: Sequence[Judge]) -> None:
    """Measurements that searches need for 98 %; pymoo's gets 2,000 where measuring is free."""
    rows = []
    for name in ("engine", "AMQ", "pymoo NSGA-II"):
        needed = []
        for seed, (place, front) in enumerate(zip(places, best, strict=True)):
            of = [found for (arm, _, own), found in runs.items() if (arm, own) == (name, seed)]
            if ARMS[name].anytime and not isinstance(place.source, Cached):
                of = [ARMS[name].run(place, REACH, seed)]
            needed.append(min((measurements_to(place, front, found, REACHED) for found in of), default=np.inf))
        rows.append([name, spread(needed, ".0f")])
    show(f"{places[0].name}: measurements to a share of {REACHED}", ["search", "measurements"], rows)


def show_kinds(network: str, budget: int, n_seeds: int) -> None:
    """What each kind of gene adds to what the engine finds: where all fronts reach, and how far down they reach."""
    places = kinds(network)
    runs = {
        name: [ARMS["engine"].run(place, budget, seed) for seed in range(n_seeds)] for name, place in places.items()
    }
    parts = {}
    for name, place in places.items():
        genomes = np.unique(np.concatenate([found.genomes for found in runs[name]]), axis=0)
        found = place.source.search(genomes)
        parts[name] = (genomes, found.losses, place.computed(genomes), found.standard_errors)
    every = [np.concatenate([part[column] for part in parts.values()]) for column in (1, 2, 3)]
    owners = np.concatenate([np.full(len(part[0]), place) for place, part in enumerate(parts.values())])
    starts = dict(zip(parts, np.cumsum([0, *(len(part[0]) for part in parts.values())]), strict=False))
    smallest = max(float(part[2][part[1] <= LOSS_OF_RANGE, 0].min()) for part in parts.values())
    best = judge_of(*every).from_size(smallest)
    handed = best.rows[best.handed_over(best.losses, best.costs)]
    names = list(parts)
    held_out = np.array(
        [
            places[names[owners[row]]].source.test(parts[names[owners[row]]][0][[row - starts[names[owners[row]]]]])[0]
            for row in handed
        ]
    )
    rows = []
    for name, place in places.items():
        shares, regrets, sizes = [], [], []
        for one in runs[name]:
            losses, costs = place.source.search(one.genomes).losses, place.computed(one.genomes)
            shares.append(best.share(losses, costs))
            own = one.genomes[best.handed_over(losses, costs)]
            regrets.append(best.regret(place.source.test(own), held_out))
            sizes.append(float(costs[losses <= LOSS_OF_RANGE, 0].min()) / 1000)
        rows.append([name, place.space.n_genes, spread(shares), spread(regrets, ".2f"), spread(sizes, ".1f")])
        if isinstance(place.source, Cached):
            place.source.save()
    show(
        f"{network}: what does each kind of gene add?",
        ["genes", "number", "share where all reach", "held-out regret there", "kB for a loss of .1"],
        rows,
        f"The engine, {budget} measurements, {n_seeds} seeds; from {smallest / 1000:.1f} kB on.",
    )


def show_split_sizes(network: str, budget: int, n_seeds: int) -> None:
    """What is handed over for nine sizes, by how many samples were searched; all judged on the same test samples."""
    places = split_sizes(network, SPLIT_SIZES)
    names = ("engine", BASELINE)
    runs = {
        (name, size): [ARMS[name].run(place, budget, seed) for seed in range(n_seeds if ARMS[name].chance else 1)]
        for size, place in places.items()
        for name in names
    }
    largest = places[SPLIT_SIZES[-1]]
    genomes = np.unique(np.concatenate([found.genomes for some in runs.values() for found in some]), axis=0)
    found = largest.source.search(genomes)
    best = judge_of(found.losses, largest.computed(genomes), found.standard_errors)
    rows = []
    for size, place in places.items():
        cells = []
        for name in names:
            held_out = []
            for one in runs[name, size]:
                losses = place.source.search(one.genomes).losses
                handed = one.genomes[best.handed_over(losses, place.computed(one.genomes))]
                own = np.maximum(largest.source.test_kl(handed), best.floor)
                held_out.append(float(np.exp(np.mean(np.log(own)))))
            cells.append(spread(held_out, ".5f"))
        rows.append([size, *cells])
        if isinstance(place.source, Cached):
            place.source.save()
    show(
        f"{network}: how good is what is handed over, by how many samples are searched?",
        ["search samples", *(f"held-out KL, {name}" for name in names)],
        rows,
        f"Geometric means over nine sizes; {budget} measurements, {n_seeds} seeds.",
    )


def show_overhead(n_seeds: int) -> None:
    """The engine's own time on 60 layers and 1,000 measurements."""
    place = world("pairs_60")
    each = [1000 * ARMS["engine"].run(place, 1000, seed).own_seconds / 1000 for seed in range(n_seeds)]
    show(
        "What does the engine cost besides measuring, 60 layers and 1,000 measurements?",
        ["CPU ms a measurement"],
        [[spread(each, ".1f")]],
        f"{n_seeds} seeds.",
    )


def arms_for(wanted: Sequence[str] | None) -> list[str]:
    """Those that were asked for; otherwise all but slow ones."""
    return list(wanted) if wanted else [name for name, arm in ARMS.items() if not arm.slow]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--arms", nargs="+", default=None, choices=list(ARMS))
    parser.add_argument("--budgets", type=int, nargs="+", default=None)
    parser.add_argument("--seeds", type=int, default=5, help="at most three for tiny_gpt")
    parser.add_argument("--plots", type=Path, default=None, help="folder for a page of plots per problem")
    parser.add_argument("--reach", action="store_true", help="also measurements to a share of .98")
    parser.add_argument("--kinds", action="store_true", help="only what each kind of gene adds to canvas_resnet")
    parser.add_argument("--split-sizes", action="store_true", help="only canvas_resnet by the size of the search split")
    parser.add_argument("--overhead", action="store_true", help="only the engine's own time")
    arguments = parser.parse_args()
    if arguments.overhead:
        show_overhead(arguments.seeds)
        return
    if arguments.split_sizes:
        show_split_sizes("canvas_resnet", max(arguments.budgets or [200]), arguments.seeds)
        return
    if arguments.kinds:
        show_kinds("canvas_resnet", max(arguments.budgets or DEFAULT_BUDGETS), arguments.seeds)
        return
    for name in arguments.problems:
        places = worlds(name, min(arguments.seeds, SEEDS.get(name, arguments.seeds)))
        budgets = arguments.budgets or BUDGETS.get(name, DEFAULT_BUDGETS)
        runs, best = show_problem(places, arms_for(arguments.arms), budgets, arguments.plots)
        if arguments.reach:
            show_reach(places, runs, best)


if __name__ == "__main__":
    main()
