# SPDX-License-Identifier: Apache-2.0
"""How a model is spread over GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_packing.errors import InputError
from megatron_packing.flops.model import ModelShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Parallel sizes, as Megatron names them.

    Ranks are numbered with tensor parallelism innermost, then context, data and pipeline
    parallelism. A micro-batch is one row, as packed rows need it.
    """

    data: int
    tensor: int = 1
    pipeline: int = 1
    virtual: int = 1
    """Model chunks of each pipeline stage; above 1 the schedule is interleaved."""
    context: int = 1
    expert: int = 1
    """Ranks, of context and data parallelism, that share the experts of a layer."""

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            InputError: A size is below 1, or two sizes exclude each other.
        """
        for name in ("data", "tensor", "pipeline", "virtual", "context", "expert"):
            if (size := getattr(self, name)) < 1:
                raise InputError(f"the {name}-parallel size is {size}; it must be at least 1")
        if self.virtual > 1 and self.pipeline == 1:
            raise InputError(
                f"the virtual-pipeline size is {self.virtual}, but there is one pipeline stage; "
                f"give a pipeline-parallel size of 2 or more"
            )
        if (self.context * self.data) % self.expert:
            raise InputError(
                f"the expert-parallel size is {self.expert}; it must divide context * data "
                f"parallelism, which is {self.context} * {self.data}"
            )

    @classmethod
    def of_gpus(cls, gpus: int, **sizes: int) -> Layout:
        """The layout that leaves data parallelism the GPUs that the other sizes do not use.

        Raises:
            InputError: The others do not divide the number of GPUs.
        """
        model = Layout(data=1, **(sizes | {"expert": 1}))
        if gpus < 1 or gpus % model.gpus_of_a_replica:
            raise InputError(
                f"{gpus:,} GPUs are no multiple of {model.gpus_of_a_replica}, which is tensor * "
                f"pipeline * context parallelism ({model.tensor} * {model.pipeline} * "
                f"{model.context})"
            )
        return cls(data=gpus // model.gpus_of_a_replica, **sizes)

    @property
    def gpus_of_a_replica(self) -> int:
        """GPUs that one row runs through."""
        return self.tensor * self.pipeline * self.context

    @property
    def gpus(self) -> int:
        """All GPUs."""
        return self.gpus_of_a_replica * self.data

    def layers_of_chunks(self, model: ModelShape) -> list[list[int]]:
        """Transformer layers of each model chunk, by stage and chunk.

        Where the layers do not divide evenly but would with two more, the first and the last chunk
        have one less, as with ``--account-for-embedding-in-pipeline-split`` and
        ``--account-for-loss-in-pipeline-split``.

        Raises:
            InputError: They do not divide in either way.
        """
        chunks = self.pipeline * self.virtual
        extra = 2 if model.num_layers % chunks and chunks > 1 else 0
        if (model.num_layers + extra) % chunks or model.num_layers < chunks:
            raise InputError(
                f"{model.num_layers} layers cannot be shared by {self.pipeline} pipeline stages "
                f"of {self.virtual} chunks: neither {model.num_layers} nor "
                f"{model.num_layers + 2}, with embedding and loss in place of one each, is a "
                f"multiple of {chunks}; choose other sizes"
            )
        each = (model.num_layers + extra) // chunks
        layers = [[each] * self.virtual for _ in range(self.pipeline)]
        if extra:
            layers[0][0] -= 1
            layers[-1][-1] -= 1
        return layers

    def rows_of_a_rank(self, global_batch_size: int) -> int:
        """Micro-batches of a step that each data-parallel rank computes.

        Raises:
            InputError: They are not the same for all ranks, or the interleaved schedule cannot run
                as many.
        """
        rows, rest = divmod(global_batch_size, self.data)
        if rest or rows < 1:
            raise InputError(
                f"the global batch size is {global_batch_size}; it must be a multiple of the "
                f"data-parallel size, which is {self.data}"
            )
        if self.virtual > 1 and rows % self.pipeline:
            raise InputError(
                f"each data-parallel rank has {rows} rows of a step; the interleaved schedule "
                f"needs a multiple of the pipeline-parallel size, which is {self.pipeline}"
            )
        return rows

    def describe(self) -> str:
        """The sizes in one line, without those that are 1."""
        sizes = {
            "TP": self.tensor,
            "PP": self.pipeline,
            "VPP": self.virtual,
            "CP": self.context,
            "EP": self.expert,
            "DP": self.data,
        }
        return ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1) or "DP 1"
