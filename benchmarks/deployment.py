"""Does what is exported compute what was measured, how large is it, and how fast does it run?"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.presenting import show, spread
from evo_mpq.api import Run, run_config
from evo_mpq.config import find_space, load
from evo_mpq.errors import MismatchError
from evo_mpq.network.builtin.recipes import BUILT_IN
from evo_mpq.network.calling import tensors_of
from evo_mpq.plugins import name_mistakes
from evo_mpq.results.export import verification_path
from evo_mpq.results.export.files import aside
from evo_mpq.results.export.onnx.file import onnx_file
from evo_mpq.results.export.onnx.openvino_runtime import is_installed
from evo_mpq.results.export.onnx.writer import Options
from evo_mpq.space.policy import LayerPolicy, Policy

LARGEST_KL = 0.2
"""Points beyond it have lost what they were for: their predictions are near ties, which any rounding decides anew."""


def searched(network: str, evaluations: int, folder: Path) -> Run:
    """A run of the packaged joint space of a network: bits, channels and blocks; an earlier one is taken up again."""
    changes = [f"search.evaluations={evaluations}", "compute.workers=1"]
    config = load(
        find_space(f"{network}_joint"), [*changes, "objectives=[kl_divergence, size]"], checks=[name_mistakes]
    )
    run, _ = run_config(config, folder / network)
    return run


def spaced(members: Sequence[Any], n: int) -> list[Any]:
    """About ``n`` members, evenly over the front."""
    places = np.unique(np.linspace(0, len(members) - 1, n).round().astype(int))
    return [members[place] for place in places]


def exported(run: Run, member: Any, **options: Any) -> tuple[dict[str, Any], float]:
    """What the verification of a point says, whether or not it holds, and the CPU seconds with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "point.onnx"
        began = time.process_time()
        try:
            run.export(member, out=path, **options)
            found = path
        except MismatchError:
            found = aside(path)
        seconds = time.process_time() - began
        return json.loads(verification_path(found).read_text()), seconds


def verified(run: Run, network: str, n: int, *, openvino: bool) -> list[list[object]]:
    """Rows of the first table: each runtime for points that are of use, and for those that are not."""
    arms: dict[str, dict[str, Any]] = {
        "ONNX Runtime": {"runtimes": ("onnxruntime",)},
        "ONNX Runtime, --exact": {"runtimes": ("onnxruntime",), "exact": True},
    }
    if openvino and is_installed():
        arms["OpenVINO, the same file"] = {"runtimes": ("onnxruntime", "openvino")}
        arms["OpenVINO, its own file"] = {"runtimes": ("openvino",)}
    members = spaced(run.front.members, n)
    rows = []
    for arm, options in arms.items():
        found = [exported(run, member, **options) for member in members]
        for useful in (True, False):
            chosen = [
                (document, seconds)
                for member, (document, seconds) in zip(members, found, strict=True)
                if (member.search["kl_divergence"] <= LARGEST_KL) == useful
            ]
            if not chosen:
                continue
            checks = [[c for c in document["checks"] if arm.startswith(c["runtime"])] for document, _ in chosen]
            differences = [
                abs(c["found"] - c["shown"]) for each in checks for c in each if c["quantity"] == "kl_divergence"
            ]
            equal = [c["found"] for each in checks for c in each if c["quantity"] == "equal predictions"]
            bounds = [d["file_bytes"] / (1.10 * d["packed_bytes"] + d["graph_bytes"]) for d, _ in chosen]
            integer = [sum(k["integer"] for k in d["kernels"]) / max(1, len(d["kernels"])) for d, _ in chosen]
            rows.append(
                [
                    network,
                    arm,
                    f"{'≤' if useful else '>'} {LARGEST_KL}",
                    f"{sum(all(c['holds'] for c in each) for each in checks)} of {len(checks)}",
                    f"{max(differences):.2g}",
                    f"{min(equal):.4f}",
                    f"{max(bounds):.3f}",
                    spread(integer, ".0%"),
                    spread([seconds for _, seconds in chosen], ".1f"),
                ]
            )
    return rows


def uniform(run: Run, weight_bits: int, activation_bits: int) -> Policy:
    """The same bits everywhere."""
    return Policy(
        {
            site.name: LayerPolicy(
                weight_bits if site.kind != "product" else 32,
                activation_bits if site.kind == "product" or site.quantizes_input else 32,
            )
            for site in run._problem.network.sites()
        }
    )


def content(run: Run, policy: Policy, floats: bool = False, **options: Any) -> bytes:
    """The ONNX file of a policy."""
    compressor = run._problem.compressor
    compressor = compressor.without_edges() if floats else compressor
    return onnx_file(compressor, compressor.apply(policy), Options(**options), {}).content


