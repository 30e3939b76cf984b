import functools
import json
import re
import threading
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_mpq.config import (
    Document,
    Key,
    commented_yaml,
    describe_space,
    dump,
    find_space,
    json_schema,
    load,
    locate,
    packaged_spaces,
    resolved,
    run_name,
    validate,
)
from evo_mpq.errors import ConfigError, DataError, Mistake, dotted
from evo_mpq.space.building import LEGAL_BITS, SpaceLayer, build_space

LEAST = "model: digits_mlp\ndata: digits\n"


def saved(folder, text, name="net.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def told(folder, text, *overrides, least=LEAST):
    """What is said of a text, after the least that every YAML needs, without the folder's name."""
    path = saved(folder, least + text)
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value).replace(f"{folder}/", "")


def settings_of(text, **more):
    return validate({**Document.parse(LEAST + text).values, **more})


# Mistakes and their places. In the texts, ` marks where the caret must be, and is removed.

MISTAKES = {
    # unknown keys
    "`nam: x": "nam: unknown key (did you mean name?)",
    "search: {`populaton: 3}": "search.populaton: unknown key (did you mean population?)",
    "space:\n  layers:\n    a: {`weight_bit: 3}": "space.layers.a.weight_bit: unknown key (did you mean weight_bits?)",
    "`evaluations: 3": "evaluations: unknown key here (did you mean search.evaluations?)",
    "compute: {`zzz: 1}": "compute.zzz: unknown key; known are device, workers, threads, memory",
    "space: {defaults: {weight_bits: 2}, `prunes: {}}": "space.prunes: unknown key (did you mean prune?)",
    "space: {`architectures: {}}": "space.architectures: unknown key (did you mean architecture?)",
    "search: {`gamma: x}": "search.gamma: unknown key",
    # duplicate keys
    "seed: 1\n`seed: 2": "seed: is given twice, first in line 3; keep one of the two",
    "space: {layers: {a: {}, `a: {}}}": "space.layers.a: is given twice",
    # wrong types
    "seed: `many": 'seed: must be a whole number, got "many"',
    "seed: `true": "seed: must be a number, got true",
    "seed: `1.5": "seed: must be a whole number, got 1.5",
    "seed: `[1]": "seed: must be a whole number, got [1]",
    "name: `12": 'name: must be text, got 12; it is text in quotes: "12"',
    "name: `[x]": 'name: must be text, got ["x"]',
    "search: `[]": "search: must be a mapping of keys to values, got []",
    "space: {layers: `[a]}": 'space.layers: must be a mapping of keys to values, got ["a"]',
    "space: {layers: {stem: `8}}": "space.layers.stem: must be a mapping of keys to values, got 8",
    "space: {layers: {stem:` }}": "space.layers.stem: must be a mapping of keys to values, got null",
    "space: {tie: `stem}": 'space.tie: must be a list, got "stem"',
    "space: {tie: [a, `1.5]}": 'space.tie[1]: must be text, got 1.5; it is text in quotes: "1.5"',
    "objectives: `size": 'objectives: must be a list, got "size"',
    "objectives: [size, `3]": 'objectives[1].kind: must be a name or "module:attribute", got 3',
    "objectives: [size, `[a]]": 'objectives[1].kind: must be a name or "module:attribute", got ["a"]',
    'objectives: [{kind: `" "}]': 'objectives[0].kind: must be a name or "module:attribute"',
    "objectives: [`{name: x}]": "objectives[0].kind: is missing.",
    "metrics: `accuracy": "metrics: must be a list",
    "constraints: [`3]": "constraints[0]: must be text, got 3",
    "quantizer: {weights: {symmetric: `perhaps}}": 'quantizer.weights.symmetric: must be true or false, got "perhaps"',
    # illegal values
    "name: `../x": 'name: must be letters, digits, dots, underscores and hyphens and begin with a letter',
    "name: `-x": "name: must be letters",
    'name: `""': "name: must be letters",
    "seed: `-1": "seed: must be at least 0, got -1",
    "seed: `4294967296": "seed: must be at most 4294967295",
    "search: {population: `1}": "search.population: must be at least 2, got 1",
    "search: {evaluations: `0}": "search.evaluations: must be at least 1, got 0",
    "search: {minutes: `0}": "search.minutes: must be more than 0, got 0",
    "search: {minutes: `.inf}": "search.minutes: must be a finite number, got inf",
    "search: {minutes: `.nan}": "search.minutes: must be",
    "search: {stall: `-3}": "search.stall: must be at least 1, got -3",
    "search: {fitness: {seeds: `uniform}}": "search.fitness.seeds: must be a list",
    "search: {fitness: {seeds: [uniform, `3]}}": 'search.fitness.seeds[1]: must be a name or "module:attribute"',
    "search: {fitness: {seeds: `[clado, clado]}}": 'search.fitness.seeds: "clado" is repeated',
    "search: {fitness: {`seed: [clado]}}": "search.fitness.seed: unknown key (did you mean seeds?)",
    "search: {algorithm: `nsga3}": 'search.algorithm: must be nsga2, random or exhaustive, got "nsga3" (did',
    "correction: `no": "correction: must be none, bias or scale_bias, got false",
    "correction: `null": "correction: must be none, bias or scale_bias, got null (did you mean none?)",
    "quantizer: {activations: {edges: `null}}": "quantizer.activations.edges: must be 8 or none, got null (did you",
    "quantizer: {activations: {edges: `4}}": "quantizer.activations.edges: must be 8 or none, got 4",
    "quantizer: {activations: {clip: `mze}}": 'quantizer.activations.clip: must be mse, minmax, or {percentile: ',
    "quantizer: {weights: {clip: {percentile: `20}}}": "quantizer.weights.clip.percentile: must be more than 50 and",
    "quantizer: {weights: {granularity: `chanel}}": "quantizer.weights.granularity: must be channel, tensor, or",
    "quantizer: {weights: {granularity: `64}}": "quantizer.weights.granularity: must be channel",
    "quantizer: {weights: {granularity: {group: `0}}}": "quantizer.weights.granularity.group: must be a whole number",
    "quantizer: {weights: {rounding: `gtpq}}": "quantizer.weights.rounding: must be descent, gptq or nearest",
    "objectives: `[]": "objectives: must not be empty",
    "objectives: [{kind: size, direction: `down}]": "objectives[0].direction: must be minimize or maximize",
    'constraints: ["size <= 1 kB", `"size < 40 kB"]': "constraints[1]: 'size < 40 kB' is not a bound;",
    "constraints: [`size <= forty]": "constraints[0]: 'size <= forty' is not a bound;",
    'search: {picks: ["size <= 1 kB, macs <= 2 M", `"size <= 1 kB,"]}': "search.picks[1]: '' is not a bound;",
    'search: {picks: `"size <= 1 kB"}': "search.picks: must be a list",
    "compute: {memory: `lots}": 'compute.memory: must be a number and a unit, such as "2 GiB" or',
    "compute: {memory: `2 Gi}": 'compute.memory: must be a number and a unit, such as "2 GiB" or "500 MB", got "2 Gi"',
    "compute: {memory: `2}": "compute.memory: must be at least 1 MiB, got 2; give a unit, such as 2 GiB",
    "compute: {workers: `0}": "compute.workers: must be auto or a number of processes of at least 1, got 0",
    "compute: {workers: `true}": "compute.workers: must be auto or",
    "compute: {workers: `all}": "compute.workers: must be auto or",
    "compute: {threads: `0}": "compute.threads: must be at least 1, got 0",
    "compute: {device: `gpu0}": "compute.device: must be auto, cpu, or an accelerator such as cuda or cuda:1",
    # options of layers
    "space: {defaults: {weight_bits: [2, `2]}}": "space.defaults.weight_bits[1]: 2 is repeated; every",
    "space: {defaults: {weight_bits: [4, `9]}}": "space.defaults.weight_bits[1]: must be 2 to 8, or 32",
    "space: {defaults: {weight_bits: `1}}": "space.defaults.weight_bits: must be 2 to 8",
    "space: {defaults: {activation_bits: [`true, 4]}}": "space.defaults.activation_bits[0]: must be 2 to 8",
    "space: {defaults: {activation_bits: `[]}}": "space.defaults.activation_bits: must not be empty",
    'space:\n  layers:\n    "a.*":\n      weight_bits: [4, `four]': 'space.layers."a.*".weight_bits[1]: must be 2 to 8',
    # what YAML could do but these files do not
    "seed: `!!python/object/apply:os.system [ls]": "seed: the tag !!python/object/apply:os.system is not read here",
    "seed: `!include other.yaml": "seed: the tag !include is not read here",
    "seed: `!!int x": 'seed: "x" cannot be read as int',
    "`[a, b]: 3": "a key must be text",
    "space: {<<: `3}": "space.<<: only mappings can be merged",
}  # fmt: skip


