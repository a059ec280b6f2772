# SPDX-License-Identifier: Apache-2.0
"""Reads the flags of a pretrain script, and makes Megatron's arguments of a small model of them."""

from __future__ import annotations

import difflib
import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.transformer import MLATransformerConfig
from megatron.training.arguments import add_megatron_arguments, validate_args

from megatron_packing.errors import InputError
from megatron_packing.megatron.arguments import add_packing_arguments
from megatron_packing.megatron.checks import check_packing_arguments
from megatron_packing.megatron.flags import flag_of
from megatron_packing.megatron.gpu_layers import ON_CPU, check_gpu_layers
from megatron_packing.megatron.small_rows import POSITIONS
from megatron_packing.megatron.small_sizes import VOCABULARY, small_sizes

_MODEL = {
    *("num_experts", "swiglu", "squared_relu", "quick_geglu", "group_query_attention"),
    *("position_embedding_type", "use_rotary_position_embeddings", "max_position_embeddings"),
    *("rotary_base", "rotary_percent", "rotary_seq_len_interpolation_factor"),
    *("use_rope_scaling", "rope_scaling_factor", "yarn_original_max_position_embeddings"),
    *("yarn_beta_fast", "yarn_beta_slow", "yarn_correction_range_round_to_int"),
    *("untie_embeddings_and_output_weights", "init_method_xavier_uniform", "openai_gelu"),
    *("hybrid_layer_pattern", "hybrid_override_pattern", "hybrid_attention_ratio"),
    *("hybrid_mlp_ratio", "spec", "recompute_activations", "encoder_num_layers"),
    *("packing_attention", "packing_position_ids", "bf16", "fp16"),
}
"""Arguments that say what a model computes, beside the fields of its configuration."""

_HOW = {
    *("cuda_graph_impl", "cuda_graph_modules", "cuda_graph_scope", "enable_cuda_graph"),
    *("external_cuda_graph", "cuda_graph_warmup_steps", "cp_comm_type"),
    *("pipeline_model_parallel_layout", "account_for_embedding_in_pipeline_split"),
    *("account_for_loss_in_pipeline_split", "distribute_saved_activations"),
    *("fine_grained_activation_offloading", "offload_modules", "moe_token_dispatcher_type"),
    *("moe_enable_deepep", "moe_shared_expert_overlap", "init_model_with_meta_device"),
    *("config_logger_dir", "hidden_dropout", "attention_dropout", "log_max_attention_logit"),
    *("calculate_per_token_loss", "moe_router_force_load_balancing"),
}
"""Fields of the configuration that say how and where it is computed, or are set for the check."""

_ON_CPU = ON_CPU | {
    **dict.fromkeys(("bias_swiglu_fusion", "bias_gelu_fusion"), False),
    "no_persist_layer_norm": True,
}

_CANNOT = {
    "heterogeneous_layers_config_path": "it gives each layer sizes of its own",
    "heterogeneous_layers_config_encoded_json": "it gives each layer sizes of its own",
    "yaml_cfg": "it has flags in a file of Megatron's own; give them as flags",
    "use_checkpoint_args": "flags would come from a checkpoint; give them",
}

_UNSET = object()


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"--megatron-flags: {message}")


