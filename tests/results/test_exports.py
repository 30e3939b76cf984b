"""What a user exports: files that were run before they got their name, and what is said where that cannot be."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from small_runs import NETS, command, front, run, write_project

from evo_mpq.api import Run
from evo_mpq.errors import ConfigError, ExportError, MismatchError
from evo_mpq.results.export import ExportOptions, exporting, verification_path, write_file
from evo_mpq.results.export.files import aside
from evo_mpq.results.export.onnx.onnx_runtime import OnnxRuntime

YAML = """
model: {kind: "my_nets:build"}
data: {kind: "my_data:load", batch_size: 16}
space: {defaults: {weight_bits: [2, 4, 8], activation_bits: [4, 8]}}
metrics: [accuracy]
search: {population: 6, evaluations: 18}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The directory of a small finished run."""
    folder = tmp_path_factory.mktemp("project")
    run(write_project(folder, YAML), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def opened(made):
    """The same as an object."""
    return Run.open(made)


def export(made: Path, out: Path, *words: object, code: int = 0):
    result = command("export", made, "--out", out, "--runtime", "onnxruntime", *words)
    assert result.exit_code == code, result.stderr
    return result


BLOCKING = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Nothing())
"""

WITHOUT_US = BLOCKING.replace("NAMES", str(("evo_mpq",)))
WITH_NOTHING_ELSE = (
    BLOCKING.replace("NAMES", str(("evo_mpq", "onnx", "torch")))
    + """
sys.argv = sys.argv[1:]
exec(compile(open(sys.argv[0]).read(), sys.argv[0], "exec"))
"""
)

LOADING = """
import torch
torch.set_num_threads(1)
program = torch.export.load(sys.argv[1]).module()
torch.save(program(torch.load(sys.argv[2])), sys.argv[3])
"""


