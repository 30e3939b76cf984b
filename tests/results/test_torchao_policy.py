"""A policy for torchao: what torchao makes of it, and what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import networks
import pytest
import torch

from evo_mpq.errors import ExportError
from evo_mpq.results.export.torchao_policy import torchao_document, weight_bits
from evo_mpq.results.front import Member
from evo_mpq.space.policy import LayerPolicy, Policy


def member_of(name: str, bits: int, activation_bits: int = 32, **others) -> Member:
    layers = {
        site.name: LayerPolicy(bits if site.kind != "product" else 32, activation_bits, **others)
        for site in networks.network_of(name).sites()
    }
    return Member("1a2b3c4d", (), Policy(layers), {}, {})


def test_torchao_gives_each_layer_its_bits():
    pytest.importorskip("torchao")
    from torchao.core.config import config_from_dict
    from torchao.quantization import quantize_

    compressor = networks.compressor_of("digits_mlp", edges=None)
    names = [layer.name for layer in compressor.network.layers]
    bits = dict(zip(names, (2, 3, 4, 8, 32, 4), strict=True))
    member = Member("1a2b3c4d", (), Policy({n: LayerPolicy(b, 32) for n, b in bits.items()}), {}, {})
    module = networks.untrained("digits_mlp")
    module.load_state_dict(networks.module_of("digits_mlp").state_dict())
    quantize_(module, config_from_dict(json.loads(torchao_document(member, compressor))), filter_fn=None)
    weights: dict[str, Any] = {name: module.get_submodule(name).weight for name in names}
    for name, n in bits.items():
        if n == 32:
            assert type(weights[name]) is torch.nn.Parameter
        else:
            row = weights[name].dequantize()[0]
            assert 2 < len(row.unique()) + 1 <= 2**n + 1
    batch = next(iter(compressor.network.splits.search.batches()))
    assert torch.isfinite(module.eval()(batch.inputs)).all()


@pytest.mark.parametrize(
    ("name", "edges", "how", "reason"),
    [
        ("digits_mlp", 8, {}, "activations between layers are quantized"),
        ("digits_mlp", None, {"activation_bits": 8}, "has 8 bits in a fixed range"),
        ("digits_mlp", None, {"prune_ratio": 0.5}, "are pruned"),
        ("digits_resnet", None, {}, "stem is no nn.Linear"),
    ],
)
def test_what_it_has_no_counterpart_for_is_refused(name, edges, how, reason):
    with pytest.raises(ExportError, match=f"1a2b3c4d does not fit torchao: .*{reason}"):
        weight_bits(member_of(name, 4, **how), networks.compressor_of(name, edges=edges))


def test_without_torchao_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ExportError, match=r"pip install \"evo-mpq\[torchao\]\""):
        torchao_document(member_of("digits_mlp", 4), networks.compressor_of("digits_mlp", edges=None))


def test_there_is_one_file_for_each_stack():
    from evo_mpq.results.export import exporting, formats

    folder = Path(exporting.__file__).parent
    assert all((folder / f"{target}_policy.py").exists() for target in formats.TARGETS)
