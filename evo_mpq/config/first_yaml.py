"""The commented YAML that ``evo-mpq init`` writes for a user's network."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from evo_mpq.config.settings import SCHEMA_NAME

_MOST_NAMES = 60


def commented_yaml(
    model_kind: str,
    layers: Sequence[str],
    *,
    name: str = "my-net",
    data_kind: str = "my_data:load",
    weights: str | None = None,
    schema: str = SCHEMA_NAME,
) -> str:
    """The text of a first YAML: required keys set, the others shown with their defaults in comments.

    It loads as it is, and with any of its ``#key: value`` lines (no space after ``#``) uncommented.

    Args:
        model_kind: what ``model: {kind: …}`` says.
        layers: names of the network's layers, in graph order.
        name: of the run.
        data_kind: what ``data: {kind: …}`` says.
        weights: the file of the trained weights, if known.
        schema: path or address of the JSON schema, for editors.
    """
    first = _quoted(layers[0] if layers else "stem")
    last = _quoted(layers[-1] if layers else "head")
    model = f"kind: {_quoted(model_kind)}" + (f", weights: {_quoted(weights)}" if weights else "")
    return f"""\
# yaml-language-server: $schema={schema}
# Searches the trade-offs of {model_kind}: `evo-mpq check` explains this file, `evo-mpq run` carries it out.
# What stands behind # is the default, or an example of what can be said.

name: {_quoted(name)}    # results go to runs/<name>
seed: 0

# The network. Other keys are options of the function. If it takes or returns more than one tensor,
# `forward: "my_nets:call"` says how a batch becomes a call, and `output: logits` which output counts.
model: {{{model}}}{"" if weights else "    # add weights: my_net.safetensors"}

# The data: a function that returns a mapping with calibration, search and test (and perhaps train), each a
# torch Dataset or a list of (inputs, target). No sample may be in two of them, nor have been trained on.
# Built in: digits, arrays (an .npz file), image_folder.
data: {{kind: {_quoted(data_kind)}, batch_size: 256}}

# What may be chosen for each layer: 2 to 8 bits, or 32 for untouched. What is not named is left untouched.
{_naming(layers)}
space:
  defaults: {{weight_bits: [2, 3, 4, 6, 8], activation_bits: [4, 8]}}
  # Shell patterns on layer names; * crosses dots, and for each key the last pattern that matches wins.
  #layers: {{{first}: {{weight_bits: [4, 8]}}, {last}: {{weight_bits: 8, activation_bits: 8}}}}
  # All layers that one pattern matches share one choice: fewer genes, a faster search.
  #tie: [{first}]

# What the front trades off, what a candidate must keep, and what is reported on the test split besides.
# `evo-mpq list objectives` has the names; "my_objectives:Energy" is one of your own.
objectives: [soft_kl_divergence, size]
#constraints: ["size <= 400 kB", "accuracy >= 0.9"]
#metrics: [accuracy, kl_divergence]

# The first limit that is reached ends the search: evaluations, minutes, or stall (generations without gain).
# With picks: ["size <= 400 kB"] it looks for the best network of that size besides.
search: {{algorithm: nsga2, population: 10, evaluations: 400}}

# How numbers become integers: granularity channel, tensor or {{group: 64}}; clip mse, minmax or
# {{percentile: 99.9}}; rounding descent, gptq or nearest; edges 8 or none.
#quantizer:
#  weights: {{symmetric: true, granularity: channel, clip: mse, rounding: descent}}
#  activations: {{clip: mse, edges: 8}}

# Matches each channel's mean (bias) and spread (scale_bias) with the float network's; or none.
#correction: scale_bias

#compute: {{device: auto, workers: auto, threads: 1, memory: 2 GiB}}
"""


def _quoted(text: str) -> str:
    """A text as YAML in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _naming(layers: Sequence[str]) -> str:
    """The layers' names as a comment."""
    more = [f"and {len(layers) - _MOST_NAMES} more"] if len(layers) > _MOST_NAMES else []
    names = ", ".join([*layers[:_MOST_NAMES], *more])
    return textwrap.fill(
        f"The {len(layers)} layers: {names}.",
        width=110,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_on_hyphens=False,
        break_long_words=False,
    )
