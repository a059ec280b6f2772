# SPDX-License-Identifier: Apache-2.0
"""What a GPU and its links can do."""

from __future__ import annotations

from dataclasses import dataclass, fields

from megatron_packing.errors import InputError

GPUS_PER_NODE = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A GPU. Rates are those of the vendor's data sheet; efficiencies say what is reached of them.

    The text below each field is the help of its flag.
    """

    name: str
    """What it is called."""
    flops: float
    """Dense BF16 operations a second, without sparsity."""
    memory: float
    """Bytes of memory."""
    memory_bandwidth: float
    """Bytes a second between the GPU and its memory."""
    node_bandwidth: float
    """Bytes a second that the GPU sends to others of its node."""
    network_bandwidth: float
    """Bytes a second that the GPU sends to other nodes."""
    linear_efficiency: float = 0.60
    """Share of ``flops`` that linear layers reach. The default is that of layers of Llama 3 8B on
    an H100 (``benchmarks/simulator_error.py``)."""
    attention_efficiency: float = 0.59
    """Share of ``flops`` that is reached where attention is added, as there."""
    layer_seconds: float = 0.0
    """Seconds that a layer takes for a row whatever its lengths, forward and backward together."""
    document_seconds: float = 0.0
    """Seconds that a layer takes for each document of a row besides its operations, forward and
    backward together: 0 for fused attention, more where each document has kernels of its own."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InputError: A rate is not positive, or an efficiency is above 1.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "name":
                continue
            if field.name.endswith("_seconds"):
                if value < 0:
                    name = field.name.replace("_", " ")
                    raise InputError(f"{name} is {value}; it must be 0 or more")
                continue
            if not value > 0:
                raise InputError(f"{field.name.replace('_', ' ')} is {value}; it must be above 0")
            if field.name.endswith("efficiency") and value > 1:
                raise InputError(
                    f"{field.name.replace('_', ' ')} is {value}; it is a share, at most 1"
                )


# Data sheets of the SXM modules: NVLink's bandwidth is that of one direction, which is half of what
# the sheets print. The network is that of DGX systems: one adapter of 200 or 400 Gbit/s a GPU.
_A100 = {
    "flops": 312e12,
    "memory": 80e9,
    "memory_bandwidth": 2.04e12,
    "network_bandwidth": 25e9,
}
DEVICES: dict[str, Device] = {
    "a100": Device(name="A100", node_bandwidth=300e9, **_A100),
    "a800": Device(name="A800", node_bandwidth=200e9, **_A100),
    "h100": Device(
        name="H100",
        flops=989e12,
        memory=80e9,
        memory_bandwidth=3.35e12,
        node_bandwidth=450e9,
        network_bandwidth=50e9,
    ),
    "h200": Device(
        name="H200",
        flops=989e12,
        memory=141e9,
        memory_bandwidth=4.8e12,
        node_bandwidth=450e9,
        network_bandwidth=50e9,
    ),
}
