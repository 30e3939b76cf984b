"""How does evo-mpq compare with Sony's MCT and NVIDIA's ModelOpt on the same network, data and budgets?

Weights only, float activations. The peers run in environments of their own (``peers/environments.py``), which are made
on the first run (2 GB, minutes); their answers are kept, so that a second run only searches and judges. All arms see
the same 256 calibration samples; evo-mpq ranks on its search split besides. One judge looks at test logits and bits.

A: everybody's defaults; ours is told the sizes as the peers are, in one search for all. B: each peer at its best
documented setting. C: every allocation in one quantizer, evo-mpq's default. D: evo-mpq taken apart. A budget makes a
headline only if the best peer's KL is above 0.01 nats, or its accuracy differs from ours (McNemar, 5 %).
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.peers import ours
from benchmarks.peers.crossing import Settings
from benchmarks.peers.environments import FOLDER, answered
from benchmarks.peers.judge import Entry, Judge, Judged, mcnemar
from benchmarks.peers.tasks import BUILDERS, prepared
from benchmarks.peers.verdicts import Verdict, n_worse_beyond_chance, verdict_of
from benchmarks.presenting import show
from evo_mpq.measure.statistics import paired_interval

BUDGETS = (2.25, 2.5, 3.0, 3.5, 4.0)
"""Average bits of a weight."""

WEIGHT_BITS = (2, 3, 4, 5, 6, 8)
MCT_STOCK_BITS = (2, 4, 8)
EVALUATIONS = 400
FEW = 60
"""Measurements of the small search in table B."""

OURS = "evo-mpq"
HEADLINE_KL = 0.01
HEADLINE_P = 0.05

PEERS: Mapping[str, Mapping[str, Settings]] = {
    "A": {
        "MCT": Settings("mct", 0, WEIGHT_BITS),
        "MCT, its 2/4/8": Settings("mct", 0, MCT_STOCK_BITS),
        "ModelOpt, gradient": Settings("modelopt", 0, WEIGHT_BITS, "gradient", "max"),
        "ModelOpt, kl_div": Settings("modelopt", 0, WEIGHT_BITS, "kl_div", "max"),
    },
    "B": {
        "MCT, GPTQ 200 epochs": Settings("mct", 0, WEIGHT_BITS, epochs=200),
        "ModelOpt, gradient, mse": Settings("modelopt", 0, WEIGHT_BITS, "gradient", "mse"),
        "ModelOpt, kl_div, mse": Settings("modelopt", 0, WEIGHT_BITS, "kl_div", "mse"),
    },
}
"""How peers are asked, by table and arm; the budget is filled in."""

Arm = Mapping[float, Judged]
"""What an arm hands over for each budget; budgets that it cannot meet are missing."""


class Contest:
    """One network with everything that arms hand over, each asked for once.

    Args:
        network: name of a task.
        seed: of training, split and search together.
        budgets: average bits of a weight.
        evaluations: of every search of ours.
        seeders: allocation methods of ours that stand alone in table D.
    """

    def __init__(
        self, network: str, seed: int, budgets: Sequence[float], evaluations: int, seeders: Sequence[str]
    ) -> None:
        self.task = prepared(network, seed, FOLDER / "tasks" / f"{network}-seed{seed}")
        self._budgets = tuple(budgets)
        self._evaluations = evaluations
        self._seeders = tuple(seeders)
        self.judge = Judge(self.task, ours.problem_of(self.task, WEIGHT_BITS).compressor)

    @cached_property
    def ours(self) -> Arm:
        """The default search."""
        lines = lines_of(ours.__file__, "as_a_user", "picked_by_a_user")
        return self._judged(ours.searched(self.task, self._sizes, WEIGHT_BITS, self._evaluations, lines))

    def arms(self, table: str) -> dict[str, Arm]:
        """The arms of table A, B or D, ours first."""
        others = self._taken_apart() if table == "D" else self._peers(table)
        quick = self._quick() if table == "B" else {}
        return {OURS: self.ours, **quick, **others}

    def in_one_quantizer(self, tables: Sequence[str]) -> dict[str, Arm]:
        """The allocations of the arms of some tables, ours first, all quantized as ours are."""
        arms = {OURS: self.ours, **{name: arm for table in tables for name, arm in self._peers(table).items()}}
        return {name: self._requantized(arm) for name, arm in arms.items()}

    @property
    def _sizes(self) -> dict[float, int]:
        return {budget: self.judge.size_of(budget) for budget in self._budgets}

    def _peers(self, table: str) -> dict[str, Arm]:
        return {name: self._asked(asked) for name, asked in PEERS[table].items()}

    def _asked(self, asked: Settings) -> Arm:
        found = {}
        lines = peer_lines(asked)
        for budget in self._budgets:
            settings = Settings(**{**vars(asked), "budget": budget, "seed": self.task.seed})
            try:
                answer, logits = answered(settings, self.task.folder)
            except RuntimeError as error:
                print(f"{self.task.name}, {budget} bits: {error}", flush=True)
                continue
            found[budget] = Entry(answer.bits, logits, answer.cpu_seconds, answer.measurements, lines)
        return self._judged(found)

    def _requantized(self, arm: Arm) -> Arm:
        return self._judged({budget: self.judge.in_our_quantizer(one.entry.bits) for budget, one in arm.items()})

    def _taken_apart(self) -> dict[str, Arm]:
        nearest = {"quantizer": {"weights": {"rounding": "nearest"}}}
        searches = {
            "without correction": {"correction": "none"},
            "GPTQ alone": {"quantizer": {"weights": {"rounding": "gptq"}}},
            "to nearest": nearest,
            "to nearest, without correction": {"correction": "none", **nearest},
        }
        arms = {
            name: ours.searched(self.task, self._sizes, WEIGHT_BITS, self._evaluations, **variation)
            for name, variation in searches.items()
        }
        for seeder in self._seeders:
            arms[f"{seeder} alone"] = ours.allocated(self.task, self._sizes, WEIGHT_BITS, seeder)
        arms["evolution alone"] = ours.evolved(self.task, self._sizes, WEIGHT_BITS, self._evaluations)
        return {name: self._judged(arm) for name, arm in arms.items()}

    def _quick(self) -> dict[str, Arm]:
        """Ours in a fraction of the time: a small search, and the program of sensitivities, as `allocate` runs it."""
        few = ours.searched(self.task, self._sizes, WEIGHT_BITS, FEW)
        program = ours.allocated(self.task, self._sizes, WEIGHT_BITS, "sensitivity")
        return {f"{OURS}, {FEW} measurements": self._judged(few), f"{OURS} allocate": self._judged(program)}

    def _judged(self, arm: Mapping[float, Entry]) -> Arm:
        return {budget: self.judge(entry) for budget, entry in arm.items()}


def lines_of(file: str | Path, *functions: str) -> int:
    """Lines in the bodies of functions of a file, which need not be importable here; blank ones do not count."""
    text = Path(file).read_text(encoding="utf-8")
    lines, count = text.splitlines(), 0
    for part in ast.parse(text).body:
        if isinstance(part, ast.FunctionDef) and part.name in functions:
            count += sum(bool(line.strip()) for line in lines[part.body[0].lineno - 1 : part.end_lineno])
    return count


def peer_lines(asked: Settings) -> int:
    """Lines that a user of a peer writes."""
    script = Path(ours.__file__).with_name(f"{asked.peer}_peer.py")
    return lines_of(script, "capabilities", "as_a_user_with_gptq" if asked.epochs else "as_a_user")


def row(budget: float, name: str, found: Sequence[Judged], own: Sequence[Judged]) -> list[str]:
    """A line of tables A, B and D: medians over seeds; one seed comes with the standard error of its KL."""
    first = found[0].entry
    ratio = np.median([one.mean_kl / mine.mean_kl for one, mine in zip(found, own, strict=True)])
    return [
        f"{budget:g}",
        name,
        f"{np.median([one.average_bits for one in found]):.2f}",
        f"{np.median([one.packed_bytes for one in found]) / 1000:.1f}",
        kl_cell(found),
        f"{ratio:.2f}",
        f"{100 * np.median([one.accuracy for one in found]):.2f}",
        _median([one.entry.cpu_seconds for one in found], ".1f") + (" (all)" if first.whole_front else ""),
        _median([one.entry.measurements for one in found], ".0f"),
        "" if first.lines is None else str(first.lines),
    ]


def kl_cell(found: Sequence[Judged]) -> str:
    """Test KL with its standard error, or over seeds its median and range."""
    values = [one.mean_kl for one in found]
    if len(found) == 1:
        return f"{values[0]:.2g} ± {found[0].kl_error:.1g}"
    return f"{np.median(values):.2g} ({min(values):.2g}–{max(values):.2g})"


def _median(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return f"{np.median(known):{form}}" if known else ""


def headline(budget: float, arms: Mapping[str, Sequence[Judged]]) -> str:
    """Whether a budget makes a headline, seed by seed: how we compare with the peer of the lowest test KL."""
    words = []
    for seed, mine in enumerate(arms[OURS]):
        rivals = {name: found[seed] for name, found in arms.items() if not name.startswith(OURS) and len(found) > seed}
        if not rivals:
            return f"{budget:g} bits: no peer answered."
        name = min(rivals, key=lambda rival: rivals[rival].mean_kl)
        best = rivals[name]
        p = mcnemar(mine, best)
        makes = best.mean_kl > HEADLINE_KL or p < HEADLINE_P
        words.append(
            f"{mine.mean_kl / best.mean_kl:.2f} of the best peer's KL ({name}, {best.mean_kl:.2g}; accuracies "
            f"{100 * mine.accuracy:.2f} and {100 * best.accuracy:.2f} %, p {p:.2g}){'' if makes else ', no headline'}"
        )
    return f"{budget:g} bits: " + "; ".join(words) + "."


def show_arms(table: str, title: str, contests: Sequence[Contest], budgets: Sequence[float], *remarks: str) -> None:
    """Prints table A, B or D of one network."""
    found = [contest.arms(table) for contest in contests]
    rows, verdicts = [], []
    for budget in budgets:
        arms = {name: [arms[name][budget] for arms in found if budget in arms[name]] for name in found[0]}
        complete = {name: judged for name, judged in arms.items() if len(judged) == len(contests)}
        rows += [row(budget, name, judged, arms[OURS]) for name, judged in complete.items()]
        if table != "D":
            verdicts += [headline(budget, complete), ""]
    show(
        f"{table}, {contests[0].task.name}: {title}",
        ["bits", "arm", "average", "packed kB", "test KL", "times ours", "accuracy %", "CPU s", "looked at", "lines"],
        rows,
        *verdicts,
        "",
        *remarks,
        seeds_remark(contests),
        "",
    )


def show_allocations(contests: Sequence[Contest], budgets: Sequence[float], tables: Sequence[str]) -> None:
    """Prints table C of one network, with the allocations of the arms of other tables."""
    found = [contest.in_one_quantizer(tables) for contest in contests]
    rows = []
    compared: list[Verdict] = []
    for budget in budgets:
        for name in found[0]:
            pairs = [(arms[OURS][budget], arms[name][budget]) for arms in found if budget in arms[name]]
            if not pairs:
                continue
            verdicts = [verdict_of(paired_interval(mine.kl, other.kl, mine.groups)) for mine, other in pairs]
            words = [verdict.word for verdict in verdicts]
            if name != OURS:
                compared += verdicts
            rows.append(
                [
                    f"{budget:g}",
                    name,
                    f"{np.median([other.average_bits for _, other in pairs]):.2f}",
                    kl_cell([other for _, other in pairs]),
                    "" if name == OURS else "; ".join(verdict.interval for verdict in verdicts),
                    "" if name == OURS else ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words))),
                ]
            )
    n_worse = sum(verdict.word == "worse" for verdict in compared)
    show(
        f"C, {contests[0].task.name}: every allocation in one quantizer with one correction",
        ["bits", "allocation of", "average", "test KL", "ours minus theirs (95 %)", "ours is"],
        rows,
        "rounding and correction, evo-mpq's default, whatever the allocation was made for. Paired by test sample.",
        seeds_remark(contests),
        f"Ours is worse in {n_worse} of {len(compared)} by single intervals; beyond chance (Holm's correction) in "
        f"{n_worse_beyond_chance(compared)}.",
    )


def seeds_remark(contests: Sequence[Contest]) -> str:
    """How many seeds, and what they say."""
    n, (inputs, _, _) = len(contests), contests[0].task.test
    accuracy = np.median([contest.judge.float_accuracy for contest in contests])
    said = (
        "One seed of training, split and search, so a first look only; ± is the standard error over test samples."
        if n == 1
        else f"Medians (and ranges) of {n} seeds of training, split and search."
    )
    return f"{said} {len(inputs):,} test samples, float accuracy {100 * accuracy:.2f} %."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(BUILDERS), choices=list(BUILDERS))
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds of training, split and search")
    parser.add_argument("--arms", nargs="+", default=list("ABCD"), choices=list("ABCD"), help="tables; C is of A and B")
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS), help="average bits of a weight")
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS, help="of every search of ours")
    parser.add_argument("--seeders", nargs="+", default=["sensitivity"], help="allocation methods alone in table D")
    arguments = parser.parse_args()
    for network in arguments.networks:
        contests = [
            Contest(network, seed, arguments.budgets, arguments.evaluations, arguments.seeders)
            for seed in range(arguments.seeds)
        ]
        own = f"{OURS}: one search of {arguments.evaluations} measurements serves all budgets."
        if "A" in arguments.arms:
            show_arms("A", "everybody's defaults", contests, arguments.budgets, own)
        if "B" in arguments.arms:
            show_arms("B", "each peer at its best documented setting", contests, arguments.budgets, own)
        if "C" in arguments.arms:
            tables = [table for table in PEERS if table in arguments.arms] or list(PEERS)
            show_allocations(contests, arguments.budgets, tables)
        if "D" in arguments.arms:
            show_arms("D", "evo-mpq taken apart", contests, arguments.budgets, own)


if __name__ == "__main__":
    main()
