"""Networks, data and metrics of the user's own, from the YAML to the file that is loaded again."""

from __future__ import annotations

import importlib
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_runs import command, findings, front, run, write_project

import evo_mpq
from evo_mpq.results.run_directory import RunDirectory

BERT = """
import torch
from transformers import BertConfig, BertForSequenceClassification

def build(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForSequenceClassification(BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=8, num_labels=3,
        ))
"""

TOKENS = """
import torch

class Sentences(torch.utils.data.Dataset):
    def __init__(self, seed, n=12):
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, 40, (n, 6), generator=generator)
        self.lengths = torch.randint(2, 7, (n,), generator=generator)
    def __len__(self):
        return len(self.tokens)
    def __getitem__(self, i):
        mask = (torch.arange(6) < self.lengths[i]).long()
        return {"input_ids": self.tokens[i], "attention_mask": mask}, int(self.tokens[i, 0] % 3)

def load():
    return {"calibration": Sentences(0), "search": Sentences(1), "test": Sentences(2)}
"""


def built(folder, module="my_nets", **options):
    """What ``build`` of a user's module makes, in a test that is no run."""
    sys.modules.pop(module, None)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module).build(**options)
    finally:
        sys.path.remove(str(folder))


def test_a_hugging_face_network_is_searched_exported_and_loaded(tmp_path):
    yaml = write_project(
        tmp_path,
        """
        model: {kind: "my_nets:build", output: logits}
        data: {kind: "my_data:load"}
        space: {defaults: {weight_bits: [3, 8]}, layers: {"bert.embeddings.*": {weight_bits: 8}}}
        search: {population: 4, evaluations: 10}
        """,
        my_nets=BERT,
        my_data=TOKENS,
    )
    out, file = tmp_path / "out", tmp_path / "point.safetensors"
    run(yaml, out)
    document = front(out)
    genes = [gene["name"] for gene in document["genes"]]
    assert "bert.encoder.layer.0.attention.self.query.weight_bits" in genes and "classifier.weight_bits" in genes
    assert not any("embeddings" in gene for gene in genes)
    assert set(document["members"][0]["test"]) == {"soft_kl_divergence", "kl_divergence", "accuracy"}
    member = document["members"][0]
    assert command("export", out, "--pick", member["id"], "--out", file).exit_code == 0
    assert file.stat().st_size == member["search"]["size"]
    loaded = evo_mpq.load(file, built(tmp_path, seed=5))
    batch = next(iter(torch.utils.data.DataLoader(sys.modules["my_data"].load()["search"], 12)))
    accuracy = (loaded(**batch[0]).argmax(1) == batch[1]).double().mean()
    assert float(accuracy) == member["search"]["accuracy"]