@pytest.mark.parametrize("marked", MISTAKES)
def test_a_mistake_is_told_with_its_place_the_line_and_a_caret(tmp_path, marked):
    text = marked.replace("`", "", 1)
    before = LEAST + marked.partition("`")[0]
    line, column = before.count("\n") + 1, len(before.rpartition("\n")[2]) + 1
    head, source, caret, *more = told(tmp_path, text).splitlines()
    assert head.startswith(f"net.yaml:{line}:{column}: {MISTAKES[marked]}")
    assert source == "  " + (LEAST + text).splitlines()[line - 1]
    assert caret == "  " + " " * (column - 1) + "^"
    assert not more, "one mistake, one message"


def test_missing_keys_are_told_with_what_they_are_for(tmp_path):
    message = told(tmp_path, "seed: 3\n", least="")
    assert "net.yaml:1:1: model: is missing. The network to compress." in message
    assert "net.yaml:1:1: data: is missing. The data to calibrate, search and test with." in message


def test_every_mistake_is_told_at_once_in_the_order_of_the_text(tmp_path):
    marked = [text for text in MISTAKES if text.startswith("`") or text.partition(":")[0] in ("seed", "name")]
    singles = [text for text in MISTAKES if re.match(r"(search|compute|correction|quantizer)", text)]
    one_each = {text.partition(":")[0]: text for text in [*singles, *marked] if "\n" not in text}
    text = "\n".join(one_each.values()).replace("`", "")
    heads = [line for line in told(tmp_path, text).splitlines() if line.startswith("net.yaml:")]
    assert len(heads) == len(one_each) > 8
    lines = [int(head.split(":")[1]) for head in heads]
    assert lines == sorted(lines) == list(range(3, 3 + len(one_each)))


def test_a_value_that_was_not_read_is_not_told_a_second_time_as_a_wrong_one(tmp_path):
    assert told(tmp_path, "search: !x {}\nspace: {tie: !y [a]}").count("net.yaml:") == 2


