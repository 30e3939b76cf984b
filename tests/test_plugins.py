import importlib
import importlib.metadata
import pickle
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest

from evo_mpq import plugins
from evo_mpq.config import Document, Key, load, locate
from evo_mpq.errors import ConfigError, DataError, Mistake
from evo_mpq.plugins import (
    available,
    call_factory,
    import_object,
    importable,
    name_mistakes,
    resolve,
    source_files,
)


@pytest.fixture(autouse=True)
def python_is_left_as_it_was(tmp_path):
    path, modules = list(sys.path), dict(sys.modules)
    yield
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        # what is installed stays: torch cannot be imported twice
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.modules.update(modules)
    importlib.invalidate_caches()


def write(folder, **files):
    """Write ``name=text`` as ``name.py``."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


def offer(folder, distribution, **groups):
    """Make entry points, ``objectives={"name": "module:attribute"}``, as an installed package does."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = []
    for group, names in groups.items():
        lines += [f"[evo_mpq.{group}]", *(f"{name} = {value}" for name, value in names.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()


def the_mistake(call, *arguments, **options):
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **options)
    (mistake,) = caught.value.mistakes
    return mistake


# Modules of the user


def test_an_object_stands_for_itself(tmp_path):
    thing = object()
    assert resolve(thing, "objectives", tmp_path) is thing


def test_a_module_in_the_yamls_folder_is_found_without_being_on_the_path(tmp_path):
    write(tmp_path, wide_nets="def build():\n    return 3\n")
    assert resolve("wide_nets:build", "models", tmp_path)() == 3


def test_what_is_installed_is_found_too(tmp_path):
    assert resolve("fractions:Fraction.limit_denominator", "models", tmp_path) is not None
    assert resolve("fractions:Fraction", "models", None)(1, 2) == 0.5


def test_a_package_and_what_it_imports_beside_itself_are_found(tmp_path):
    write(tmp_path, beside="WIDTH = 7\n")
    write(tmp_path / "nets", __init__="", deep="import beside\nfrom nets import other\nvalue = beside.WIDTH\n")
    write(tmp_path / "nets", other="")
    assert resolve("nets.deep:value", "models", tmp_path) == 7


def test_the_same_module_is_imported_once(tmp_path):
    write(tmp_path, my_nets="class Net:\n    pass\n")
    assert resolve("my_nets:Net", "models", tmp_path) is resolve("my_nets:Net", "models", tmp_path)


def test_a_module_of_the_same_name_in_another_folder_is_the_other_one(tmp_path):
    first = write(tmp_path / "first", my_nets="import parts\nvalue = parts.value\n", parts="value = 1\n")
    second = write(tmp_path / "second", my_nets="import parts\nvalue = parts.value\n", parts="value = 2\n")
    for folder, value in [(first, 1), (second, 2), (second, 2), (first, 1)]:
        assert resolve("my_nets:value", "models", folder) == value


def test_a_folder_within_another_is_another_folder(tmp_path):
    outer = write(tmp_path, my_nets="value = 'outer'\n")
    inner = write(tmp_path / "inner", my_nets="value = 'inner'\n")
    for folder in (inner, outer, inner):
        assert resolve("my_nets:value", "models", folder) == ("inner" if folder is inner else "outer")


def test_packages_without_init_of_the_same_name_are_told_apart(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / name)
        write(tmp_path / name / "spaces", nets=f"value = {name!r}\n")
    for name in ("first", "second", "first"):
        assert resolve("spaces.nets:value", "models", tmp_path / name) == name


def test_a_module_of_an_earlier_folder_is_not_found_from_this_one(tmp_path):
    first = write(tmp_path / "first", my_nets="value = 1\n")
    second = write(tmp_path / "second", my_nest="")
    assert resolve("my_nets:value", "models", first) == 1
    mistake = the_mistake(resolve, "my_nets:value", "models", second, ("model", "kind"))
    assert mistake.path == ("model", "kind")
    assert mistake.message == (f"there is no module my_nets in {second}, nor is one installed (did you mean my_nest?)")


@pytest.mark.parametrize("name", ["statistics", "numpy", "yaml"])
def test_a_module_with_the_name_of_an_installed_one_is_refused(tmp_path, name):
    write(tmp_path, **{name: "value = 1\n"})
    message = the_mistake(resolve, f"{name}:value", "models", tmp_path).message
    assert message.startswith(f"{name} in {tmp_path} has the name of a module") and "rename" in message


def test_objects_of_the_users_module_reach_a_spawned_process(tmp_path):
    write(tmp_path, my_nets="class Net:\n    width = 5\n")
    write(
        tmp_path,
        parent="""\
        import multiprocessing, pathlib, sys
        from evo_mpq.plugins import resolve

        def width(net):
            return net.width

        if __name__ == "__main__":
            folder = pathlib.Path(sys.argv[1])
            net = resolve("my_nets:Net", "models", folder)()
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(width, (net,)))
        """,
    )
    nets = write(tmp_path / "elsewhere", my_nets="class Net:\n    width = 8\n")
    command = [sys.executable, str(tmp_path / "parent.py"), str(nets)]
    root = str(Path(plugins.__file__).parents[1])
    answer = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": root}, timeout=60)
    assert answer.stdout == "8\n", answer.stderr


def test_the_folder_stays_importable_and_travels_as_plain_text(tmp_path):
    with importable(tmp_path):
        assert sys.path[0] == str(tmp_path.resolve())
    assert sys.path[0] == str(tmp_path.resolve())
    copied = pickle.loads(pickle.dumps(sys.path))
    assert copied == sys.path and {type(entry) for entry in copied} == {str}


def test_within_a_folder_those_of_other_yamls_are_out_of_sight_and_afterwards_back(tmp_path):
    first, second = write(tmp_path / "first"), write(tmp_path / "second")
    with importable(first):
        pass
    with importable(second):
        assert str(first.resolve()) not in sys.path
    assert sys.path[:2] == [str(second.resolve()), str(first.resolve())]


@pytest.mark.parametrize("name", ["my_nets:", ":build", "my nets:build", "a/b.py:build", "my_nets:a:b"])
def test_what_has_not_the_form_of_module_and_attribute_is_refused(tmp_path, name):
    assert 'is not of the form "module:attribute"' in the_mistake(import_object, name, tmp_path).message


def test_a_missing_attribute_names_its_neighbors(tmp_path):
    write(tmp_path, my_nets="def build():\n    pass\n\ndef _built():\n    pass\n")
    message = the_mistake(resolve, "my_nets:biuld", "models", tmp_path).message
    assert message == f'{tmp_path.resolve()}/my_nets.py has no "biuld" (did you mean build?)'


def test_an_attribute_that_raises_is_told_with_its_own_words(tmp_path):
    write(tmp_path, lazy="def __getattr__(name):\n    raise ImportError('install the extra')\n")
    message = the_mistake(resolve, "lazy:Net", "models", tmp_path).message
    assert message == "lazy:Net raised ImportError: install the extra (lazy.py:2, in __getattr__)"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\nraise ValueError('no license')\n", "ValueError: no license (my_nets.py:2)"),
        ("import not_there_at_all\n", "ModuleNotFoundError: No module named 'not_there_at_all' (my_nets.py:1)"),
        ("def f(:\n", "SyntaxError: invalid syntax (my_nets.py:1)"),
        ("eval('1 +')\n", "SyntaxError: invalid syntax (my_nets.py:1)"),
        ("def f():\n    exit(3)\nf()\n", "SystemExit: 3 (my_nets.py:2, in f)"),
        ("import json\njson.loads('{')\n", "my_nets.py:2)"),
        ("assert False\n", "AssertionError (my_nets.py:1)"),
    ],
)
def test_a_module_that_raises_is_told_with_its_own_words_and_line(tmp_path, text, told):
    write(tmp_path, my_nets=text)
    message = the_mistake(resolve, "my_nets:build", "models", tmp_path).message
    assert message.startswith("importing my_nets raised ") and message.endswith(told)


