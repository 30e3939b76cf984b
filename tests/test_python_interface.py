"""The search from Python: the same front as from a YAML, objects in the place of names, and nothing left behind."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from small_runs import DATA, NETS, command, findings, front, run, write_project
from torch import nn

import evo_mpq
from evo_mpq import api
from evo_mpq.api import SplitsInMemory
from evo_mpq.config import object_name, validate
from evo_mpq.console import ConsoleReporter
from evo_mpq.errors import ConfigError, RunError
from evo_mpq.measure.executors import InProcess, Processes
from evo_mpq.measure.objectives import SampleMean
from evo_mpq.problem import build_problem
from evo_mpq.reporters import Logged, Silent
from evo_mpq.results.run_directory import RunDirectory
from evo_mpq.session import start_executor

SPACE = {"defaults": {"weight_bits": [2, 3, 4, 8]}}


def namespace(text):
    """What a module of that text holds."""
    found: dict = {}
    exec(text, found)
    return found


build, load = namespace(NETS)["build"], namespace(DATA)["load"]


@pytest.fixture
def search(tmp_path):
    """The tiny search, with any arguments changed."""

    def search_tiny(model=None, **changes):
        arguments = {
            **load(),
            "batch_size": 16,
            "space": SPACE,
            "population": 6,
            "evaluations": 24,
            "out": tmp_path / "out",
            "quiet": True,
        }
        return evo_mpq.search(build() if model is None else model, **{**arguments, **changes})

    return search_tiny


def state_of(module):
    """Everything of a module that a search could leave changed."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.requires_grad} {tensor.grad} {tensor.data_ptr()}".encode())
        digest.update(tensor.detach().numpy().tobytes())
    modules = {
        name: (child.training, {**vars(child), "_parameters": None, "_buffers": None}.keys(), len(child._forward_hooks))
        for name, child in module.named_modules()
    }
    return digest.hexdigest(), modules


def test_python_and_yaml_give_the_same_front_bit_for_bit_however_often_they_are_called(tmp_path, search):
    run(write_project(tmp_path), tmp_path / "yaml")
    first = search(out=tmp_path / "first")
    torch.manual_seed(77)
    random.seed(77)
    second = search(out=tmp_path / "second")
    assert findings(tmp_path / "first") == findings(tmp_path / "second") == findings(tmp_path / "yaml")
    assert first.front.members == second.front.members and first.finished
    journals = [RunDirectory(tmp_path / name).read_journal() for name in ("first", "yaml")]
    for mine, yamls in zip(*(journal.rows() for journal in journals), strict=True):
        assert str(mine) == str(yamls)


def test_the_defaults_of_search_are_those_of_a_yaml():
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(evo_mpq.search).parameters.items()
        if parameter.default not in (inspect.Parameter.empty, None)
    }
    settings = validate({"model": build, "data": load})
    assert defaults.pop("name") == settings.name and defaults.pop("seed") == settings.seed
    assert defaults.pop("batch_size") == settings.data.batch_size
    assert defaults.pop("correction") == settings.correction and defaults.pop("constraints") == settings.constraints
    assert defaults.pop("algorithm") == settings.search.algorithm and defaults.pop("picks") == settings.search.picks
    assert defaults == {"yes": False, "quiet": False}


@pytest.mark.parametrize("training", [True, False])
def test_the_users_module_is_never_modified(search, training):
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 4))
    module.get_buffer("1.running_mean").uniform_(-1, 1)
    module[0].weight.requires_grad_(False)
    module.train(training)
    before, kept = state_of(module), copy.deepcopy(module)
    found = search(module)
    found.module()
    found.export(out=found.path / "point.safetensors")
    evo_mpq.load(found.path / "point.safetensors", module)
    assert state_of(module) == before
    inputs = load()["search"].tensors[0]
    module.eval(), kept.eval()
    assert torch.equal(module(inputs), kept(inputs))