def test_a_duplicate_keys_first_value_is_still_looked_at(tmp_path):
    assert told(tmp_path, "seed: many\nseed: 3").count("net.yaml:") == 2


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("seed: [1, 2\n", "2:1", 'expected "," or "]" to go on with the bracket that is opened in line 1'),
        ("a:\n\tb: 1\n", "2:1", "a tab; YAML is indented with spaces"),
        ("seed: 1\n  name: x\n", "2:7", 'a ":" is not expected here'),
        ("a:\n  b: 1\n c: 2\n", "3:2", "does not go on with the mapping that is opened in line 1"),
        ("tie: [*.conv]\n", "1:7", 'a text that begins with * must be in quotes, for example "*.conv1"'),
        ("tie: [*a]\n", "1:7", "a text that begins with * must be in quotes"),
        ("name: @x\n", "1:7", "a text that begins with @ must be in quotes"),
        ("name: 'x\nseed: 3\n", "1:7", "the quote is never closed"),
        ("seed: 1\n---\nseed: 2\n", "2:1", "a second document; the settings are one, so remove the ---"),
        ("seed: 1\nname: \x01\n", "2:7", "the character '\\x01' is not allowed in YAML"),
        ("- seed\n- name\n", "1:1", "must be a mapping of keys to values"),
        ("just text\n", "1:1", "must be a mapping of keys to values"),
        ("seed: &a [1, {b: *a}]\n", "1:7", "contains itself by an alias"),
        ("a: &a 1\nb: &a 2\n", "2:4", "is no YAML: second occurrence"),
    ],
)
def test_wrong_syntax_is_told_in_words_that_help(tmp_path, text, place, words):
    head, source, caret = told(tmp_path, text, least="").splitlines()
    line, column = map(int, place.split(":"))
    assert head.startswith(f"net.yaml:{place}: {words}")
    assert source.strip() == ([*text.splitlines(), ""][line - 1]).strip()
    assert caret.strip() == "^" and len(caret.expandtabs(1)) == column + 2


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_an_empty_file_is_told_what_is_the_least(tmp_path, text):
    assert told(tmp_path, text, least="").startswith("net.yaml: is empty; the least is `model:` and `data:`")


def test_a_text_that_is_nested_without_end_is_refused(tmp_path):
    assert "nested too deeply" in told(tmp_path, "seed: " + "[" * 700)


def test_files_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not text in UTF-8"):
        load(tmp_path / "latin.yaml")


def test_missing_weights_are_told_with_near_names(tmp_path):
    (tmp_path / "my_net.safetensors").touch()
    message = told(tmp_path, "model: {kind: digits_mlp, weights: mynet.safetensors}\ndata: digits\n", least="")
    assert message.startswith("net.yaml:1:36: model.weights: there is no file mynet.safetensors in ")
    assert "(did you mean my_net.safetensors?)" in message.splitlines()[0]
    text = "model: {kind: digits_mlp, weights: my_net.safetensors}\ndata: digits\n"
    assert load(saved(tmp_path, text)).settings.model.weights == "my_net.safetensors"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\x85", "\u2028"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_places_are_right_for_every_line_end_and_byte_order_mark(tmp_path, end, start):
    path = tmp_path / "net.yaml"
    path.write_bytes((start + (LEAST + "# é\nseed:  x\n").replace("\n", end)).encode())
    with pytest.raises(ConfigError) as caught:
        load(path)
    head, source, caret = str(caught.value).split("\n")
    assert head.startswith(f"{path}:4:8: seed") and source == "  seed:  x" and caret == "         ^"


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "net.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: x\n" + LEAST.encode())
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).split("\n")[1:] == ["  seed: x", "        ^"]


def test_the_caret_stands_right_behind_tabs():
    text = '{name: "\t\t", seed: x}'
    error = Document.parse(text).error([Mistake(("seed",), "y")])
    assert str(error).split("\n")[1:] == [f"  {text}", "          \t\t         ^"]


def test_of_a_long_line_the_part_around_the_mistake_is_shown():
    text = "space: {layers: {" + ", ".join(f"layer{i}: {{weight_bits: 8}}" for i in range(50)) + "}, tie: 3}"
    document = Document.parse(text)
    error = document.error([Mistake(("space", "tie"), "x")])
    _, source, caret = str(error).splitlines()
    assert len(source) < 120 and source[len(caret) - 1] == "3"


# What the texts mean


def test_the_least_has_every_default(tmp_path):
    config = load(saved(tmp_path, LEAST))
    assert config.base == tmp_path.resolve()
    assert resolved(config.settings) == {
        "name": "net",
        "seed": 0,
        "model": {"kind": "digits_mlp"},
        "data": {"kind": "digits", "batch_size": 256},
        "space": {
            "defaults": {"weight_bits": [2, 3, 4, 6, 8], "activation_bits": [4, 8]},
            "layers": {},
            "tie": [],
            "architecture": {"drop": []},
        },
        "quantizer": {
            "weights": {"symmetric": True, "granularity": "channel", "clip": "mse", "rounding": "descent"},
            "activations": {"clip": "mse", "edges": 8},
        },
        "correction": "scale_bias",
        "objectives": [{"kind": "soft_kl_divergence"}, {"kind": "size"}],
        "constraints": [],
        "search": {
            "algorithm": "nsga2",
            "population": 10,
            "fitness": {
                "surrogate": "auto",
                "contributions": "shapley",
                "interactions": "none",
                "table_share": "auto",
                "seeds": ["uniform", "sensitivity", "shapley"],
            },
            "picks": [],
            "evaluations": 400,
        },
        "compute": {"device": "auto", "workers": "auto", "threads": 1, "memory": "2 GiB"},
    }


def test_more_than_two_objectives_get_a_larger_population_unless_one_is_named():
    three = "objectives: [kl_divergence, size, bops]"
    assert settings_of(three).search.population == 20
    assert settings_of(f"{three}\nsearch: {{population: 7}}").search.population == 7