def test_an_error_in_a_module_that_the_users_module_imports_points_there(tmp_path):
    write(tmp_path, my_nets="import parts\n", parts="\n\n1 / 0\n")
    assert "(parts.py:3)" in the_mistake(resolve, "my_nets:build", "models", tmp_path).message


# Names


def test_an_entry_point_stands_for_its_object(tmp_path):
    write(tmp_path, third_party="class Energy:\n    '''Millijoules.\n\n    More.\n    '''\n")
    offer(tmp_path, "third-party", objectives={"energy": "third_party:Energy"})
    assert resolve("energy", "objectives", None).__name__ == "Energy"
    assert available("objectives")["energy"] == "Millijoules."


def test_an_unknown_name_gets_suggestions_and_the_list(tmp_path):
    offer(tmp_path, "third-party", objectives={"energy": "fractions:Fraction", "torque": "fractions:Fraction"})
    mistake = the_mistake(resolve, "enery", "objectives", tmp_path, ("objectives", 1))
    assert mistake.path == ("objectives", 1)
    assert mistake.message.startswith('there is no objective "enery" (did you mean energy?); known are ')
    assert "energy" in mistake.message and "torque" in mistake.message


def test_the_name_of_a_users_module_alone_is_told_what_is_missing(tmp_path):
    write(tmp_path, my_nets="")
    assert 'is written "my_nets:name"' in the_mistake(resolve, "my_nets.build", "models", tmp_path).message


