# SPDX-License-Identifier: Apache-2.0
"""Rendering, beside that of transformers."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

from transformers.utils.chat_template_utils import render_jinja_template

from megatron_packing.chat.template import ChatTemplate
from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError
from tests.schemas.formats import TRL, is_installed, packaged

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
NAMES = (
    *("llama3", "llama3_1", "llama3_2", "qwen2_5", "qwen3", "gemma", "gemma3", "phi3", "gptoss"),
    *("deepseekv3", "glm4moe", "llama3_training", "qwen2_5_training", "qwen3_training"),
    *("gemma_training", "phi3_training", "deepseekv3_training", "glm4moe_training"),
)


@pytest.mark.skipif(not is_installed("trl"), reason="trl, which has the templates, is missing")
@pytest.mark.parametrize("name", NAMES)
def test_text_and_marks_are_those_of_transformers(name, chitchat):
    source = packaged("trl", f"{TRL}/{name}.jinja").read_text(encoding="utf-8")
    ours = ChatTemplate(source, TOKENS)
    lines = (chitchat / "conversations.jsonl").read_text(encoding="utf-8").splitlines()[::60]
    for line in lines:
        messages = json.loads(line)["messages"]
        texts, marks = render_jinja_template(
            conversations=[messages],
            chat_template=source,
            return_assistant_tokens_mask=True,
            add_generation_prompt=False,
            **TOKENS,
        )
        rendering = ours.render_marked(messages, None)
        assert rendering.text == texts[0] == ours.render(messages, None, prompt=False)
        assert rendering.generated == marks[0]
        assert ours.render_watched(messages, None).text == texts[0]
        assert ours.has_marks == name.endswith("_training")
        with_prompt, _ = render_jinja_template(
            conversations=[messages], chat_template=source, add_generation_prompt=True, **TOKENS
        )
        assert ours.render(messages, None, prompt=True) == with_prompt[0]


HI = [{"role": "user", "content": "Hi"}]


def test_today_is_the_day_that_was_given():
    source = "{{ strftime_now('%d %b %Y') }}"
    assert ChatTemplate(source, date="2024-07-26").render(HI, None, prompt=False) == "26 Jul 2024"


def test_more_variables_reach_the_template():
    source = "{% if enable_thinking is defined and not enable_thinking %}no{% endif %}"
    template = ChatTemplate(source, arguments={"enable_thinking": False})
    assert template.render(HI, None, prompt=False) == "no"
    with pytest.raises(InputError, match="enable_thinkng, which the chat template does not read"):
        ChatTemplate(source, arguments={"enable_thinkng": False})


def test_what_a_template_raises_is_the_reason():
    template = ChatTemplate("{{ raise_exception('no user turns here') }}")
    with pytest.raises(RecordError, match="the chat template refuses it: no user turns here"):
        template.render(HI, None, prompt=False)


def test_a_template_that_is_none_is_refused():
    with pytest.raises(InputError, match="the chat template is not valid Jinja"):
        ChatTemplate("{% for %}")


def test_marks_within_a_captured_block_are_where_their_text_is():
    source = "{% set a %}x{% generation %}yes{% endgeneration %}{% endset %}a{{ a }}b{{ a }}"
    rendering = ChatTemplate(source).render_marked(HI, None)
    assert rendering.text == "axyesbxyes"
    assert [rendering.text[start:stop] for start, stop in rendering.generated] == ["yes", "yes"]


def test_a_text_that_looks_like_a_mark_is_refused():
    source = "{% generation %}{{ messages[0].content }}{% endgeneration %}"
    with pytest.raises(RecordError, match="U\\+FDD0"):
        ChatTemplate(source).render_marked([{"role": "user", "content": "\ufdd0"}], None)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages[0].content.__class__.__base__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'x': 1}) }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(source):
    template = ChatTemplate(source)
    with pytest.raises(RecordError):
        template.render([{"role": "user", "content": "Hi"}], None, prompt=False)