def test_once_a_space_is_given_what_it_does_not_name_is_untouched():
    assert settings_of("space: {layers: {stem: {weight_bits: 8}}}").space.defaults.weight_bits is None
    assert settings_of("space:").space == settings_of("").space


@pytest.mark.parametrize(
    ("search", "evaluations"),
    [
        ("{}", 400), ("", 400), ("{evaluations: null}", 400), ("{population: 10}", 400),
        ("{evaluations: 7}", 7), ("{evaluations: 7, minutes: 1}", 7), ("{evaluations: 7, algorithm: exhaustive}", 7),
        ("{minutes: 1}", None), ("{stall: 3}", None), ("{algorithm: exhaustive}", None), ("{algorithm: random}", 400),
    ],
)  # fmt: skip
def test_evaluations_have_a_default_only_if_nothing_else_ends_the_search(search, evaluations):
    assert settings_of(f"search: {search}").search.evaluations == evaluations


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("channel", "channel"), ("tensor", "tensor"), ("{group: 64}", 64), ("group of 64", 64),
    ],
)  # fmt: skip
def test_granularities(said, meant):
    assert settings_of(f"quantizer: {{weights: {{granularity: {said}}}}}").quantizer.weights.granularity == meant


@pytest.mark.parametrize(
    ("said", "meant"), [("mse", "mse"), ("minmax", "minmax"), ("percentile", 99.9), ("{percentile: 99}", 99.0)]
)
def test_clips(said, meant):
    quantizer = settings_of(f"quantizer: {{weights: {{clip: {said}}}, activations: {{clip: {said}}}}}").quantizer
    assert quantizer.weights.clip == quantizer.activations.clip == meant


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("2 GiB", 2**31), ("500 MB", 500_000_000), ("1.5GiB", 3 * 2**29), ("2 gib", 2**31), ("2097152", 2**21),
        ("2048 kib", 2**21),
    ],
)  # fmt: skip
def test_memory_is_read_with_its_unit(said, size):
    settings = settings_of(f"compute: {{memory: {said}}}")
    assert settings.compute.memory_bytes == size
    assert validate(resolved(settings)).compute.memory_bytes == size


def test_options_are_the_keys_that_are_not_the_sections_own():
    settings = settings_of('objectives: [{kind: "my:Energy", name: energy, table: npu.csv, scale: 1e-3}]')
    (energy,) = settings.objectives
    assert (energy.kind, energy.name, energy.direction) == ("my:Energy", "energy", None)
    assert energy.options == {"table": "npu.csv", "scale": 0.001}


def test_names_alone_and_mappings_say_the_same():
    short = settings_of("objectives: [size]\nmetrics: [accuracy]")
    long = settings_of("objectives: [{kind: size}]\nmetrics: [{kind: accuracy}]", model={"kind": "digits_mlp"})
    assert short == long and resolved(short) == resolved(long)


def test_numbers_and_text_are_what_a_reader_takes_them_for():
    words = ["1e-3", "1E5", "2024-01-01", "1:30", "010", "0x10", "1_000", "-.5", ".inf", "yes", "~", "''", "+3"]
    text = "".join(f"{key}: {word}\n" for key, word in zip("abcdefghijklm", words, strict=True))
    values = Document.parse(text).values
    assert list(values.values()) == [
        0.001, 1e5, "2024-01-01", "1:30", "010", 16, 1000, -0.5, float("inf"), True, None, "", 3,
    ]  # fmt: skip
    assert type(values["m"]) is int and type(values["b"]) is float


def test_numbers_in_quotes_are_numbers_where_numbers_are_expected():
    assert settings_of('seed: "3"\nsearch: {minutes: "1e-1"}').search.minutes == 0.1


def test_keys_are_text_as_written():
    document = Document.parse("layers: {0: a, 1.10: b, no: c, ~: d}")
    assert document.values == {"layers": {"0": "a", "1.10": "b", "no": "c", "~": "d"}}
    assert document.place(("layers", "1.10")) == (1, 22)


def test_aliases_and_merges_are_followed_to_where_they_lead():
    document = Document.parse(
        "layers:\n  a: &bits {weight_bits: [2, 9]}\n  b: *bits\n  c: {<<: *bits, activation_bits: 4}\n"
    )
    layers = document.values["layers"]
    assert layers["b"] == layers["a"] == {"weight_bits": [2, 9]}
    assert layers["c"] == {"weight_bits": [2, 9], "activation_bits": 4} and not document.mistakes
    assert document.place(("layers", "c", "weight_bits", 1)) == (2, 30)
    merged = Document.parse("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], z: 3}\n")
    assert merged.values["c"] == {"z": 3, "x": 1, "y": 1}
    assert not merged.mistakes, "what is merged may be said again"


def test_the_order_of_options_does_not_matter():
    said = ["{weight_bits: [8, 2, 4]}", "{weight_bits: [2, 4, 8]}"]
    one, other = (settings_of(f"space: {{defaults: {text}}}") for text in said)
    assert one == other and one.space.defaults.weight_bits == (2, 4, 8)


def test_what_stands_twice_is_dumped_twice():
    shared = [2, 4]
    assert dump({"a": shared, "b": shared}) == "a: [2, 4]\nb: [2, 4]\n"


def test_a_mapping_has_the_order_of_its_text_because_later_patterns_win():
    settings = settings_of('space: {layers: {"b*": {weight_bits: 8}, "a*": {weight_bits: 4}}}')
    assert list(settings.space.layers) == list(validate(Document.parse(dump(resolved(settings))).values).space.layers)
    assert list(settings.space.layers) == ["b*", "a*"]