def test_a_name_that_two_packages_offer_is_refused_and_never_decided_silently(tmp_path):
    offer(tmp_path / "a", "first", objectives={"energy": "fractions:Fraction"})
    offer(tmp_path / "b", "second", objectives={"energy": "decimal:Decimal"})
    message = the_mistake(resolve, "energy", "objectives", None).message
    assert '"fractions:Fraction"' in message and '"decimal:Decimal"' in message


def test_one_package_that_is_found_twice_is_no_conflict(tmp_path):
    offer(tmp_path / "a", "first", objectives={"energy": "fractions:Fraction"})
    offer(tmp_path / "b", "first-build", objectives={"energy": "fractions:Fraction"})
    assert resolve("energy", "objectives", None).__name__ == "Fraction"


def test_a_plugin_that_cannot_be_loaded_is_told_and_does_not_hide_the_others(tmp_path):
    offer(tmp_path, "broken", data={"bad": "no_such_module_here:load", "good": "fractions:Fraction"})
    assert "cannot be loaded: ModuleNotFoundError" in the_mistake(resolve, "bad", "data", None).message
    offers = available("data")
    assert offers["bad"].startswith("cannot be loaded") and offers["good"]


def test_an_unknown_group_is_a_programmers_error():
    with pytest.raises(ValueError, match="unknown group 'model'; known are models"):
        resolve("x", "model", None)


# Calling factories


def factory(width: int, *, depth: int = 2):
    return [width] * depth


def test_a_factory_gets_its_options():
    assert call_factory(factory, {"width": 3}) == [3, 3]


def test_offered_arguments_go_only_to_those_who_ask_and_options_come_first():
    def load(path, base=None, seed=0):
        return path, base, seed

    offered = {"base": "folder", "seed": 3, "progress": print}
    assert call_factory(load, {"path": "x", "seed": 5}, offered=offered) == ("x", "folder", 5)
    assert call_factory(lambda **options: options, {}, offered=offered) == {}


def test_wrong_options_are_all_told_with_the_signature():
    with pytest.raises(ConfigError) as caught:
        call_factory(factory, {"widht": 3, "weigths": "x"}, kind="nets:factory", key_path=("model",), keys=["weights"])
    unknown, other, missing = caught.value.mistakes
    assert unknown.path == ("model", "widht") and isinstance(unknown.path[-1], Key)
    assert unknown.message == (
        "nets:factory takes no such option (did you mean width?); it is factory(width: int, *, depth: int = 2)"
    )
    assert "did you mean weights?" in other.message
    assert missing.path == ("model",) and missing.message.startswith("nets:factory needs width; it is ")


def test_a_function_without_a_signature_is_called_all_the_same():
    assert call_factory(dict, {"a": 1}) == {"a": 1}


def test_a_factory_that_raises_is_told_with_the_line_in_the_users_file(tmp_path):
    write(tmp_path, my_nets="def build():\n    return helper()\n\ndef helper():\n    return {}['lost']\n")
    build = resolve("my_nets:build", "models", tmp_path)
    mistake = the_mistake(call_factory, build, {}, kind="my_nets:build", key_path=("model",), base=tmp_path)
    assert mistake == Mistake(("model",), "my_nets:build raised KeyError: 'lost' (my_nets.py:5, in helper)")


def test_the_frame_is_the_users_even_if_a_library_raised(tmp_path):
    write(tmp_path, my_nets="import json\ndef build():\n    return json.loads('{')\n")
    build = resolve("my_nets:build", "models", tmp_path)
    assert the_mistake(call_factory, build, {}, base=tmp_path).message.endswith("(my_nets.py:3, in build)")


def test_a_factory_may_import_from_the_yamls_folder_when_it_is_called(tmp_path):
    write(
        tmp_path,
        my_nets="def build():\n    import parts_of_it\n    return parts_of_it.value\n",
        parts_of_it="value = 4\n",
    )
    build = resolve("my_nets:build", "models", tmp_path)
    with importable(write(tmp_path / "other")):
        pass
    assert call_factory(build, {}, base=tmp_path) == 4