def arguments_of_small_model(given: str, *, on_cpu: bool) -> tuple[Namespace, list[str]]:
    """Return Megatron's arguments of a small model with the layers that flags ask for.

    Args:
        given: Flags of Megatron and of ``add_packing_arguments``, or a file that has them.
        on_cpu: Whether it is built of local layers in float32.

    Returns:
        Megatron's arguments, checked by Megatron and for packing, and the flags that were left out,
        as they do not say what the model computes.

    Raises:
        InputError: A flag does not exist, cannot be made small, or is refused.
    """
    parser = _parser()
    told = _parse(parser, _words(given))
    for name, reason in _CANNOT.items():
        if told.get(name):
            raise InputError(
                f"{flag_of(name)} cannot be checked without a run: {reason}; start the run with "
                f"--packing-check"
            )
    known = {field.name for field in fields(MLATransformerConfig)}
    known = (known - {field.name for field in fields(ModelParallelConfig)} - _HOW) | _MODEL
    flag_by_name = {action.dest: action.option_strings[0] for action in parser._actions}
    left_out = [flag_by_name[name] for name in told if name not in known]
    args = parser.parse_args([])
    vars(args).update({name: value for name, value in told.items() if name in known})
    if args.num_layers is None and args.encoder_num_layers is not None:
        args.num_layers, args.encoder_num_layers = args.encoder_num_layers, None
    if on_cpu and args.spec is None:
        check_gpu_layers(args)
    _make_small(args, on_cpu=on_cpu)
    try:
        validate_args(args)
    except (AssertionError, ValueError, RuntimeError, TypeError) as error:
        said = " ".join(str(error).split()) or "an assertion of its own failed"
        raise InputError(f"--megatron-flags: Megatron refuses them: {said}") from error
    check_packing_arguments(args)
    if args.packing_attention == "pack":
        raise InputError(
            "--packing-attention pack lets documents of a row see each other, so there is nothing "
            "to check; leave it out"
        )
    return args, left_out


def default_arguments() -> Namespace:
    """Return Megatron's arguments where no flag is given."""
    return _parser().parse_args([])


def _parser() -> _Parser:
    parser = _Parser(allow_abbrev=False, add_help=False)
    add_megatron_arguments(parser)
    add_packing_arguments(parser)
    return parser


def _words(given: str) -> list[str]:
    """Return the words of a text or of a file, from the first flag on."""
    text, where = given, "--megatron-flags"
    if "--" not in given or _is_file(given):
        where = f"--megatron-flags {given}"
        try:
            text = Path(given).read_text()
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or error
            raise InputError(
                f"{where}: {said}; give flags such as '--num-layers 32', or a file that has them"
            ) from error
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise InputError(f"{where}: {error}; close each quotation mark") from error
    first = next((n for n, word in enumerate(words) if word.startswith("--")), len(words))
    script = next((n for n, word in enumerate(words) if word.endswith(".py")), -1)
    words = words[max(first, script + 1) :]
    for word in words:
        if "$" in word or word in ("(", ")", ";", "&&", "|"):
            raise InputError(f"{where} has {word}, which a shell would replace; give flags alone")
    if not words:
        raise InputError(f"{where} has no flags; give those of your pretrain script")
    return words


def _is_file(given: str) -> bool:
    try:
        return Path(given).is_file()
    except (OSError, ValueError):  # too long for a name
        return False


def _parse(parser: _Parser, words: list[str]) -> dict[str, Any]:
    """Return the arguments that flags give, by name."""
    names = {action.dest for action in parser._actions}
    told, unknown = parser.parse_known_args(words, Namespace(**dict.fromkeys(names, _UNSET)))
    if unknown:
        flag = unknown[0].partition("=")[0]
        close = difflib.get_close_matches(flag, list(parser._option_string_actions), 1)
        raise InputError(
            f"--megatron-flags: neither Megatron nor this package has {flag}"
            + (f"; did you mean {close[0]}?" if close else "; leave it out")
        )
    return {name: value for name, value in vars(told).items() if value is not _UNSET}


def _make_small(args: Namespace, *, on_cpu: bool) -> None:
    """Change arguments, before Megatron validates them, for one process and one row."""
    for name, value in small_sizes(args).items():
        setattr(args, name, value)
    changes: dict[str, Any] = {
        "rank": 0,
        "world_size": 1,
        "micro_batch_size": 1,
        "global_batch_size": 1,
        "seq_length": POSITIONS,
        "padded_vocab_size": VOCABULARY,
        "calculate_per_token_loss": True,
        "create_attention_mask_in_dataloader": False,
        "moe_token_dispatcher_type": "alltoall",
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        **(_ON_CPU if on_cpu else {}),
    }
    is_long = (args.max_position_embeddings or 0) >= POSITIONS
    if not is_long or args.position_embedding_type == "learned_absolute":
        changes["max_position_embeddings"] = POSITIONS
    if on_cpu and not isinstance(args.attention_backend, str):
        changes["attention_backend"] = type(args.attention_backend).auto
    for name, value in changes.items():
        setattr(args, name, value)
    args._is_global_batch_size_explicitly_specified = True