@pytest.mark.parametrize(
    ("file", "name"),
    [("net.yaml", "net"), ("my net.yaml", "my-net"), ("_x.yaml", "x"), ("größe.yaml", "gr-e"), ("é.yaml", "run")],
)
def test_the_name_is_the_files_made_legal(tmp_path, file, name):
    assert run_name(Path(file)) == name
    assert load(saved(tmp_path, LEAST, file)).settings.name == name
    assert load(saved(tmp_path, LEAST + "name: own", file)).settings.name == "own"


def test_settings_cannot_be_changed():
    settings = settings_of("")
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3


# From Python


def test_objects_stand_where_names_do_and_are_named_when_resolved():
    class Energy:
        pass

    def call(network, inputs):
        return network(inputs)

    energy, network = Energy(), threading.Event()
    settings = validate(
        {
            "model": {"kind": network, "forward": call, "output": 0},
            "data": {"kind": functools.partial(json.loads, "{}"), "batch_size": 3},
            "objectives": ["size", energy, {"kind": Energy, "direction": "minimize", "scale": (1, Path("x"))}],
        }
    )
    assert settings.model.kind is network and settings.model.forward is call
    assert settings.objectives[1].kind is energy
    here = f"{__name__}:test_objects_stand_where_names_do_and_are_named_when_resolved.<locals>"
    said = resolved(settings)
    assert said["model"] == {"kind": "threading:Event", "forward": f"{here}.call", "output": 0}
    assert said["data"]["kind"] == "json:loads"
    assert said["objectives"][1:] == [
        {"kind": f"{here}.Energy"},
        {"kind": f"{here}.Energy", "direction": "minimize", "scale": [1, "x"]},
    ]
    assert json.loads(json.dumps(said)) == said == resolved(validate(said))


def test_numbers_of_numpy_are_numbers():
    numpy = pytest.importorskip("numpy")
    bits = {"weight_bits": [numpy.int64(2), numpy.int32(4)]}
    settings = settings_of("", seed=numpy.int64(3), space={"defaults": bits}, search={"minutes": numpy.float32(0.5)})
    assert json.loads(json.dumps(resolved(settings)))["space"]["defaults"] == {"weight_bits": [2, 4]}
    assert type(settings.seed) is int and type(settings.search.minutes) is float


def test_from_python_mistakes_have_their_key_paths():
    with pytest.raises(ConfigError) as caught:
        validate({"model": "digits_mlp", "data": "digits", "search": {"evaluations": 0}, "sed": 3})
    assert [mistake.path for mistake in caught.value.mistakes] == [("search", "evaluations"), ("sed",)]
    assert str(caught.value) == "search.evaluations: must be at least 1, got 0\nsed: unknown key (did you mean seed?)"


# Overrides


def test_overrides_change_what_the_file_says_in_order(tmp_path):
    path = saved(tmp_path, LEAST + 'space: {layers: {"stem.*": {weight_bits: 8}}}\nobjectives: [size, flips]\n')
    config = load(
        path,
        [
            "search.evaluations=100", "search.evaluations=50", 'space.layers."stem.*".weight_bits=[2, 4]',
            'space.layers."a=b".weight_bits=3', "objectives[1]=accuracy", "constraints=[size <= 40 kB]", "name=x.y",
            "search.minutes=1e-1", "model={kind: 'my_nets:build', width: 3}", "model.depth=2",
        ],
    )  # fmt: skip
    settings = config.settings
    assert (settings.search.evaluations, settings.search.minutes, settings.name) == (50, 0.1, "x.y")
    assert settings.space.layers["stem.*"].weight_bits == (2, 4)
    assert settings.space.layers["a=b"].weight_bits == (3,)
    assert [objective.kind for objective in settings.objectives] == ["size", "accuracy"]
    assert settings.model.options == {"width": 3, "depth": 2}
    assert load(path).settings.search.evaluations == 400, "the file and later loads are as before"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.evaluations=0", "search.evaluations: must be at least 1, got 0"),
        ("search.evaluatons=3", "search.evaluatons: unknown key (did you mean evaluations?)"),
        ("search.evaluations=many", 'search.evaluations: must be a whole number, got "many"'),
        ("search={evaluations: 0}", "search.evaluations: must be at least 1, got 0"),
        ("search.evaluations", "is not of the form key=value, for example search.evaluations=100"),
        ("=3", "is not of the form key=value"),
        ("search..evaluations=3", "'search..evaluations' is no key"),
        ("[0]=3", "'[0]' is no key"),
        ("seed=[1", "the value is no YAML: expected"),
        ("seed=&a [*a]", "contains itself by an alias"),
        ("space.tie=*a", "the value is no YAML: a text that begins with * must be in quotes"),
        ("seed=!!python/name:os.system x", "the tag !!python/name:os.system is not read here"),
        ("seed.x=3", "seed is 1, which has no parts; set seed as a whole"),
        ("seed[0]=3", "seed is 1, which has no parts"),
        ("objectives[1]=size", "objectives[1]: objectives has 1 entries, counted from [0]"),
        ("objectives.kind=size", "objectives is a list; say which entry, such as objectives[0]"),
        ("search[0]=3", "search is no list, so it has no [0]"),
        ("objectives[0]=3", 'objectives[0].kind: must be a name or "module:attribute", got 3'),
        ('space.layers."a.*".weight_bits=[2, 2]', 'space.layers."a.*".weight_bits[1]: 2 is repeated'),
    ],
)  # fmt: skip
def test_a_mistake_of_an_override_is_told_as_the_override(tmp_path, override, words):
    text = "seed: 1\nobjectives: [size]\nsearch: {population: 10}\n"
    assert told(tmp_path, text, override).startswith(f"--set {override}: ") and words in told(tmp_path, text, override)
    assert told(tmp_path, text, override).count("\n") == 0