class TestOnnx:
    def test_a_file_is_verified_described_and_runs_without_torch_or_this_package(self, made, opened, tmp_path):
        file = tmp_path / "point.onnx"
        result = export(made, file, "--pick", "knee")
        member = opened.pick("knee")
        assert re.search(r"ONNX Runtime +search +kl_divergence", result.stdout)
        assert re.search(r"ONNX Runtime +test +equal predictions +1 ", result.stdout)
        assert "integer kernels run 3 of 3 layers" in result.stderr
        metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        assert json.loads(metadata["evo-mpq.policy"]) == member.policy.to_json()
        assert json.loads(metadata["evo-mpq.search"]) == dict(member.search)
        assert metadata["evo-mpq.verification"].startswith("runtimes")
        assert onnx.load(file).producer_name == "evo-mpq" and onnx.load(file).producer_version
        document = json.loads(verification_path(file).read_text())
        assert document["holds"] and document["file_bytes"] == file.stat().st_size
        assert document["packed_bytes"] == member.search["size"]
        assert [kernel["name"] for kernel in document["kernels"]] == ["first", "second", "head"]
        inputs = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
        np.save(tmp_path / "inputs.npy", inputs.numpy())
        script = tmp_path / "predict.py"
        assert len(script.read_text().splitlines()) <= 20
        words = [
            sys.executable,
            "-c",
            WITH_NOTHING_ELSE,
            script,
            file,
            tmp_path / "inputs.npy",
            tmp_path / "outputs.npy",
        ]
        subprocess.run([str(word) for word in words], check=True, capture_output=True)
        wanted = opened.module(member)(inputs)
        found = torch.from_numpy(np.load(tmp_path / "outputs.npy"))
        assert float((found - wanted).abs().max()) < 0.1 * float(wanted.abs().max())

    def test_what_does_not_compute_what_the_front_shows_is_kept_aside(self, made, tmp_path, monkeypatch):
        file = tmp_path / "point.onnx"
        right = OnnxRuntime.__call__
        monkeypatch.setattr(OnnxRuntime, "__call__", lambda self, inputs: right(self, inputs).flip(1))
        result = export(made, file, code=1)
        assert "does not compute what the front shows" in result.stderr and "MISMATCH" in result.stderr
        kept = tmp_path / "point.mismatch.onnx"
        assert not file.exists() and kept.exists()
        assert not json.loads(verification_path(kept).read_text())["holds"]
        assert {path.name for path in tmp_path.iterdir()} == {kept.name, verification_path(kept).name}
        export(made, file, "--no-verify")
        metadata = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
        assert metadata["evo-mpq.verification"] == "none (--no-verify)" and not verification_path(file).exists()

    @pytest.mark.parametrize("moved", ["soft_kl_divergence", "accuracy"])
    def test_every_number_of_the_front_is_compared(self, opened, tmp_path, moved):
        member = opened.pick("knee")
        values = {**member.search, moved: member.search[moved] + 0.2}
        with pytest.raises(MismatchError, match=rf"search +{moved} .*MISMATCH"):
            exporting._verified(
                opened._origin(),
                type(member)(member.id, member.genome, member.policy, values, member.test),
                opened.module(member),
                tmp_path / "point.onnx",
                exporting._onnx(opened._origin(), member, opened.module(member), ExportOptions()),
            )

    def test_the_whole_front_is_exported_with_an_index(self, made, opened, tmp_path):
        export(made, tmp_path / "all", "--all", "--format", "onnx")
        index = json.loads((tmp_path / "all" / "index.json").read_text())
        assert [point["id"] for point in index["points"]] == [member.id for member in opened.front.members]
        for point in index["points"]:
            assert point["verified"] and (tmp_path / "all" / point["file"]).stat().st_size == point["bytes"]
        assert (tmp_path / "all" / "predict.py").exists()
        result = export(made, tmp_path / "all", "--all", "--format", "onnx", code=2)
        assert "exists; choose another folder by --out, or overwrite it by --force" in result.stderr

    def test_points_that_are_wrong_do_not_keep_the_others_from_the_folder(self, made, opened, tmp_path, monkeypatch):
        wrong = opened.front.members[0].id
        right = exporting._verified

        def verified(origin, member, *rest):
            if member.id == wrong:
                write_file(aside(rest[1]), b"draft")
                raise MismatchError(f"the file of {wrong} is wrong")
            return right(origin, member, *rest)

        monkeypatch.setattr(exporting, "_verified", verified)
        result = export(made, tmp_path / "all", "--all", "--format", "onnx", code=1)
        assert f"the file of {wrong} is wrong" in result.stderr
        points = json.loads((tmp_path / "all" / "index.json").read_text())["points"]
        assert [point["verified"] for point in points] == [point["id"] != wrong for point in points]

    def test_the_report_has_the_command_and_then_what_the_file_computes(self, made, opened, tmp_path):
        member = opened.pick("knee")
        assert f"--pick {member.id} --format onnx --out " in opened.report().read_text()
        opened.export(member, out=tmp_path / "shown.onnx", runtimes=("onnxruntime",))
        page = opened.report().read_text()
        assert "shown.onnx, " in page and "equal predictions on test: 1 in ONNX Runtime, 1 measured" in page

    def test_a_script_of_that_name_is_left_alone(self, made, tmp_path):
        (tmp_path / "predict.py").write_text("mine")
        result = export(made, tmp_path / "point.onnx")
        assert (tmp_path / "predict.py").read_text() == "mine" and "another script" in result.stderr

    def test_a_network_with_an_unknown_operation_is_refused_and_nothing_is_written(self, tmp_path):
        nets = NETS.replace("self.head(torch", "self.head(torch.special.i0e(torch").replace("(x)))))", "(x))))))")
        out = tmp_path / "out"
        run(write_project(tmp_path, YAML, my_nets=nets), out)
        result = export(out, tmp_path / "x" / "point.onnx", code=2)
        assert "the operation aten.special_i0e.default of the network itself" in result.stderr
        assert "Traceback" not in result.stderr and not (tmp_path / "x").exists()

    def test_without_its_packages_the_extra_is_named(self, made, tmp_path, monkeypatch):
        for missing in ("onnx", "onnxruntime"):
            with monkeypatch.context() as patch:
                patch.setitem(sys.modules, missing, None)
                result = export(made, tmp_path / "point.onnx", code=2)
                assert 'pip install "evo-mpq[onnx]"' in result.stderr
        assert not list(tmp_path.iterdir())


