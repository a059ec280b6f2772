# SPDX-License-Identifier: Apache-2.0
"""A tokenizer.json is read with the files beside it, alone as in its folder."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from megatron_packing.chat.find_template import find_templates
from megatron_packing.errors import InputError
from megatron_packing.tokenizers.find import find_recorded_forms, find_tokenizer
from megatron_packing.tokenizers.folder import read_folder


@pytest.fixture
def folder(tmp_path):
    alphabet = {symbol: n for n, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<s>", "</s>")])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write(folder, name, value):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def test_file_and_folder_are_one_tokenizer(folder):
    config = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "special": True},
        "pad_token": None,
        "chat_template": "{{ bos_token }}",
    }
    write(folder, "tokenizer_config.json", config)
    file, whole = (find_tokenizer(str(path)) for path in (folder / "tokenizer.json", folder))
    assert file.special_tokens == whole.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert file.sha256 == whole.sha256
    assert file.chat_template == whole.chat_template == "{{ bos_token }}"


def test_a_corpus_may_have_recorded_what_transformers_makes_of_a_folder(folder):
    write(folder, "tokenizer_config.json", {"bos_token": "<s>", "eos_token": "</s>"})
    own, other = find_recorded_forms(str(folder))
    assert own.content == (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert own.sha256 == find_tokenizer(str(folder)).sha256 != other.sha256
    assert own.special_tokens == other.special_tokens


def test_a_special_tokens_map_is_read_and_the_config_goes_before_it(folder):
    write(folder, "special_tokens_map.json", {"bos_token": "<s>", "eos_token": "<s>"})
    write(folder, "tokenizer_config.json", {"eos_token": "</s>"})
    found = find_tokenizer(str(folder / "tokenizer.json")).special_tokens
    assert found == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"eos_token": "<|im_end|>"}),
        ("added_tokens.json", {"<tool>": 258}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"256": {"content": "<bos>"}}}),
    ],
)
def test_a_file_whose_neighbors_name_other_tokens_is_refused(folder, name, content):
    write(folder, name, content)
    with pytest.raises(InputError, match="tokens that it does not have or defines differently"):
        find_tokenizer(str(folder / "tokenizer.json"))


def test_a_damaged_neighbor_is_named(folder):
    write(folder, "tokenizer_config.json", "{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json is not valid JSON"):
        find_tokenizer(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", "[]")
    with pytest.raises(InputError, match=r"tokenizer_config\.json is not a JSON object"):
        find_tokenizer(str(folder))


@pytest.mark.parametrize(
    "config",
    [
        {"added_tokens_decoder": [1]},
        {"auto_map": "x"},
        {"chat_template": [{"name": "a"}]},
        {"chat_template": ["a"]},
    ],
)
def test_values_of_another_kind_are_refused(folder, config):
    write(folder, "tokenizer_config.json", config)
    with pytest.raises(InputError, match=r"tokenizer_config\.json"):
        read_folder(folder)


class TestTemplates:
    @pytest.fixture
    def named(self, folder):
        config = {
            "bos_token": "<s>",
            "eos_token": "</s>",
            "chat_template": [
                {"name": "default", "template": "usual"},
                {"name": "tool_use", "template": "with tools"},
            ],
        }
        write(folder, "tokenizer_config.json", config)
        write(folder, "additional_chat_templates/rag.jinja", "with documents")
        return find_tokenizer(str(folder))

    def test_conversations_with_tools_have_the_template_for_tools(self, named):
        assert find_templates(named, None) == ("usual", "with tools")

    @pytest.mark.parametrize(
        ("name", "text"),
        [("rag", "with documents"), ("tool_use", "with tools"), ("default", "usual")],
    )
    def test_one_is_chosen_by_its_name(self, named, name, text):
        assert find_templates(named, name) == (text, None)

    def test_a_file_goes_before_all(self, named, tmp_path):
        file = tmp_path / "other.jinja"
        file.write_text("other")
        assert find_templates(named, file) == ("other", None)

    def test_what_is_neither_file_nor_name_is_refused(self, named):
        with pytest.raises(InputError, match=r"cannot be read: .* \(default, rag, tool_use\)"):
            find_templates(named, "tools")

    def test_several_without_a_default_are_listed(self, folder):
        config = {"chat_template": [{"name": "rag", "template": "x"}]}
        write(folder, "tokenizer_config.json", config)
        source = find_tokenizer(str(folder / "tokenizer.json"))
        with pytest.raises(InputError, match="no default; choose one with --chat-template rag"):
            find_templates(source, None)

    def test_a_file_of_its_own_goes_before_the_config(self, folder, named):
        assert named.chat_template == "usual"
        write(folder, "chat_template.jinja", "newest")
        assert find_tokenizer(str(folder)).chat_template == "newest"
