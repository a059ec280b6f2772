# SPDX-License-Identifier: Apache-2.0
"""What templates may do, and what they may not write."""

from __future__ import annotations

import pytest

pytest.importorskip("jinja2")

from megatron_packing.chat.template import ChatTemplate
from megatron_packing.errors import InputError
from megatron_packing.records.record import RecordError

HI = [{"role": "user", "content": "Hi"}]


def render(source, variables=None, **options):
    return ChatTemplate(source, variables, **options).render(HI, None, prompt=False)


@pytest.mark.parametrize(
    "source", ["{{ bos_token }}x", "{{ bos_token + 'x' }}", "{{ 'x' ~ bos_token }}"]
)
def test_a_variable_that_nobody_defined_is_not_written(source):
    with pytest.raises(InputError, match="writes bos_token, which neither the tokenizer nor"):
        render(source)
    assert "<s>" in render(source, {"bos_token": "<s>"})
    assert "x" in render(source, arguments={"bos_token": ""})


@pytest.mark.parametrize(
    "source",
    [
        "{% if bos_token %}a{% endif %}",
        "{% if bos_token is defined %}a{% endif %}",
        "{{ bos_token | default('') }}",
        "{{ messages[0].name }}",
        "{% set ns = namespace() %}{{ ns.x }}",
        "{% if false %}{% set y = 1 %}{% endif %}{{ y }}",
    ],
)
def test_it_may_be_asked_for(source):
    assert render(source) == ""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "more than 100 macro calls"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"),
        ("{{ 'a' * 10 ** 9 }}", "characters"),
        ("{{ 'a'.ljust(10 ** 9) }}", "characters"),
        ("{{ 'a' | center(10 ** 9) }}", "characters"),
        ("{{ '%999999999d' % 1 }}", "characters"),
        ("{{ '{:999999999999}'.format(1) }}", "characters"),
        ("{{ '{:{}}'.format(1, 999999999999) }}", "characters"),
        ("{{ 10 ** (10 ** 10) }}", "bits"),
        ("{{ 'aaaaaaaaaa'.replace('a', 'b' * 9000000) }}", "characters"),
        (
            "{% set n = namespace(a='aa') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}"
            "{% endfor %}{{ n.a }}",
            "characters",
        ),
        pytest.param(
            "{% set n = namespace(a=['a']) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}"
            "{% endfor %}{{ n.a }}",
            "steps",
            marks=pytest.mark.slow,
        ),
        ("{% for i in range(99999) %}{{ 'a' * 9999 }}{% endfor %}", "characters"),
    ],
)
def test_a_template_that_does_too_much_is_refused(source, reason):
    with pytest.raises(RecordError, match=reason):
        render(source)


def test_numbers_are_formatted_however_large_they_are():
    assert render("{{ '{} {:>4}'.format(1700000000, 7) }}") == "1700000000    7"


def test_a_long_conversation_is_not_too_much():
    messages = [{"role": "user", "content": "Hi"}] * 2000
    source = (
        "{% for m in messages %}{% for n in messages[:20] %}{{ n.content }}{% endfor %}{% endfor %}"
    )
    text = ChatTemplate(source).render(messages, None, prompt=False)
    assert text == "Hi" * 40_000