def test_of_two_overrides_of_a_key_the_last_counts_and_is_told(tmp_path):
    assert told(tmp_path, "", "seed=x", "seed=y") == '--set seed=y: seed: must be a whole number, got "y"'
    assert load(saved(tmp_path, LEAST), ["seed=x", "seed=3"]).settings.seed == 3


def test_overrides_leave_the_document_as_it_is():
    document = Document.parse("search: {stall: 3}")
    assert document.with_overrides(["search.stall=4"]).values == {"search": {"stall": 4}}
    assert document.values == {"search": {"stall": 3}} and not document.overrides


def test_an_override_that_puts_a_mistake_right_leaves_none(tmp_path):
    assert load(saved(tmp_path, LEAST + "seed: many"), ["seed=3"]).settings.seed == 3


def test_mistakes_of_the_file_and_of_overrides_are_told_together(tmp_path):
    message = told(tmp_path, "seed: many\n", "search.stall=0", "nonsense")
    assert [line for line in message.splitlines() if ": " in line and not line.startswith(" ")] == [
        'net.yaml:3:7: seed: must be a whole number, got "many"',
        "--set search.stall=0: search.stall: must be at least 1, got 0",
        "--set nonsense: is not of the form key=value, for example search.evaluations=100",
    ]


@given(st.lists(st.text("ab.*[]0=", min_size=1, max_size=6), min_size=1, max_size=4))
def test_an_override_reaches_every_key_that_messages_name(keys):
    path = tuple(keys)
    quoted = ".".join(f'"{key}"' for key in path)
    document = Document.parse("x: 1").with_overrides([f"{quoted}=7"])
    reached: Any = document.values
    for key in path:
        reached = reached[key]
    assert reached == 7 and not document.mistakes
    if not any(set(key) & set("[]=") for key in path):
        assert Document.parse("x: 1").with_overrides([f"{dotted(path)}=7"]).values == document.values


# Mistakes that are found later


def test_mistakes_of_the_space_are_told_with_the_files_lines(tmp_path):
    text = LEAST + (
        'space:\n  defaults: {weight_bits: [2, 4]}\n  layers:\n    "layer5.*": {weight_bits: [2, 4]}\n'
        "  tie: [stem, layr.0]\n"
    )
    config = load(saved(tmp_path, text), ['space.layers."x*".weight_bits=3'])
    space = config.settings.space
    rules = {pattern: rule.plain() for pattern, rule in space.layers.items()}
    layers = [SpaceLayer("stem"), SpaceLayer("layer1.0")]
    with pytest.raises(ConfigError) as caught:
        build_space(layers, defaults=space.defaults.plain(), layer_rules=rules, tie=space.tie)
    located = locate(caught.value, config.document)
    lines = str(located).replace(f"{tmp_path}/", "").splitlines()
    assert lines[0].startswith('net.yaml:6:5: space.layers."layer5.*": matches no layer. Layers are named like')
    assert lines[1:3] == ['      "layer5.*": {weight_bits: [2, 4]}', "      ^"]
    assert lines[3].startswith("net.yaml:7:15: space.tie[1]: matches no layer.")
    assert lines[4:6] == ["    tie: [stem, layr.0]", "                ^"]
    assert lines[6].startswith('--set space.layers."x*".weight_bits=3: space.layers."x*": matches no layer.')
    assert len(lines) == 7
    assert locate(located, config.document) is located


def test_other_errors_can_be_told_at_a_key():
    document = Document.parse("model: x\ndata:\n  kind: digits\n", "net.yaml")
    error = locate(DataError("the test split is empty"), document, ("data",))
    assert str(error) == "net.yaml:2:1: data: the test split is empty\n  data:\n  ^"
    assert error.mistakes == (Mistake(("data",), "the test split is empty"),)
    assert str(locate(DataError("no place"), document)) == "net.yaml: no place"


def test_without_a_document_the_key_path_stays():
    error = ConfigError([Mistake(("space", "tie", 0), "matches no layer")])
    assert locate(error, None) is error and str(error) == "space.tie[0]: matches no layer"


def test_the_caret_is_under_the_key_of_a_mapping_or_of_a_wrong_key_and_else_under_the_value():
    document = Document.parse("model: {kind: x, widht: 3}\nlist:\n  - a\n  - {b: 1}\n")
    places = [
        (("model",), (1, 1)),
        (("model", "kind"), (1, 15)),
        (("model", "widht"), (1, 25)),
        (("model", Key("widht")), (1, 18)),
        (("model", "absent"), (1, 1)),
        (("model", "kind", "within"), (1, 15)),
        (("list",), (3, 3)),
        (("list", 0), (3, 5)),
        (("list", 1), (4, 5)),
        (("list", 1, "b"), (4, 9)),
        (("list", 2), (3, 3)),
        (("absent",), (1, 1)),
    ]
    assert [(path, document.place(path)) for path, _ in places] == places


# Round trips

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts,
    st.sampled_from(["1e-3", "010", "yes", "null", "~", "1:30", "2024-01-01", "=", "<<", "*a", "0x1f", "1_0", "- a"]),
)  # fmt: skip
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
bits = st.lists(st.sampled_from(LEGAL_BITS), min_size=1, unique=True)
rules = st.fixed_dictionaries(
    {}, optional={"weight_bits": bits | st.sampled_from(LEGAL_BITS), "activation_bits": bits | st.none()}
)
clips = st.sampled_from(["mse", "minmax", "percentile"]) | st.floats(50.1, 100).map(lambda p: {"percentile": p})
positive = st.integers(1, 10**6)