class TestTorch:
    def test_a_program_needs_torch_alone_and_has_the_same_outputs(self, made, opened, tmp_path):
        file = tmp_path / "point.pt2"
        result = export(made, file)
        assert re.search(r"torch.export +test +equal predictions +1 +1 ", result.stdout)
        inputs = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
        torch.save(inputs, tmp_path / "inputs.pt")
        script = tmp_path / "load.py"
        script.write_text(WITHOUT_US + LOADING)
        words = [sys.executable, script, file, tmp_path / "inputs.pt", tmp_path / "outputs.pt"]
        done = subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        wanted = opened.module("knee")(inputs)
        assert torch.allclose(
            torch.load(tmp_path / "outputs.pt"), wanted, rtol=0, atol=1e-6 * float(wanted.abs().max())
        )


class TestMistakes:
    @pytest.mark.parametrize("suffix", [".onnx", ".safetensors", ".pt2", ".json"])
    def test_a_file_that_is_there_is_only_overwritten_by_force(self, made, tmp_path, suffix):
        file = tmp_path / f"point{suffix}"
        file.write_text("mine")
        result = export(made, file, code=2)
        assert "exists; choose another file by --out, or overwrite it by --force" in result.stderr
        assert file.read_text() == "mine"
        export(made, file, "--force")
        assert file.stat().st_size > 100

    @pytest.mark.parametrize(
        ("pick", "said"),
        [("01234567", "is neither"), ("size<=1B", "the nearest is"), ("sizes<=1B", "is no value of the front")],
    )
    def test_what_is_not_on_the_front_is_told(self, made, tmp_path, pick, said):
        result = export(made, tmp_path / "point.onnx", "--pick", pick, code=2)
        assert said in result.stderr and "Traceback" not in result.stderr and not list(tmp_path.iterdir())

    def test_a_full_disk_leaves_nothing_half_written(self, made, tmp_path, monkeypatch):
        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        for name in ("point.onnx", "point.pt2"):
            result = export(made, tmp_path / name, code=2)
            assert "No space left on device" in result.stderr
        assert not list(tmp_path.iterdir())

    def test_a_damaged_run_is_told(self, made, tmp_path):
        copy = tmp_path / "out"
        copy.mkdir()
        for path in made.iterdir():
            if path.is_file():
                (copy / path.name).write_bytes(path.read_bytes())
        journal = (copy / "journal").read_bytes()
        (copy / "journal").write_bytes(journal[:200] + b"?" + journal[201:])
        result = export(copy, tmp_path / "point.onnx", code=2)
        assert "damaged" in result.stderr and not (tmp_path / "point.onnx").exists()

    def test_an_unfinished_run_exports_what_it_found_without_the_test_split(self, tmp_path):
        out, file = tmp_path / "out", tmp_path / "point.onnx"
        run(write_project(tmp_path, YAML), out)
        lines = (out / "journal").read_bytes().splitlines(keepends=True)
        whole = [i for i, line in enumerate(lines) if b'"measured"' in line]
        (out / "journal").write_bytes(b"".join(lines[: whole[-1]]))
        (out / "front.json").unlink()
        result = export(out, file)
        assert "not finished" in result.stderr
        assert {check["split"] for check in json.loads(verification_path(file).read_text())["checks"]} == {"search"}

    def test_options_that_do_not_exist_are_told(self, opened, tmp_path):
        with pytest.raises(ConfigError, match="there is no runtime 'tensorrt'"):
            opened.export(out=tmp_path / "x.onnx", runtimes=("tensorrt",))
        with pytest.raises(ConfigError, match="linear is qdq or nbits"):
            opened.export(out=tmp_path / "x.onnx", linear="int4")

    def test_from_python_it_is_the_same(self, opened, tmp_path):
        exported = opened.export("knee", out=tmp_path / "x.onnx", format="onnx", verify=True, runtimes=("onnxruntime",))
        assert exported.verification is not None and exported.verification.holds
        assert exported.verification.lines()[0].split()[:3] == ["runtime", "split", "value"]
        assert front(opened.path)["members"][0]["id"] == opened.front.members[0].id
        with pytest.raises(ExportError):
            raise ExportError("told like every other error of the package")
