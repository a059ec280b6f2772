# SPDX-License-Identifier: Apache-2.0
"""Probes of Megatron's and Bridge's releases stand in ``versions`` and ``moved_names`` alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "megatron_packing"
VERSIONS = ("megatron/versions.py", "bridge/versions.py", "bridge/moved_names.py")
# What a release may or may not have: arguments, settings and modules of the trainers.
OF_TRAINERS = re.compile(r"args|cfg(\.(dataset|dist|train|validation))?|megatron\..+|checkpointing")

# Code that looks like a probe and is none, by file, each with the reason.
NO_PROBES = {
    "bridge/checks.py": {
        "bridge_version()": "names the version in a message",
        "hasattr(target, name)": "walks a table of settings",
        'getattr(cfg, "comm_overlap", None)': "an optional part of a recipe",
        "getattr(cfg, part, None)": "walks a table of settings",
        "getattr(cfg.train, name, None)": "walks a table of settings",
    },
    "bridge/model_kinds.py": {
        "bridge_version()": "names the version in a message",
        "core_version()": "names the version in a message",
    },
    "bridge/recipe.py": {"hasattr(cfg.dataset, name)": "other kinds of dataset lack some fields"},
    "bridge/small_provider.py": {"hasattr(provider, setting)": "walks a table of settings"},
    "bridge/vocabulary.py": {
        'hasattr(part, "backend_tokenizer")': "kinds of tokenizers",
        'hasattr(tokenizer, "backend_tokenizer")': "kinds of tokenizers",
    },
    "megatron/arguments.py": {
        "hasattr(args, field.name)": "only some fields of the config are flags",
        'getattr(args, "eval_global_batch_size", None)': "read beside the fields",
    },
    "megatron/checks.py": {
        'hasattr(args, "packing_strategy")': "a flag of this package",
        "getattr(args, name, None)": "walks the table REFUSED, which names flags of some releases",
    },
    "megatron/data_checks.py": {"getattr(args, name, None)": "walks a table of flags"},
    "megatron/experts.py": {
        "hasattr(module, _PREPARED)": "a mark of this package",
        "inspect.signature(attach)": "binds arguments",
    },
    "megatron/hybrid_checks.py": {"getattr(args, name, None)": "walks a table of flags"},
    "megatron/isolation_verdict.py": {'hasattr(inner, "decoder")': "kinds of models"},
    "megatron/isolation_recorder.py": {
        'hasattr(layer, "mixer")': "tells Mamba layers",
        'hasattr(module, "mixer")': "tells Mamba layers",
    },
    "megatron/isolation_trace.py": {
        'hasattr(chunk, "no_sync")': "whether a model is wrapped for data parallelism",
        'hasattr(chunk, "zero_grad_buffer")': "whether a model is wrapped for data parallelism",
        'hasattr(module, "hidden_dropout")': "tells layers that drop activations",
        "hasattr(config, name)": "walks a table of settings",
    },
    "megatron/live_figures.py": {
        'hasattr(training.train, "shows_packing")': "a mark of this package",
    },
    "megatron/trainer.py": {
        'hasattr(get_model_config(model), "packed_rows_attention")': "a mark of this package",
    },
    "megatron/storage_checks.py": {"getattr(args, name, None)": "walks a table of flags"},
    "needs/installed.py": {"except ModuleNotFoundError": "looks for packages"},
    "report/probe_picture.py": {"except ModuleNotFoundError": "an optional package"},
    "stream/record_file.py": {"except ModuleNotFoundError": "an optional package"},
    "stream/record_on_save.py": {'hasattr(save, "writes_record")': "a mark of this package"},
    "thd/attention.py": {"inspect.signature(varlen_attn)": "probes torch, not Megatron"},
}
ROOMS = ("bridge", "interchange", "megatron", "needs", "report", "stream", "thd")


def probes_in(source: str) -> Iterator[str]:
    """The expressions that may ask for a release."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            for name in ("ImportError", "ModuleNotFoundError"):
                if name in ast.unparse(node.type).split("."):
                    yield f"except {name}"
        if not isinstance(node, ast.Call):
            continue
        called, code = ast.unparse(node.func), ast.unparse(node).replace("'", '"')
        has_default = called == "getattr" and len(node.args) == 3
        if called in ("core_version", "bridge_version", "inspect.signature", "hasattr") or (
            has_default and OF_TRAINERS.fullmatch(ast.unparse(node.args[0]))
        ):
            yield code


def found_in_package() -> dict[str, set[str]]:
    paths = (path for room in ROOMS for path in sorted((PACKAGE / room).glob("*.py")))
    found = {
        path.relative_to(PACKAGE).as_posix(): set(probes_in(path.read_text())) for path in paths
    }
    return {name: probes for name, probes in found.items() if probes and name not in VERSIONS}


def test_no_other_module_asks_for_a_release():
    strays = {
        (name, probe)
        for name, probes in found_in_package().items()
        for probe in probes - NO_PROBES.get(name, {}).keys()
    }
    assert strays == set()


def test_every_exception_is_still_there():
    found = found_in_package()
    stale = {
        (name, probe)
        for name, probes in NO_PROBES.items()
        for probe in probes.keys() - found.get(name, set())
    }
    assert stale == set()


@pytest.mark.parametrize(
    ("source", "probe"),
    [
        ("if hasattr(args, 'new_flag'): pass", 'hasattr(args, "new_flag")'),
        ("x = getattr(cfg.train, 'num_epochs', None)", 'getattr(cfg.train, "num_epochs", None)'),
        (
            "x = getattr(megatron.training.training, 'update', None)",
            'getattr(megatron.training.training, "update", None)',
        ),
        ("x = core_version() >= (0, 19)", "core_version()"),
        ("x = bridge_version() < (0, 5)", "bridge_version()"),
        ("inspect.signature(f)", "inspect.signature(f)"),
        ("try:\n    import a\nexcept ImportError:\n    import b", "except ImportError"),
    ],
)
def test_a_probe_is_found(source, probe):
    assert probe in set(probes_in(source))


def versions_functions() -> Iterator[tuple[str, str, str]]:
    for name in VERSIONS:
        for node in ast.parse((PACKAGE / name).read_text()).body:
            if isinstance(node, ast.FunctionDef):
                yield name, node.name, ast.get_docstring(node) or ""


# Functions about the supported range as a whole.
OF_ALL_RELEASES = {
    "core_version", "require_trainer", "require_model_builders", "describe_untested_trainer",
    "warn_if_older_than_tested", "_trainer_problem", "_found", "_numbers", "flag_value",
    "check_tested", "bridge_version",
}  # fmt: skip


@pytest.mark.parametrize(("module", "function", "docstring"), list(versions_functions()))
def test_each_difference_says_when_its_code_can_go(module, function, docstring):
    if function in OF_ALL_RELEASES:
        return
    said = re.sub(r"\s+", " ", docstring)
    assert re.search(r"Drop .*when 0\.\d+ is the oldest supported\.", said), f"{module}: {function}"