def component(**own):
    """Sections with a kind, their own keys, and any options."""
    required = {"kind": names | st.sampled_from(["my_nets:build", "m:f.<locals>.g"])}
    optional = {**own, "option": values, "2": values}
    return st.fixed_dictionaries(required, optional=optional)


spoken = st.fixed_dictionaries(
    {
        "model": component(forward=st.just("my_nets:call"), output=st.integers() | texts) | names,
        "data": component(batch_size=positive) | names,
    },
    optional={
        "name": names,
        "seed": st.integers(0, 2**32 - 1),
        "space": st.fixed_dictionaries(
            {},
            optional={
                "defaults": rules,
                "layers": st.dictionaries(texts, rules, max_size=3),
                "tie": st.lists(texts, max_size=2),
            },
        ),
        "quantizer": st.fixed_dictionaries(
            {},
            optional={
                "weights": st.fixed_dictionaries(
                    {},
                    optional={
                        "symmetric": st.booleans(),
                        "granularity": st.sampled_from(["channel", "tensor", "group of 3", {"group": 7}]),
                        "clip": clips,
                        "rounding": st.sampled_from(["descent", "gptq", "nearest"]),
                    },
                ),
                "activations": st.fixed_dictionaries(
                    {}, optional={"clip": clips, "edges": st.sampled_from([8, "none"])}
                ),
            },
        ),
        "correction": st.sampled_from(["none", "bias", "scale_bias"]),
        "objectives": st.lists(component(unit=texts, direction=st.just("maximize")) | names, min_size=1, max_size=3),
        "constraints": st.lists(st.sampled_from(["size <= 40 kB", "accuracy>=0.95"]), max_size=2),
        "metrics": st.none() | st.lists(names, max_size=2),
        "search": st.fixed_dictionaries(
            {},
            optional={
                "algorithm": st.sampled_from(["nsga2", "random", "exhaustive"]),
                "population": st.integers(2, 100),
                "evaluations": st.none() | positive,
                "minutes": st.none() | st.floats(1e-6, 1e6),
                "stall": st.none() | positive,
            },
        ),
        "compute": st.fixed_dictionaries(
            {},
            optional={
                "device": st.sampled_from(["auto", "cpu", "cuda:1"]),
                "workers": st.just("auto") | positive,
                "threads": positive,
                "memory": st.sampled_from(["2 GiB", "1.5 gb", 2**21]),
            },
        ),
    },
)


@given(spoken)
def test_resolved_settings_written_and_read_again_resolve_to_the_same(values):
    said = resolved(validate(values))
    text = dump({**said, "base": "/somewhere"})
    again = validate(Document.parse(text).values)
    assert again.base == "/somewhere"
    assert resolved(again) == said
    assert json.loads(json.dumps(said)) == said


@given(spoken)
def test_the_schema_accepts_what_is_accepted(values):
    SCHEMA.validate(
        json.loads(json.dumps(values)) if values.get("metrics", 0) is not None else resolved(validate(values))
    )


@given(st.dictionaries(texts, values, min_size=1, max_size=4))
def test_what_is_dumped_is_read_back(values):
    document = Document.parse(dump(values))
    assert document.values == values and not document.mistakes
    assert json.dumps(document.values) == json.dumps(values), "types and order, too"


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_with_a_place(text):
    try:
        document = Document.parse(text, "x.yaml")
    except ConfigError as error:
        assert str(error).startswith("x.yaml")
    else:
        try:
            validate(document.values)
        except ConfigError as error:
            assert str(locate(error, document)).startswith("x.yaml:")


@given(st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["kind", "model", "data", "space", "layers", "weight_bits", "clip", "search", "x", "objectives"]),
    inner, max_size=4), max_leaves=12).filter(lambda value: isinstance(value, dict)))  # fmt: skip
def test_values_of_any_shape_are_settings_or_mistakes_that_are_told(values):
    try:
        validate(values)
    except ConfigError as error:
        assert error.mistakes and all(mistake.message.strip() for mistake in error.mistakes)


# The folder


def test_the_folder_is_the_yamls_the_one_it_names_or_the_one_that_is_given(tmp_path):
    nets = tmp_path / "nets"
    nets.mkdir()
    assert load(saved(tmp_path, LEAST)).base == tmp_path.resolve()
    assert load(saved(tmp_path, LEAST + "base: nets\n")).base == nets.resolve()
    path = saved(tmp_path, LEAST + f"base: {nets}\n")
    assert load(path).base == nets.resolve()
    assert load(path, base=tmp_path).base == tmp_path.resolve()
    assert "base" not in resolved(load(path).settings)


def test_a_folder_that_is_gone_is_told(tmp_path):
    assert told(tmp_path, "base: gone\n").startswith("net.yaml:3:7: base: there is no folder ")


# The schema

SCHEMA = jsonschema.Draft202012Validator(json_schema())


def schema_errors(text):
    return list(SCHEMA.iter_errors(Document.parse(text).values))


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(json_schema())


def keys_of(schema, within):
    """Every key that a schema describes, with what is said of it there or where it refers to."""
    if isinstance(schema, list):
        for entry in schema:
            yield from keys_of(entry, within)
    elif isinstance(schema, dict):
        for key, described in schema.get("properties", {}).items():
            referred = within["$defs"].get(described.get("$ref", "").rpartition("/")[2], {})
            yield key, {**referred, **described}
        for entry in schema.values():
            yield from keys_of(entry, within)