def test_nothing_of_the_callers_process_is_left_changed(search):
    torch.set_num_threads(2)
    try:
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002 - the old global generator is what must be left alone
        random.seed(3)

        def surroundings():
            return (
                torch.get_num_threads(),
                torch.is_grad_enabled(),
                torch.get_rng_state().tolist(),
                np.random.get_state()[1].tolist(),  # type: ignore[index]  # noqa: NPY002
                random.getstate(),
                [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
                Path.cwd(),
                list(sys.path),
                sys.stdout,
                sys.stderr,
            )

        before = surroundings()
        found = search()
        found.module()
        found.export(out=found.path / "point.safetensors")
        assert surroundings() == before
    finally:
        torch.set_num_threads(1)


def test_the_arguments_are_not_altered(search):
    arguments = {
        "space": {"defaults": {"weight_bits": [2, 4]}},
        "objectives": [{"kind": "size"}],
        "compute": {"threads": 1},
    }
    kept = copy.deepcopy(arguments)
    search(**arguments, evaluations=6)
    assert arguments == kept


class MeanLogit:
    """An objective of outputs with values per sample."""

    name, unit, direction = "mean logit", "", "minimize"

    def start(self):
        return SampleMean(lambda outputs, batch: outputs[:, 0].double())


class OnOwnInputs:
    """Agreement with the float network on inputs of its own."""

    name, unit, direction = "shift", "", "minimize"

    def __init__(self):
        self.splits: list[str] = []

    def inputs(self, split):
        self.splits.append(split.name)
        generator = torch.Generator().manual_seed(len(split.name))
        return [(torch.randn(n, 6, generator=generator), None) for n in (7, 3)]

    def start(self):
        return SampleMean(lambda outputs, batch: (outputs - batch.reference).square().mean(dim=1))


def weights_in_first_layer(candidate):
    return candidate.layers[0].weight_bits * candidate.layers[0].n_parameters


weights_in_first_layer.direction = "minimize"  # type: ignore[attr-defined]


def own_evaluation(candidate):
    inputs, targets = load()["search"].tensors
    return float((candidate.module()(inputs).argmax(1) == targets).double().mean())


def test_objects_stand_where_names_do(search):
    shifted = OnOwnInputs()
    found = search(
        objectives=[
            "kl_divergence",
            MeanLogit(),
            shifted,
            weights_in_first_layer,
            torchmetrics.classification.MulticlassF1Score(num_classes=4),
            {"kind": own_evaluation, "direction": "maximize", "name": "own"},
        ],
        metrics=["accuracy"],
        constraints=["mean logit <= 100"],
    )
    kinds = {column.name: (column.kind, column.direction) for column in found.front.objectives}
    assert kinds == {
        "kl_divergence": ("measured", "minimize"),
        "mean logit": ("measured", "minimize"),
        "shift": ("measured", "minimize"),
        "weights_in_first_layer": ("exact", "minimize"),
        "MulticlassF1Score": ("measured", "maximize"),
        "own": ("measured", "maximize"),
    }
    inputs, targets = load()["search"].tensors
    own = shifted.inputs(type("Split", (), {"name": "search"}))
    assert set(shifted.splits) == {"search", "test"}
    f1 = torchmetrics.classification.MulticlassF1Score(num_classes=4)
    for member in found.front.members[:3]:
        module = found.module(member)
        outputs = torch.cat([module(part) for part in inputs.split(16)])
        assert member.search["mean logit"] == float(np.mean(outputs[:, 0].double().numpy()))
        assert member.search["MulticlassF1Score"] == pytest.approx(float(f1(outputs, targets)))
        assert member.search["own"] == pytest.approx(member.search["accuracy"])
        differences = [(module(part) - build()(part).detach()).square().mean(dim=1) for part, _ in own]
        assert member.search["shift"] == pytest.approx(float(torch.cat(differences).mean()), rel=1e-4)
        assert member.test["MulticlassF1Score"] is not None and member.test["MulticlassF1Score"].low is None
        assert member.test["shift"] is not None and member.test["shift"].low is not None


def test_a_model_may_be_said_as_in_a_yaml_and_called_through_a_function(search):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = build()

        def forward(self, x, scale):
            return {"logits": self.net(x) * scale, "x": x}

    plain = search(evaluations=8)
    adapted = search(
        Scaled(), forward=lambda net, x: net(x, 1.0), output="logits", evaluations=8, out=plain.path / "adapted"
    )
    assert [member.search for member in adapted.front.members] == [
        {**member.search, "size": adapted.front.members[i].search["size"]}
        for i, member in enumerate(plain.front.members)
    ]
    mapping = search({"kind": build, "seed": 0}, evaluations=8, out=plain.path / "mapping")
    assert mapping.front.members == plain.front.members


def test_the_same_call_resumes_and_a_finished_run_is_not_measured_again(search):
    found = search()
    journal = (found.path / "journal").read_bytes()
    again = search()
    assert again.front == found.front and (found.path / "journal").read_bytes() == journal
    larger = search(evaluations=40)
    assert larger.front.measurements == 39
    with pytest.raises(RunError, match="seed: 0 -> 1"):
        search(seed=1)
    with pytest.raises(RunError, match=r"fingerprints\.weights"):
        search(build(seed=5))


def test_an_interrupted_search_keeps_everything_and_goes_on_with_the_same_call(search, tmp_path):
    def interrupt_once(candidate):
        if not (tmp_path / "was interrupted").exists() and candidate.layers[0].weight_bits == 8:
            (tmp_path / "was interrupted").touch()
            os.kill(os.getpid(), signal.SIGINT)
        return float(sum(layer.weight_bits for layer in candidate.layers))

    def cost(candidate):
        candidate.module()
        return interrupt_once(candidate)

    objectives = ["kl_divergence", {"kind": cost, "direction": "minimize"}]
    with pytest.raises(KeyboardInterrupt, match="the same call with out="):
        search(objectives=objectives)
    assert not front(tmp_path / "out")["finished"] and 0 < front(tmp_path / "out")["measurements"] < 23
    resumed = search(objectives=objectives)
    whole = search(objectives=objectives, out=tmp_path / "whole")
    assert resumed.front.members == whole.front.members


def test_what_does_not_pickle_is_measured_in_this_process(tmp_path):
    class Here:
        name, unit, direction = "here", "", "minimize"

        def start(self):
            return SampleMean(lambda outputs, batch: outputs[:, 0].double())

    def started(*objectives):
        values = {"model": build, "data": load, "space": SPACE, "objectives": list(objectives)}
        problem = build_problem(validate(values))
        said = Logged(Silent(), RunDirectory(tmp_path))
        executor = start_executor(problem, 2, said)
        executor.close()
        return type(executor), said.notes

    called = {"kind": lambda candidate: 1.0, "direction": "minimize", "name": "called"}
    assert started("kl_divergence", called) == (Processes, [])
    kind, notes = started(Here())
    assert kind is InProcess and notes == ["here cannot be sent to other processes; measuring in this one"]


def on_an_accelerator(monkeypatch, **compute):
    """The problem of a search on an accelerator that is not here."""
    monkeypatch.setattr("evo_mpq.problem.why_unavailable", lambda device: None)
    values = {"model": build, "data": load, "space": SPACE, "objectives": ["kl_divergence"]}
    return build_problem(validate({**values, "compute": {"device": "cuda:0", **compute}}))


def test_one_process_measures_on_an_accelerator(tmp_path, monkeypatch):
    problem = on_an_accelerator(monkeypatch)
    assert problem.device == problem.identity()["compute"]["device"] == "cuda" and problem.notes == ()
    started = []
    monkeypatch.setattr("evo_mpq.session.InProcess", lambda *arguments: started.append(arguments[-1]))
    for workers in (1, "auto"):
        start_executor(problem, workers, Logged(Silent(), RunDirectory(tmp_path)))
    assert started == ["cuda", "cuda"]
    with pytest.raises(ConfigError, match=r"compute\.workers: one process measures on cuda.* not 2"):
        on_an_accelerator(monkeypatch, workers=2)


def test_a_note_says_that_candidates_go_one_by_one_on_an_accelerator(monkeypatch):
    monkeypatch.setattr("evo_mpq.problem.find_sample_axes", lambda *_: "relu mixes samples")
    (note,) = on_an_accelerator(monkeypatch).notes
    assert note == "candidates are measured one by one on cuda, which is slow: relu mixes samples"


def test_a_search_may_run_in_another_thread(search):
    found = []
    thread = threading.Thread(target=lambda: found.append(search(evaluations=6)))
    thread.start()
    thread.join()
    assert found[0].finished


def test_a_run_looks_picks_reports_and_exports(search, tmp_path):
    found = search()
    assert repr(found) == f"<Run in {tmp_path / 'out'}, finished: {len(found.front.members)} points on the front>"
    assert found.report() == tmp_path / "out" / "report.html" and found.report().exists()
    size = sorted(member.search["size"] for member in found.front.members)[2]
    member = found.pick(f"size<={size}")
    assert found.pick(member.id) == member and found.pick("knee") == found.front.knee
    found.export(member, out=tmp_path / "a.safetensors")
    found.export(f"size<={size}", out=tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert (tmp_path / "a.safetensors").stat().st_size == member.search["size"]
    found.export(member, out=tmp_path / "policy.json")
    assert json.loads((tmp_path / "policy.json").read_text())["id"] == member.id
    with pytest.raises(ConfigError, match="there is no format 'tflite'"):
        found.export(out=tmp_path / "c", format="tflite")  # type: ignore[arg-type]
    page = found.report().read_text()
    found.report().unlink()
    assert found.write_report().read_text() == page
    inputs = load()["search"].tensors[0]
    loaded = evo_mpq.load(tmp_path / "a.safetensors", build(seed=9))
    assert torch.equal(loaded(inputs), found.module(member)(inputs))


def test_without_out_the_run_lies_in_a_folder_of_its_own(search):
    found = search(out=None, evaluations=6)
    assert (found.path / "front.json").exists() and found.path.name.startswith("evo-mpq-")


LOADING = """
import json, sys
import numpy as np, torch, evo_mpq
sys.path.insert(0, sys.argv[1])
import my_data, my_nets
torch.set_num_threads(1)
module = evo_mpq.load(sys.argv[2], my_nets.build(seed=123))
inputs, targets = my_data.load()["search"].tensors
outputs = torch.cat([module(part) for part in inputs.split(16)])
accuracy = float(np.mean((outputs.argmax(1) == targets).double().numpy()))
print(json.dumps([accuracy, float(np.mean(outputs[:, 0].double().numpy()))]))
"""


def test_a_file_loaded_in_a_fresh_process_into_other_weights_gives_the_numbers_of_the_front_exactly(search, tmp_path):
    found = search(objectives=["accuracy", MeanLogit(), "size"])
    write_project(tmp_path / "theirs")
    member = found.front.members[0]
    found.export(member, out=tmp_path / "point.safetensors")
    words = [sys.executable, "-c", LOADING, tmp_path / "theirs", tmp_path / "point.safetensors"]
    answer = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert answer == [member.search["accuracy"], member.search["mean logit"]]


def test_what_cannot_be_loaded_is_told(search, tmp_path):
    found = search(evaluations=6)
    found.export(out=tmp_path / "point.safetensors")
    with pytest.raises(evo_mpq.errors.PackedFileError, match="was made of another network"):
        evo_mpq.load(tmp_path / "point.safetensors", nn.Sequential(nn.Linear(6, 4)))
    with pytest.raises(RunError, match="cannot be read: No such file"):
        evo_mpq.load(tmp_path / "nothing.safetensors", build())


def test_a_run_of_objects_cannot_be_opened_by_the_commands_and_says_what_to_do(search):
    found = search(evaluations=6)
    config = (found.path / "config.yaml").read_text()
    assert object_name(SplitsInMemory) in config
    for words in (["report"], ["export", "--out", "x.safetensors"], ["report", "--base", "."]):
        result = command(*words, found.path)
        assert result.exit_code == 2 and "was started from Python with objects" in result.stderr
        assert "run.export" in result.stderr and "out=" in result.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"layers": {"frist": {"weight_bits": [2, 4]}}}}, r'space\.layers\.frist: matches no layer.*"first"'),
        ({"objectives": ["klx"]}, r"objectives\[0\]\.kind: there is no objective"),
        ({"objectives": [own_evaluation]}, r"objectives\[0\]\.direction: required"),
        ({"constraints": ["size < 3"]}, r"constraints\[0\]: "),
        ({"population": 1}, r"search\.population: must be at least 2"),
        ({"test": []}, "data: The test split is empty"),
        ({"model": "a text"}, r"model\.kind: there is no network"),
        ({"model": nn.ReLU()}, "model: .*no layer that can be quantized"),
        ({"compute": {"device": "cuda:99"}}, r"compute\.device: cuda:99 cannot be used"),
    ],
)
def test_mistakes_from_python_name_the_key(search, changes, said):
    with pytest.raises(ConfigError, match=said):
        search(**changes)


