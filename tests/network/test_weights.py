from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from networks import untrained
from torch import nn

from evo_mpq.errors import NetworkError
from evo_mpq.network.weights import load_weights


def equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "checkpoint"])
def test_what_was_saved_is_loaded(tmp_path: Path, kind: str) -> None:
    saved, module = untrained("signals", 1), untrained("signals", 2)
    file = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(saved.state_dict(), file)
    else:
        torch.save({"state_dict": saved.state_dict(), "epoch": 3} if kind == "checkpoint" else saved.state_dict(), file)
    assert not equal(module, saved)
    load_weights(module, file)
    assert equal(module, saved)


def test_tensors_with_two_names_need_only_one_in_the_file(tmp_path: Path) -> None:
    # safetensors stores shared tensors once.
    saved, module = untrained("tied_tokens", 1), untrained("tied_tokens", 2)
    file = tmp_path / "net.safetensors"
    safetensors.torch.save_model(saved, str(file))
    assert len(safetensors.torch.load_file(file)) < len(saved.state_dict())
    load_weights(module, file)
    assert equal(module, saved)
    assert module.head.weight is module.embedding.weight  # type: ignore[union-attr]


def test_loading_keeps_the_type_of_the_module(tmp_path: Path) -> None:
    saved, module = untrained("signals", 1).half(), untrained("signals", 2)
    safetensors.torch.save_file(saved.state_dict(), tmp_path / "net.safetensors")
    load_weights(module, tmp_path / "net.safetensors")
    assert equal(module, saved.float())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"no weights file .*nowhere.safetensors"):
        load_weights(nn.Linear(1, 1), tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x04" + b"x" * 40])
def test_a_file_of_something_else_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NetworkError, match=r"cannot be read.*state_dict"):
        load_weights(nn.Linear(1, 1), tmp_path / name)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(1, 1), tmp_path / "net.pt")
    with pytest.raises(NetworkError, match="cannot be read"):
        load_weights(nn.Linear(1, 1), tmp_path / "net.pt")


def test_something_other_than_tensors_by_name_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "net.pt")
    with pytest.raises(NetworkError, match=r"holds a list.*module.state_dict"):
        load_weights(nn.Linear(1, 1), tmp_path / "net.pt")


def test_weights_of_another_network_are_told_apart(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "net.pt")
    with pytest.raises(NetworkError, match=r"size mismatch for weight"):
        load_weights(nn.Linear(3, 3), tmp_path / "net.pt")
    with pytest.raises(NetworkError, match=r'Missing key.*"0.weight".*Unexpected key.*"weight"'):
        load_weights(nn.Sequential(nn.Linear(2, 3)), tmp_path / "net.pt")