def test_our_own_errors_keep_their_words():
    def load(path):
        raise DataError(f"{path} has no test split")

    mistake = the_mistake(call_factory, load, {"path": "x.npz"}, key_path=("data",))
    assert mistake == Mistake(("data",), "x.npz has no test split")


def test_mistakes_that_a_factory_locates_count_from_its_section():
    def load(path):
        raise ConfigError([Mistake(("path",), "no such file")])

    assert the_mistake(call_factory, load, {"path": "x"}, key_path=("data",)).path == ("data", "path")


def test_a_factory_must_return_the_type_that_is_expected():
    assert call_factory(factory, {"width": 1}, returns=list)
    message = the_mistake(call_factory, factory, {"width": 1}, kind="a:b", returns=dict).message
    assert message == "a:b returned a list; it must return a dict"
    assert "returned nothing (None)" in the_mistake(call_factory, print, {}, returns=dict).message


def test_what_cannot_be_called_is_said_so():
    assert the_mistake(call_factory, 3, {}, kind="nets:WIDTH").message == (
        "nets:WIDTH is an int, which cannot be called"
    )


def test_an_interrupt_is_no_mistake():
    def build():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_factory(build, {})


# In a YAML


def test_every_wrong_name_in_a_yaml_is_told_at_once_with_its_place_beside_other_mistakes(tmp_path):
    offer(tmp_path / "site", "third-party", objectives={"energy": "fractions:Fraction"})
    write(tmp_path, my_nets="def build():\n    pass\n")
    (tmp_path / "net.yaml").write_text(
        textwrap.dedent("""\
        model: {kind: "my_nets:biuld", forward: "my_nets:call"}
        data: {kind: "my_data:load"}
        objectives:
          - enery
          - {kind: energy}
          - {kind: "my_objectives:Energy"}
        metrics: [torqe]
        seed: many
        """)
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "net.yaml", checks=[name_mistakes])
    places = [line.split(": ")[0] for line in str(caught.value).splitlines() if line.startswith(str(tmp_path))]
    lines_and_columns = [place.removeprefix(f"{tmp_path}/net.yaml:") for place in places]
    assert lines_and_columns == ["1:15", "1:41", "2:14", "4:5", "6:12", "7:11", "8:7"]


@pytest.mark.parametrize(
    "values",
    [{}, {"model": None, "data": 3, "objectives": "size"}, {"model": {}, "metrics": [None, 3, {"kind": []}]}],
)
def test_values_of_any_shape_are_looked_at(tmp_path, values):
    assert name_mistakes(values, tmp_path) == []


def test_a_factorys_mistake_is_shown_in_the_yaml(tmp_path):
    document = Document.parse("model: {kind: nets, widht: 3}\n", "net.yaml")
    with pytest.raises(ConfigError) as caught:
        call_factory(factory, {"width": 1, "widht": 3}, kind="nets", key_path=("model",))
    assert str(locate(caught.value, document)).splitlines() == [
        "net.yaml:1:21: model.widht: nets takes no such option (did you mean width?); it is "
        "nets(width: int, *, depth: int = 2)",
        "  model: {kind: nets, widht: 3}",
        "                      ^",
    ]


# Source files


def test_source_files_are_the_users_own_modules_and_what_they_import(tmp_path):
    write(tmp_path, my_nets="import json\nimport numpy\nfrom parts import Part\nclass Net:\n    pass\n")
    write(tmp_path, parts="class Part:\n    pass\n", unrelated="")
    net = partial(resolve("my_nets:Net", "models", tmp_path))
    resolve("unrelated:__name__", "models", tmp_path)
    files = source_files([net, json_dumps_partial(), 3, "text", resolve])
    assert list(files) == [str(tmp_path.resolve() / name) for name in ("my_nets.py", "parts.py")]


def json_dumps_partial():
    import json

    return partial(json.dumps, indent=1)


def test_a_changed_file_has_another_fingerprint_and_an_equal_one_the_same(tmp_path):
    fingerprints: list[str] = []
    for number, text in enumerate(
        ["value = 1\ndef f(): ...\n", "value = 2\ndef f(): ...\n", "value = 1\ndef f(): ...\n"]
    ):
        folder = write(tmp_path / str(number), my_nets=text)
        fingerprints += source_files([resolve("my_nets:f", "models", folder)]).values()
    first, changed, same = fingerprints
    assert first == same != changed


def test_what_is_installed_has_no_source_file():
    assert source_files([pytest.raises, sys, len, json_dumps_partial()]) == {}