def test_a_misspelt_argument_is_pythons_own_error(search):
    with pytest.raises(TypeError, match="evaluation"):
        search(evaluation=3)


def test_a_large_enumeration_is_refused_from_python_too(search, monkeypatch):
    monkeypatch.setattr("evo_mpq.enumeration.PATIENCE_SECONDS", 1e-6)
    with pytest.raises(ConfigError, match="yes=True"):
        search(algorithm="exhaustive", evaluations=None)
    assert search(algorithm="exhaustive", evaluations=None, yes=True).front.measurements == 64


def test_more_workers_than_one_need_a_script_with_a_main_guard(search, tmp_path, monkeypatch):
    def main_of(text):
        file = tmp_path / "script.py"
        file.write_text(text)
        spec = importlib.util.spec_from_file_location("__main__", file)
        assert spec is not None
        monkeypatch.setitem(sys.modules, "__main__", importlib.util.module_from_spec(spec))

    main_of("import evo_mpq\nrun = evo_mpq.search()\n")
    askings: list[dict] = [{"workers": 2}, {"compute": {"workers": 2}}, {"compute": {"workers": "auto"}}]
    for asking in askings:
        with pytest.raises(ConfigError) as refused:
            search(**asking)
        lines = str(refused.value).splitlines()
        assert lines[-1].strip() == 'if __name__ == "__main__": main()' and len(lines) == 4
    main_of('if __name__ == "__main__":\n    pass\n')
    assert api._has_main_guard(tmp_path / "script.py")
    monkeypatch.delattr(sys.modules["__main__"], "__file__")
    with pytest.raises(ConfigError, match="a notebook or an interactive session has none"):
        search(workers=2)


SCRIPT = """
import evo_mpq, my_data, my_nets

def main():
    run = evo_mpq.search(
        my_nets.build(), **my_data.load(), batch_size=16, space={"defaults": {"weight_bits": [2, 3, 4, 8]}},
        population=6, evaluations=24, out="out", workers=2, quiet=True,
    )
    print(len(run.front.members))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_script_with_a_main_guard_may_have_workers(search, tmp_path):
    write_project(tmp_path)
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, capture_output=True)
    workers = findings(tmp_path / "out")
    search(out=tmp_path / "alone")
    assert findings(tmp_path / "alone") == workers


def test_progress_is_lines_where_no_line_can_be_overwritten_and_nothing_when_quiet(search, capsys):
    search(quiet=False, evaluations=6, seeds=["uniform"])
    shown = capsys.readouterr()
    assert "tracing the network" in shown.err and "measuring the uncompressed network" in shown.err and not shown.out
    search(evaluations=6, seeds=["uniform"])
    shown = capsys.readouterr()
    assert all(line.startswith("note: ") for line in shown.err.splitlines()) and not shown.out
    ConsoleReporter(quiet=True).note("[red]kept as it is")
    assert "note: [red]kept as it is" in capsys.readouterr().err
