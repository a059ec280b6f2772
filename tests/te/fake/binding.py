# SPDX-License-Identifier: Apache-2.0
"""A stand-in for ``transformer_engine_torch``, the binary part of Transformer Engine.

Its enumerations have the library's names. Its kernels are those that the forward and backward pass
of a GPT model call. Any other kernel raises an error with its name when it is called.
"""

from __future__ import annotations

import enum
import types
from typing import Any

from tests.te.fake import context_parallel_kernels, cudnn_rules, dense_kernels
from tests.te.fake.calls import MACHINE

_PARTS = {
    "NVTE_Bias_Type": "NO_BIAS PRE_SCALE_BIAS POST_SCALE_BIAS ALIBI",
    "NVTE_Mask_Type": "NO_MASK PADDING_MASK CAUSAL_MASK PADDING_CAUSAL_MASK "
    "CAUSAL_BOTTOM_RIGHT_MASK PADDING_CAUSAL_BOTTOM_RIGHT_MASK",
    "NVTE_Softmax_Type": "VANILLA_SOFTMAX OFF_BY_ONE_SOFTMAX LEARNABLE_SOFTMAX",
    "NVTE_QKV_Format": "SBHD BSHD THD BSHD_2SBHD SBHD_2BSHD THD_2BSHD THD_2SBHD BHSD "
    "QKV_Format_NOT_SET",
    "NVTE_QKV_Layout": "SB3HD SBH3D SBHD_SB2HD SBHD_SBH2D SBHD_SBHD_SBHD BS3HD BSH3D BSHD_BS2HD "
    "BSHD_BSH2D BSHD_BSHD_BSHD T3HD TH3D THD_T2HD THD_TH2D THD_THD_THD SBHD_BSHD_BSHD "
    "BSHD_SBHD_SBHD THD_BSHD_BSHD THD_SBHD_SBHD Paged_KV_BSHD_BSHD_BSHD Paged_KV_BSHD_SBHD_SBHD "
    "Paged_KV_SBHD_BSHD_BSHD Paged_KV_SBHD_SBHD_SBHD Paged_KV_THD_BSHD_BSHD "
    "Paged_KV_THD_SBHD_SBHD BHSD_BHSD_BHSD QKV_Layout_NOT_SET",
    "NVTEScalingMode": "DELAYED_TENSOR_SCALING MXFP8_1D_SCALING BLOCK_SCALING_1D BLOCK_SCALING_2D "
    "NVFP4_1D_SCALING INVALID_SCALING",
    "NVTE_Activation_Type": "GELU GEGLU SWIGLU",
}
_WHOLE = {
    "NVTERoutingMapFormat": "BYTEMAP BITMAP_U8",
    "NVTEQBHistogramMode": "TWO_KERNEL FUSED_ATOMIC",
    "Float8BlockScaleTensorFormat": "GEMM_READY COMPACT INVALID",
    "CommOverlapType": "RS AG",
    "CommOverlapAlgo": "BULK_OVERLAP_AG BULK_OVERLAP_RS SPLIT_PIPELINED_AG_P2P SPLIT_PIPELINED_RS "
    "SPLIT_PIPELINED_RS_P2P ATOMIC_GEMM_RS ATOMIC_GEMM_AG_P2P ATOMIC_GEMM_RS_P2P "
    "EXTERNAL_BULK_OVERLAP_AG",
    "FP8FwdTensors": "GEMM1_INPUT GEMM1_WEIGHT GEMM1_OUTPUT GEMM2_INPUT GEMM2_WEIGHT GEMM2_OUTPUT "
    "GEMM3_INPUT GEMM3_WEIGHT GEMM3_OUTPUT",
    "FP8BwdTensors": "GRAD_OUTPUT1 GRAD_INPUT1 GRAD_OUTPUT2 GRAD_INPUT2 GRAD_OUTPUT3 GRAD_INPUT3",
}
_SHORTER = (2, 18)  # from here on the enumerations are shorter and questions are objects


def _enumeration(name: str, members: list[str]) -> Any:
    return enum.IntEnum(name, {member: number for number, member in enumerate(members)})


def _enumerations(release: tuple[int, int]) -> dict[str, Any]:
    is_old = release < _SHORTER
    backends = "F16_arbitrary_seqlen FP8 No_Backend"
    parts = _PARTS | {
        "NVTE_Fused_Attn_Backend": f"F16_max512_seqlen {backends}" if is_old else backends
    }
    floats = "kFloat32 kFloat16 kBFloat16 kFloat8E4M3 kFloat8E5M2"
    whole = _WHOLE | {
        "DType": f"kByte kInt16 kInt32 kInt64 {floats} kFloat8E8M0 kFloat4E2M1"
        if is_old
        else f"kByte kInt32 {floats} kFloat4E2M1"
    }
    made = {name: _enumeration(name, text.split()) for name, text in whole.items()}
    for name, text in parts.items():
        made[name] = _enumeration(name, [f"NVTE_{member}" for member in text.split()])
    return made


class Binding(types.ModuleType):
    """The module; it makes a class or a failing function of every name that it lacks."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name[0].isupper():
            made: Any = type(name, (), {"__module__": self.__name__})
        else:

            def made(*_: Any, **__: Any) -> Any:
                raise NotImplementedError(f"there is no stand-in for the kernel {name}")

        setattr(self, name, made)
        return made


def make_binding(release: tuple[int, int]) -> Binding:
    """Return the stand-in for a release of Transformer Engine."""
    binding = Binding("transformer_engine_torch")
    for name, value in _enumerations(release).items():
        setattr(binding, name, value)
    for kernel in (*dense_kernels.KERNELS, *context_parallel_kernels.KERNELS):
        setattr(binding, kernel.__name__, kernel)

    def packed_rope(kernel: Any) -> Any:  # before 2.3 or so packed rows had their own functions
        layout = binding.NVTE_QKV_Format.NVTE_THD
        return lambda x, offsets, freqs, size, rank: kernel(
            x, freqs, layout, False, offsets, size, rank
        )

    def backend_of(why_not: str) -> Any:
        name = "No_Backend" if why_not else "F16_arbitrary_seqlen"
        return binding.NVTE_Fused_Attn_Backend[f"NVTE_{name}"]

    def of_arguments(*arguments: Any) -> Any:
        return backend_of(cudnn_rules.why_not(cudnn_rules.from_arguments(arguments)))

    def of_parameters(parameters: Any) -> tuple[Any, str]:
        reasons = cudnn_rules.why_not(cudnn_rules.from_parameters(parameters))
        return backend_of(reasons), reasons

    functions = {
        "fused_rope_thd_forward": packed_rope(dense_kernels.fused_rope_forward),
        "fused_rope_thd_backward": packed_rope(dense_kernels.fused_rope_backward),
        "get_fused_attn_backend": of_arguments if release < _SHORTER else of_parameters,
        "get_cudnn_version": lambda: (
            MACHINE.cudnn[0] * 10_000 + MACHINE.cudnn[1] * 100 + MACHINE.cudnn[2]
        ),
        "get_cublasLt_version": lambda: 130_000,
        "get_num_cublas_streams": lambda: 4,
        "get_stream_priority_range": lambda *_: (0, -5),
        "ubuf_built_with_mpi": lambda: False,
        "device_supports_multicast": lambda *_: False,
    }
    for name, function in functions.items():
        setattr(binding, name, function)
    binding.__all__ = [name for name in vars(binding) if not name.startswith("_")]
    return binding
