from __future__ import annotations

import pytest
import torch

from evo_mpq.measure import devices
from evo_mpq.measure.devices import device_name, full_precision, why_unavailable


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", {"cuda": 2}.get)
    monkeypatch.setattr(devices, "_ACCELERATORS", ("cuda",))


def test_the_cpu_is_always_there() -> None:
    assert devices.devices()[0] == "cpu"
    assert why_unavailable("cpu") is None


def test_the_first_device_needs_no_number() -> None:
    assert [device_name(said) for said in ("auto", "cpu", "cuda", "cuda:0", "cuda:10")] == [
        "cpu", "cpu", "cuda", "cuda", "cuda:10",
    ]  # fmt: skip


def test_a_device_that_is_not_here_is_told_with_those_that_are(two_gpus: None) -> None:
    assert devices.devices() == ["cpu", "cuda", "cuda:1"]
    assert why_unavailable("cuda") is None and why_unavailable("cuda:1") is None
    why = why_unavailable("cuda:2")
    assert why is not None and why.startswith("cuda:2 cannot be used: torch") and "finds cuda, cuda:1 here" in why
    assert why_unavailable("mps") is not None


def test_without_accelerators_the_cpu_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: 0)
    why = why_unavailable("cuda")
    assert why is not None and why.endswith("finds no accelerator here; say auto or cpu")


def test_full_precision_ends_with_the_block() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    try:
        with full_precision("cuda"):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.deterministic
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before[0])
    assert torch.backends.cudnn.allow_tf32 == before[1]