def test_every_key_of_the_schema_has_a_description_in_one_line():
    schema = json_schema()
    found = list(keys_of(schema, schema))
    assert {"model", "weight_bits", "percentile", "memory", "direction"} <= {key for key, _ in found}
    for key, described in found:
        assert len(described.get("description", "").split()) > 2, key
        assert "\n" not in described["description"], key


@pytest.mark.parametrize(
    "text", [text for text in MISTAKES if "unknown key" in MISTAKES[text] or "must be" in MISTAKES[text]]
)
def test_the_schema_rejects_what_is_wrong(text):
    # It knows neither finite numbers nor units, and takes null and spaces for what they are.
    unseen = (".inf", ".nan", "correction: `null", '`" "', "2 Gi", "[a, b]:")
    if not any(part in text for part in unseen):
        assert schema_errors(LEAST + text.replace("`", "")), text


@pytest.mark.parametrize(
    "text", ["", "modl: x\n", "search: {evaluatons: 3}\n", "space: {defaults: {weight_bits: [2, 2]}}"]
)
def test_the_schema_rejects_a_misspelt_key_and_accepts_the_least(text):
    assert bool(schema_errors(LEAST + text)) == bool(text)


# Packaged search spaces


@pytest.mark.parametrize("name", packaged_spaces())
def test_a_packaged_space_loads_fits_the_schema_and_says_what_it_shows(name):
    path = find_space(name)
    assert load(path).settings.name == name
    text = path.read_text(encoding="utf-8")
    assert not schema_errors(text)
    assert text.startswith("# yaml-language-server: $schema=")
    assert len(describe_space(path).split()) > 2


def test_a_space_is_found_by_its_path(tmp_path):
    path = saved(tmp_path, LEAST)
    assert find_space(path) == find_space(str(path)) == path


def test_a_space_that_is_nowhere_is_told_with_near_names(tmp_path, monkeypatch):
    saved(tmp_path, LEAST, "wide_net.yaml")
    monkeypatch.chdir(tmp_path)
    assert find_space("wide_net.yaml") == Path("wide_net.yaml")
    for asked in ("wide_net.yml", "widenet", tmp_path / "wide_nets.yaml"):
        with pytest.raises(ConfigError, match=re.escape("(did you mean wide_net.yaml?)")):
            find_space(asked)
    with pytest.raises(ConfigError, match="there is no folder nowhere"):
        find_space("nowhere/net.yaml")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="folder: is a folder; give a YAML file or one of"):
        find_space("folder")


def test_packaged_names_are_suggested(monkeypatch, tmp_path):
    monkeypatch.setattr("evo_mpq.config.loading.packaged_spaces", lambda: {"digits_resnet": tmp_path / "x.yaml"})
    assert find_space("digits_resnet") == tmp_path / "x.yaml"
    for asked in ("digits_resnt", "digits-resnet.yaml"):
        with pytest.raises(ConfigError, match=re.escape("(did you mean digits_resnet?)")):
            find_space(asked)


def test_a_space_is_described_by_its_first_comment(tmp_path):
    text = "# yaml-language-server: $schema=x\n\n#\n# Shows much.\n# And more.\nmodel: x\n# Not this.\n"
    assert describe_space(saved(tmp_path, text)) == "Shows much."
    assert describe_space(saved(tmp_path, "model: x\n# Not this.\n")) == ""


# The first YAML

LAYERS = ["stem", "stage1.0.conv1", "stage1.0.conv2", 'odd"name', "head"]


def uncommented(text):
    return re.sub(r"^(\s*)#(?=[a-z ] *[a-z]+:)(?! [A-Z])", r"\1", text, flags=re.MULTILINE)


@pytest.mark.parametrize("layers", [LAYERS, [], [f"layer{i}.conv" for i in range(200)]])
@pytest.mark.parametrize("weights", [None, "net.safetensors"])
def test_the_first_yaml_loads_as_it_is_and_with_all_its_suggestions(tmp_path, layers, weights):
    (tmp_path / "net.safetensors").touch()
    text = commented_yaml("my_nets:build", layers, weights=weights, name="mine")
    assert text.splitlines()[0] == "# yaml-language-server: $schema=evo-mpq.schema.json"
    assert max(map(len, text.splitlines())) <= 110
    config = load(saved(tmp_path, text))
    defaults = resolved(validate({"model": "x", "data": "my_data:load", "name": "mine"}))
    model = {"kind": "my_nets:build", **({"weights": weights} if weights else {})}
    assert resolved(config.settings) == {**defaults, "model": model}
    more = load(saved(tmp_path, uncommented(text))).settings
    assert more.constraints and more.metrics and more.space.tie and more.space.layers
    assert more.compute == config.settings.compute and more.quantizer == config.settings.quantizer
    assert not schema_errors(text) and not schema_errors(uncommented(text))


def test_the_first_yaml_names_the_layers_and_every_section():
    text = commented_yaml("my_nets:build", LAYERS)
    assert all(layer in text for layer in LAYERS)
    assert all(re.search(rf"^#?{key}:", text, re.MULTILINE) for key in json_schema()["properties"] if key != "base")


def test_the_first_yamls_suggestions_fit_the_network(tmp_path):
    text = uncommented(commented_yaml("my_nets:build", LAYERS))
    space = load(saved(tmp_path, text)).settings.space
    rules = {pattern: rule.plain() for pattern, rule in space.layers.items()}
    layers = [SpaceLayer(name) for name in LAYERS]
    built = build_space(layers, defaults=space.defaults.plain(), layer_rules=rules, tie=space.tie)
    assert built.n_genes > 4