def theirs(floats: Path, run: Run, names: Sequence[str]) -> bytes:
    """ONNX Runtime's own static quantization of the float file: uint8 x int8 per channel, same calibration split."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            batches = run._problem.network.splits.calibration.batches()
            self.all = iter([dict(zip(names, [x.numpy() for x in tensors_of(b.inputs)], strict=True)) for b in batches])

        def get_next(self) -> Any:
            return next(self.all, None)

    prepared, quantized = floats.with_name("prepared.onnx"), floats.with_name("theirs.onnx")
    quant_pre_process(str(floats), str(prepared), skip_symbolic_shape=True)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(prepared), str(quantized), Batches(), QuantFormat.QDQ, per_channel=True, **kinds)
    return quantized.read_bytes()


def session(file: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def fastest(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least CPU milliseconds of each, measured in turn, so that all see the same machine."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.thread_time()
            function()
            best[name] = min(best[name], 1000 * (time.thread_time() - began))
    return best


def latencies(run: Run, network: str, rounds: int) -> list[list[object]]:
    """Rows of the second table."""
    shape = run._problem.network.signature
    with tempfile.TemporaryDirectory() as folder:
        floats = Path(folder) / "float.onnx"
        floats.write_bytes(content(run, uniform(run, 32, 32), floats=True))
        names = [entry.name for entry in session(floats.read_bytes()).get_inputs()]
        files = {
            "float": floats.read_bytes(),
            "theirs, 8 bits": theirs(floats, run, names),
            "ours, 8 bits": content(run, uniform(run, 8, 8)),
            "ours, 4 bits": content(run, uniform(run, 4, 8)),
            "ours, 4 bits, A4": content(run, uniform(run, 4, 4)),
            "ours, W4A32": content(run, uniform(run, 4, 32), linear="nbits"),
        }
    loads = fastest({name: lambda file=file: session(file) for name, file in files.items()}, 5)
    runs: dict[int, dict[str, float]] = {}
    sessions = {name: session(file) for name, file in files.items()}
    for batch in (1, 32):
        inputs = {
            name: torch.randn(batch, *entry.shape[1:]).numpy()
            if entry.dtype.startswith("float")
            else np.random.default_rng(0).integers(0, 64, (batch, *entry.shape[1:]))
            for name, entry in zip(names, shape, strict=True)
        }
        runs[batch] = fastest(
            {name: lambda s=s, inputs=inputs: s.run(None, inputs) for name, s in sessions.items()}, rounds
        )
    return [
        [
            network,
            name,
            f"{len(file) / 1000:.0f}",
            f"{loads[name]:.1f}",
            *(f"{runs[b][name]:.3f} ({runs[b]['float'] / runs[b][name]:.2f}x)" for b in (1, 32)),
        ]
        for name, file in files.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(BUILT_IN), choices=list(BUILT_IN))
    parser.add_argument("--points", type=int, default=12, help="of each front")
    parser.add_argument("--evaluations", type=int, default=60, help="of each search")
    parser.add_argument("--rounds", type=int, default=100, help="of timing")
    parser.add_argument("--runs", type=Path, default=Path("runs/deployment"), help="folder of the searches")
    parser.add_argument("--no-openvino", action="store_true")
    arguments = parser.parse_args()
    found, timed = [], []
    for network in arguments.networks:
        run = searched(network, arguments.evaluations, arguments.runs)
        found += verified(run, network, arguments.points, openvino=not arguments.no_openvino)
        timed += latencies(run, network, arguments.rounds)
    show(
        "Does what is exported compute what was measured, and how large is it?",
        [
            "network",
            "runtime",
            "KL",
            "verified",
            "largest KL difference",
            "least equal predictions",
            "largest size / bound",
            "in integers",
            "CPU s a point",
        ],
        found,
        f"Points evenly over the fronts of {arguments.evaluations} measurements of the joint spaces (2-8 bits, pruned "
        "channels, dropped blocks), on the search and the test split. A size is bound by 1.10 x packed size + graph.",
    )
    show(
        "How fast are exported files in ONNX Runtime, one thread?",
        ["network", "file", "kB", "load, ms", "batch 1, ms", "batch 32, ms"],
        timed,
        f"Least CPU time of {arguments.rounds} interleaved rounds, and the speed-up over the float file. Theirs is "
        "ONNX Runtime's static quantization of the float file. W4A32 has 4-bit weights alone, linear layers in blocks.",
    )


if __name__ == "__main__":
    main()
