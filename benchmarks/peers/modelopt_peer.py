"""NVIDIA's Model Optimizer: AutoQuantize of weights, in an environment of its own.

``python -m benchmarks.peers.modelopt_peer TASK ANSWER SETTINGS``; started by ``versus_peers``.
"""

from __future__ import annotations

from typing import Any

import modelopt.torch.quantization as mtq
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.peers.crossing import Batches, Settings, answer, layer_weights

UNQUANTIZED = 32


def as_a_user(network: nn.Module, batches: Batches, settings: Settings) -> Any:
    formats = [
        {
            "quant_cfg": [
                {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": bits, "axis": 0}},
                {"quantizer_name": "*input_quantizer", "enable": False},
            ],
            "algorithm": settings.calibration,
        }
        for bits in settings.weight_bits
    ]
    return mtq.auto_quantize(
        network,
        constraints={"effective_bits": settings.budget},
        quantization_formats=formats,
        data_loader=batches,
        forward_step=lambda model, batch: model(batch[0]),
        loss_func=lambda output, batch: cross_entropy(output, batch[1]),
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
        method=settings.method,
    )


def quantized(network: nn.Module, batches: Batches, settings: Settings) -> tuple[nn.Module, dict[str, int], int]:
    forwards: list[None] = []
    network.register_forward_pre_hook(lambda *_: forwards.append(None))
    module, _ = as_a_user(network, batches, settings)
    measurements = -(-len(forwards) // len(batches))  # in passes over the samples
    parts = dict(module.named_modules())
    return module.eval(), {name: _bits(parts[name]) for name in layer_weights(network)}, measurements


def _bits(layer: Any) -> int:
    quantizer = layer.weight_quantizer
    return int(quantizer.num_bits) if quantizer.is_enabled else UNQUANTIZED


if __name__ == "__main__":
    answer(quantized)
