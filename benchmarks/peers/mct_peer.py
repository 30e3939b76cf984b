"""Sony's Model Compression Toolkit: mixed precision of weights, in an environment of its own.

``python -m benchmarks.peers.mct_peer TASK ANSWER SETTINGS``; started by ``versus_peers``.
"""

from __future__ import annotations

import re
import sys
from functools import wraps
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from torch import nn

from benchmarks.peers.crossing import Batches, Settings, answer, layer_weights


def _stand_in_for_torchvision() -> None:
    """Lets the toolkit be imported: its layers for object detection want torchvision, which has no build beside a CPU
    torch on PyPI. Nothing here uses them.
    """
    modules = {name: ModuleType(name) for name in ("torchvision", "torchvision.transforms")}
    modules["torchvision.transforms.transforms"] = ModuleType("torchvision.transforms.transforms")
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
    modules["torchvision"].__version__ = "0.28.0"
    for name in ("Normalize", "RandomCrop", "RandomHorizontalFlip", "CenterCrop"):
        setattr(modules["torchvision.transforms"], name, type(name, (nn.Module,), {}))
    modules["torchvision.transforms.transforms"]._setup_size = lambda size, **_: size
    sys.modules.update(modules)


_stand_in_for_torchvision()

import model_compression_toolkit as mct  # noqa: E402
from model_compression_toolkit.core.common.mixed_precision.sensitivity_eval import (  # noqa: E402
    sensitivity_evaluation,
)
from model_compression_toolkit.target_platform_capabilities.constants import (  # noqa: E402
    KERNEL_ATTR,
    WEIGHTS_N_BITS,
)
from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0 import tpc  # noqa: E402


def capabilities(weight_bits: tuple[int, ...]) -> Any:
    base, _, default = tpc.get_op_quantization_configs()
    base = base.clone_and_edit(enable_activation_quantization=False)
    default = default.clone_and_edit(enable_activation_quantization=False)
    options = [
        base.clone_and_edit(attr_to_edit={KERNEL_ATTR: {WEIGHTS_N_BITS: bits}})
        for bits in sorted(weight_bits, reverse=True)
    ]
    return tpc.generate_tpc(default, base, options, "weights_only")


def as_a_user(network: nn.Module, batches: Batches, settings: Settings) -> Any:
    def representative_data() -> Any:
        for inputs, _ in batches:
            yield [inputs.numpy()]

    n_weights = sum(layer_weights(network).values())
    budget = mct.core.ResourceUtilization(weights_memory=n_weights * settings.budget / 8)
    precision = mct.core.CoreConfig(mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig())
    platform = capabilities(settings.weight_bits)
    return mct.ptq.pytorch_post_training_quantization(network, representative_data, budget, precision, platform)


def as_a_user_with_gptq(network: nn.Module, batches: Batches, settings: Settings) -> Any:
    def representative_data() -> Any:
        for inputs, _ in batches:
            yield [inputs.numpy()]

    n_weights = sum(layer_weights(network).values())
    budget = mct.core.ResourceUtilization(weights_memory=n_weights * settings.budget / 8)
    precision = mct.core.CoreConfig(mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig())
    platform = capabilities(settings.weight_bits)
    gptq = mct.gptq.get_pytorch_gptq_config(n_epochs=settings.epochs)
    return mct.gptq.pytorch_gradient_post_training_quantization(
        network, representative_data, budget, precision, gptq, target_platform_capabilities=platform
    )


def quantized(network: nn.Module, batches: Batches, settings: Settings) -> tuple[nn.Module, dict[str, int], int]:
    looked_at = _counted(sensitivity_evaluation.SensitivityEvaluation, "compute_metric")
    run = as_a_user_with_gptq if settings.epochs else as_a_user
    module, _ = run(network, batches, settings)
    return module.eval(), _bits(module, list(layer_weights(network))), len(looked_at)


def _counted(owner: type, name: str) -> list[None]:
    """A list that grows with every call of a method."""
    calls: list[None] = []
    method = getattr(owner, name)

    @wraps(method)
    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return method(*args, **kwargs)

    setattr(owner, name, counting)
    return calls


def _bits(module: nn.Module, layers: list[str]) -> dict[str, int]:
    """Bits of the kernels in a quantized module, whose names have underscores for dots and may say what was folded."""
    found: dict[str, int] = {}
    for name, part in module.named_modules():
        quantizers = getattr(part, "weights_quantizers", {})
        if "weight" in quantizers:
            plain = re.sub(r"_bn$", "", name)
            (layer,) = [layer for layer in layers if layer.replace(".", "_") == plain]
            found[layer] = int(quantizers["weight"].num_bits)
    if set(found) != set(layers):
        raise RuntimeError(f"no bits are known of {sorted(set(layers) - set(found))}")
    return found


if __name__ == "__main__":
    answer(quantized)