TWO_INPUTS = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(10, 6)
        self.conv = nn.Conv1d(6, 6, 3, padding=1, groups=2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(9, 4)

    def forward(self, words, *, numbers):
        x = self.conv(self.words(words).transpose(1, 2)).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return numbers, {"scores": self.head(torch.cat([x.mean(1), numbers], 1))}

def build(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Pair()

def call(net, inputs):
    words, numbers = inputs
    return net(words, numbers=numbers)[1]
"""

PAIRS = """
import torch

class Pairs(torch.utils.data.Dataset):
    def __init__(self, seed, n):
        generator = torch.Generator().manual_seed(seed)
        self.words = torch.randint(0, 10, (n, 5), generator=generator)
        self.numbers = torch.randn(n, 3, generator=generator)
        self.targets = torch.randint(0, 4, (n,), generator=generator)
        self.groups = [f"{seed}-{i // 4}" for i in range(n)]
    def __len__(self):
        return len(self.words)
    def __getitem__(self, i):
        return (self.words[i], self.numbers[i]), self.targets[i]

def load():
    return {"calibration": Pairs(0, 16), "search": Pairs(1, 16), "test": Pairs(2, 16)}
"""


def test_a_network_with_two_inputs_is_called_by_a_function_and_says_which_output_counts(tmp_path):
    yaml = write_project(
        tmp_path,
        """
        model: {kind: "my_nets:build", forward: "my_nets:call", output: scores}
        data: {kind: "my_data:load", batch_size: 8}
        space: {defaults: {weight_bits: [2, 4, 8], activation_bits: [8]}}
        search: {population: 4, evaluations: 12}
        """,
        my_nets=TWO_INPUTS,
        my_data=PAIRS,
    )
    out, file = tmp_path / "out", tmp_path / "point.safetensors"
    run(yaml, out)
    document = front(out)
    names = [gene["name"].removesuffix(".weight_bits") for gene in document["genes"]]
    assert names == ["words", "conv", "attention.in_proj", "attention.out_proj", "head"]
    assert command("export", out, "--out", file).exit_code == 0
    other = built(tmp_path, seed=3)
    with pytest.raises(evo_mpq.errors.PackedFileError, match=r"my_nets:call.*forward="):
        evo_mpq.load(file, other)
    loaded = evo_mpq.load(file, other, forward=sys.modules["my_nets"].call)
    search = sys.modules["my_data"].load()["search"]
    accuracy = (loaded((search.words, search.numbers)).argmax(1) == search.targets).double().mean()
    knee = command("report", out).stdout.split(" knee")[0].split()[-1]
    member = next(member for member in document["members"] if member["id"] == knee)
    assert float(accuracy) == member["search"]["accuracy"]


def test_intervals_are_clustered_by_the_groups_of_a_dataset(tmp_path):
    settings = """
        model: {kind: "my_nets:build", forward: "my_nets:call", output: scores}
        data: {kind: "my_data:load", batch_size: 8}
        space: {defaults: {weight_bits: [2, 8]}}
        search: {population: 4, evaluations: 6}
        """
    fronts = {}
    for name, text in (("grouped", PAIRS), ("alone", PAIRS.replace("self.groups", "self.labels"))):
        yaml = write_project(tmp_path / name, settings, my_nets=TWO_INPUTS, my_data=text)
        run(yaml, tmp_path / name / "out")
        fronts[name] = front(tmp_path / name / "out")["reference"]["test"]["accuracy"]
    assert fronts["grouped"]["value"] == fronts["alone"]["value"]
    assert fronts["grouped"]["high"] != fronts["alone"]["high"]


def test_trained_weights_are_read_from_a_file_in_the_yamls_folder(tmp_path):
    yaml = write_project(tmp_path)
    run(yaml, tmp_path / "built", "--set", "model.seed=7")
    save_file(built(tmp_path, seed=7).state_dict(), tmp_path / "trained.safetensors")
    run(yaml, tmp_path / "loaded", "--set", "model.weights=trained.safetensors")
    assert findings(tmp_path / "loaded") == findings(tmp_path / "built")


def test_arrays_in_a_file_are_data_relative_to_the_yaml(tmp_path):
    chance = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", x=chance.normal(size=(60, 6)), y=chance.integers(0, 4, 60))
    yaml = write_project(
        tmp_path,
        """
        model: {kind: "my_nets:build"}
        data: {kind: arrays, path: samples.npz, calibration: 20}
        space: {defaults: {weight_bits: [2, 8]}}
        search: {population: 4, evaluations: 6}
        """,
    )
    run(yaml, tmp_path / "out")
    assert front(tmp_path / "out")["finished"]
    message = run(yaml, tmp_path / "other", "--set", "data.path=sample.npz", code=2).stderr
    assert "sample.npz" in message and str(yaml) in message


def test_images_in_folders_of_classes_are_data_that_may_be_moved_but_not_changed(tmp_path):
    image = pytest.importorskip("PIL.Image")
    chance = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    yaml = write_project(
        tmp_path,
        """
        model: {kind: "my_nets:build"}
        data: {kind: image_folder, path: images, resize: 4, calibration: 6, mean: 0.5, std: 0.25}
        space: {defaults: {weight_bits: [2, 8]}}
        search: {population: 4, evaluations: 6}
        """,
        my_nets="""
        import torch
        from torch import nn
        def build():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        """,
    )
    run(yaml, tmp_path / "out")
    assert front(tmp_path / "out")["finished"]
    moved = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-moved"))
    for name in ("images", "my_nets.py"):
        shutil.move(tmp_path / name, tmp_path / f"old {name}")
    file = moved / "point.safetensors"
    assert command("export", tmp_path / "out", "--base", moved, "--out", file).exit_code == 0
    (moved / "images" / "cat" / "0.png").touch()
    message = run(moved / "tiny.yaml", tmp_path / "out", code=2).stderr
    assert "fingerprints.data" in message and message.count("fingerprints") == 1


def test_a_torchmetrics_metric_is_an_objective_without_a_wrapper(tmp_path):
    yaml = write_project(tmp_path)
    objective = '{kind: "torchmetrics.classification:MulticlassF1Score", num_classes: 4, name: f1}'
    run(yaml, tmp_path / "out", "--set", f"objectives=[{objective}, size]", "--set", "search.evaluations=10")
    document = front(tmp_path / "out")
    assert document["objectives"][0] == {
        "name": "f1", "unit": "", "direction": "maximize", "kind": "measured", "scale": "linear",
    }  # fmt: skip
    assert 0 < document["members"][0]["search"]["f1"] < 1 and document["members"][0]["test"]["f1"]["low"] is None


def test_the_divergence_is_measured_on_mixed_pairs_where_that_is_asked_for(tmp_path):
    yaml = write_project(tmp_path)
    objectives = "objectives=[{kind: kl_divergence, mix: 20}, {kind: kl_divergence, name: plain}, size]"
    run(yaml, tmp_path / "out", "--set", objectives)
    members = front(tmp_path / "out")["members"]
    assert all(member["search"]["kl_divergence"] != member["search"]["plain"] for member in members)
    assert all(member["test"]["kl_divergence"]["low"] is not None for member in members)


SHIFTED = """
import torch
from evo_mpq.measure.objectives import SampleMean

class Shifted:
    name, unit, direction = "shifted", "", "minimize"
    def __init__(self, by=3.0):
        self.by = by
    def inputs(self, split):
        return [(batch.inputs + self.by, batch.targets) for batch in split.batches()]
    def start(self):
        return SampleMean(lambda outputs, batch: (outputs - batch.reference).square().mean(dim=1))
"""


def test_an_objective_may_measure_on_inputs_of_its_own(tmp_path):
    yaml = write_project(tmp_path, my_objectives=SHIFTED)
    objectives = 'objectives=[mean_squared_error, {kind: "my_objectives:Shifted", by: 2}]'
    run(yaml, tmp_path / "out", "--set", objectives, "--set", "search.evaluations=10")
    members = front(tmp_path / "out")["members"]
    assert all(member["search"]["shifted"] != member["search"]["mean_squared_error"] for member in members)
    zero = objectives.replace("by: 2", "by: 0")
    run(yaml, tmp_path / "same", "--set", zero, "--set", "search.evaluations=10")
    for member in front(tmp_path / "same")["members"]:
        assert member["search"]["shifted"] == pytest.approx(member["search"]["mean_squared_error"])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("[(batch.inputs[:, :3], None) for batch in split.batches()]", "RuntimeError"),
        (
            "[(batch.missing, None) for batch in split.batches()]",
            r"no attribute 'missing' \(.*my_objectives.py, line 10\)",
        ),
        ("[]", "brings no inputs for the search split"),
    ],
)
def test_inputs_of_an_objective_that_cannot_be_used_are_told_where_it_is_named(tmp_path, inputs, said):
    text = SHIFTED.replace("[(batch.inputs + self.by, batch.targets) for batch in split.batches()]", inputs)
    yaml = write_project(tmp_path, my_objectives=text)
    yaml.write_text(yaml.read_text() + 'objectives: [size, {kind: "my_objectives:Shifted"}]\n')
    message = run(yaml, tmp_path / "out", code=2).stderr
    assert f"{yaml}:5:13: objectives: " in message and re.search(said, message)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    """A run of the packaged search space of digits_resnet, which trains the network if no test did before."""
    out = tmp_path_factory.mktemp("digits") / "out"
    result = command("run", "digits_resnet_activations", "--out", out, "--set", "search.evaluations=80")
    assert result.exit_code == 0, result.stderr
    return out


def test_a_packaged_search_finds_points_that_are_small_and_as_good_as_the_network(digits_run):
    document = front(digits_run)
    test = document["reference"]["test"]["accuracy"]["value"]
    assert test >= 0.97
    float_size = document["reference"]["search"]["size"]
    small = [member for member in document["members"] if member["search"]["size"] <= float_size / 6]
    assert max(member["search"]["accuracy"] for member in small) >= document["reference"]["search"]["accuracy"] - 0.02
    assert all(seed["feasible"] for seed in document["seeds"])
    assert len([seed for seed in document["seeds"] if seed["name"].startswith("uniform")]) == 14


def test_what_is_exported_of_a_packaged_search_is_what_was_measured(digits_run, tmp_path):
    file = tmp_path / "small.safetensors"
    assert command("export", digits_run, "--out", file).exit_code == 0
    from evo_mpq.network.builtin.digits_models import BUILDERS
    from evo_mpq.network.data.kinds import digits

    loaded = evo_mpq.load(file, BUILDERS["digits_resnet"]())
    images, targets = digits()["search"].tensors
    outputs = torch.cat([loaded(part) for part in images.split(256)])
    member = RunDirectory(digits_run).read_front().knee
    assert member.search["size"] == file.stat().st_size
    assert float((outputs.argmax(1) == targets).double().mean()) == member.search["accuracy"]
    assert RunDirectory(digits_run).read_journal().reference() is not None
