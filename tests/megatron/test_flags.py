# SPDX-License-Identifier: Apache-2.0
"""Every argument of Megatron has a decision: used, harmless or refused."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest

pytest.importorskip("megatron.core")

import megatron.core
from megatron.core.datasets.gpt_dataset import GPTDatasetConfig
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.msc_utils import MultiStorageClientFeature
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer import MLATransformerConfig
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.torch_norm import WrappedTorchNorm

from megatron_packing.errors import InputError
from megatron_packing.megatron.arguments import add_packing_arguments
from megatron_packing.megatron.checks import check_packing_arguments
from megatron_packing.megatron.flags import REFUSED, flag_of
from tests.conftest import ROOT
from tests.megatron.flag_table import CHECKED, FIELDS, HARMLESS, MEGATRON, PACKING
from tests.trainer import megatrons_flags, needs_trainer

LISTS = [set(REFUSED), CHECKED, PACKING, MEGATRON, FIELDS, *map(set, HARMLESS.values())]
SOURCES = Path(next(iter(megatron.core.__path__))).parent


def undecided(names: set[str]) -> set[str]:
    return names - set().union(*LISTS)


def test_no_argument_has_two_decisions():
    counts = Counter(name for names in LISTS for name in names)
    assert not [name for name, count in counts.items() if count > 1]


@needs_trainer
def test_every_argument_of_megatrons_parser_is_decided_and_an_invented_one_is_not():
    names = frozenset(megatrons_flags())
    assert len(names) > 700
    assert undecided(names) == set(), "decide what they mean for packed rows: see flag_table.py"
    assert undecided(names | {"train_backwards"}) == {"train_backwards"}


@pytest.mark.parametrize(
    "config",
    [MLATransformerConfig, OptimizerConfig, DistributedDataParallelConfig, GPTDatasetConfig],
)
def test_every_field_of_megatrons_configurations_is_decided(config):
    names = {field.name for field in fields(config)}
    assert undecided(names) == set()
    assert undecided(names | {"train_backwards"}) == {"train_backwards"}


@needs_trainer
def test_what_megatron_is_said_to_read_stands_in_its_code():
    """In 0.19; other versions have names of their own."""
    texts = [path.read_text() for path in SOURCES.glob("[ct]*/**/*.py")]
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    assert not [name for name in MEGATRON & frozenset(megatrons_flags()) if not words[name]]


def test_what_packing_is_said_to_read_stands_in_its_code():
    folder = ROOT / "megatron_packing" / "megatron"
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    from_config = {field.name for field in fields(GPTDatasetConfig)}  # taken over by name
    words = set(re.findall(r"\w+", text)) | from_config
    assert words >= PACKING | CHECKED


def test_each_reason_is_of_some_argument():
    assert all(HARMLESS.values())
    assert all(reason.strip() for reason in [*HARMLESS, *REFUSED.values()])


# What the layers of --transformer-impl local would read, which packed ones replace.
HONORED = {
    "apply_query_key_layer_scaling",  # moves factors about, against overflow
    "attention_softmax_in_fp32",  # sums are in float32 at least
    "bf16",
    "context_parallel_size",
    "fp16",
    "init_method",  # of the learnable softmax
    "kv_channels",
    "masked_softmax_fusion",  # which kernel
    "normalization",
    "num_attention_heads",
    "num_query_groups",
    "params_dtype",
    "perform_initialization",
    "persist_layer_norm",  # which kernel
    "sequence_parallel",
}
REFUSED_FOR_LOCAL = {
    "attention_dropout",
    "layernorm_zero_centered_gamma",
    "memory_efficient_layer_norm",
    "softmax_type",
    "window_attn_skip_freq",  # of a window
    "window_size",
}


@pytest.mark.parametrize("replaced", [DotProductAttention, WrappedTorchNorm])
def test_packed_layers_honor_or_refuse_what_those_in_their_place_read(replaced):
    text = Path(sys.modules[replaced.__module__].__file__).read_text()
    read = set(re.findall(r"\bconfig\.(\w+)", text))
    assert read
    assert read <= HONORED | REFUSED_FOR_LOCAL


@pytest.fixture
def right() -> Namespace:
    """Arguments that are not refused, of which checks read more than the flags of packing."""
    args = add_packing_arguments(ArgumentParser()).parse_args([])
    others = {
        "micro_batch_size": 1,
        "create_attention_mask_in_dataloader": False,
        "calculate_per_token_loss": True,
        "dataloader_type": "single",
        "position_embedding_type": "rope",
        "mtp_num_layers": None,
        "num_experts": None,
        "seq_length": 128,
        "context_parallel_size": 1,
        "tensor_model_parallel_size": 1,
        "sequence_parallel": False,
        "transformer_impl": "local",
    }
    for name, value in others.items():
        setattr(args, name, value)
    check_packing_arguments(args)
    return args


@pytest.mark.parametrize("name", REFUSED)
def test_each_refused_flag_is_named_with_its_reason(right, name):
    setattr(right, name, "given")
    with pytest.raises(InputError, match="is not supported with packing") as error:
        check_packing_arguments(right)
    assert str(error.value).startswith(f"{flag_of(name)} is not")
    assert REFUSED[name] in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("position_embedding_type", "mrope", "--position-embedding-type is mrope"),
        ("position_embedding_type", "relative", "--position-embedding-type is relative"),
        ("experimental_attention_variant", "dsa", "key selection counts padding"),
        ("dataloader_inter_document_masking", True, "leave one of the two out"),
        ("eval_micro_batch_size", 2, "--eval-micro-batch-size is 2"),
        ("save", "s3://bucket/run", "--save is s3://bucket/run, but Megatron would create"),
        ("save", "msc://lab/run", "--save is msc://lab/run, but Megatron's multi-storage client"),
        ("load", "msc://lab/run", "--load is msc://lab/run, but Megatron's multi-storage client"),
        ("data_cache_path", "msc://lab/cache", "cached files are memory-mapped"),
        ("packing_indexes", ["s3://b/packs"], "--object-storage-cache-path too, .* for a copy of"),
        ("packing_indexes", ["gs://b/packs"], "--packing-indexes names .* only s3:// and msc://"),
        ("data_path", ["s3://b/a"], "give --object-storage-cache-path too"),
        ("train_data_path", ["1", "/a,msc://lab/a"], "multi-storage client is off"),
        ("data_path", ["gs://b/a"], "Megatron reads only s3:// and msc://"),
    ],
)
def test_other_values_that_packed_rows_cannot_follow_are_refused(right, name, value, message):
    right.packing_attention = "pack"
    setattr(right, name, value)
    MultiStorageClientFeature.disable()
    with pytest.raises(InputError, match=message):
        check_packing_arguments(right)


@pytest.mark.parametrize("layout", ["Ett|tt|m|L", "Et|(tm|)*2L"])
def test_layers_of_multi_token_prediction_on_another_stage_than_the_last_are_refused(right, layout):
    right.mtp_num_layers = 1
    right.pipeline_model_parallel_layout = "Ett|tt|tm|tmL"
    check_packing_arguments(right)
    right.pipeline_model_parallel_layout = layout
    with pytest.raises(InputError, match="put them on the last stage"):
        check_packing_arguments(right)


def test_fewer_than_no_layers_of_multi_token_prediction_are_refused(right):
    right.mtp_num_layers = -1
    right.pipeline_model_parallel_layout = None
    with pytest.raises(InputError, match="--mtp-num-layers is -1; give at least 1"):
        check_packing_arguments(right)


def test_all_wrong_flags_are_named_at_once(right):
    right.sft = right.fim_data = True
    right.packing_alignment = 3
    with pytest.raises(InputError) as error:
        check_packing_arguments(right)
    first, *rest = str(error.value).splitlines()
    assert first == "3 settings are wrong:"
    assert [line.split()[1] for line in rest] == ["--sft", "--fim-data", "--packing-alignment"]
