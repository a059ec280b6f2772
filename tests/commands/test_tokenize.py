# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from argparse import ArgumentParser
from dataclasses import MISSING, fields

import pytest

pytest.importorskip("transformers")

from megatron_packing import Corpus
from megatron_packing.cli import main
from megatron_packing.commands.tokenize import add_arguments
from megatron_packing.tokenize.options import EncoderOptions, EncodingOptions
from megatron_packing.tokenize.provenance import describe_job
from megatron_packing.tokenize.run import TokenizeOptions
from megatron_packing.tokenizers.find import find_tokenizer

HI = {"sender": "bing_user", "text": "Hi"}
HO = {"sender": "bing", "text": "Ho", "time": 3}
MAPPED = [
    *("--field", "chat=messages", "--field", "sender=role", "--field", "text=content"),
    *("--role", "bing=assistant", "--role", "bing_user=user"),
]


@pytest.fixture
def command(chitchat, tmp_path):
    """The command line that tokenizes a file of a name, without the options of a test."""

    def command(path, name="out"):
        tokenizer = str(chitchat / "tokenizer")
        return [
            "tokenize",
            str(path),
            "--output-prefix",
            str(tmp_path / name),
            "--tokenizer",
            tokenizer,
        ]

    return command


@pytest.mark.parametrize("workers", ["1", "2"])
def test_fields_and_roles_are_mapped_in_every_worker(command, write_jsonl, tmp_path, workers):
    mapped = write_jsonl(*[{"chat": [HI, HO], "id": 1}] * 3, name="mapped.jsonl")
    standard = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    usual = write_jsonl(*[{"messages": standard}] * 3, name="usual.jsonl")
    assert main([*command(mapped, "mapped"), *MAPPED, "--workers", workers]) == 0
    assert main([*command(usual, "usual"), "--workers", "1"]) == 0
    for ending in (".bin", ".idx", "_loss_mask.bin"):
        one, other = (tmp_path / f"{name}{ending}" for name in ("mapped", "usual"))
        assert one.read_bytes() == other.read_bytes()
    record = json.loads((tmp_path / "mapped_corpus.json").read_text())
    assert record["fields"] == {"chat": "messages", "sender": "role", "text": "content"}
    assert record["roles"] == {"bing": "assistant", "bing_user": "user"}


def test_what_was_not_read_is_printed_and_recorded(command, write_jsonl, tmp_path, capsys):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "at": 3}]
    path = write_jsonl(*({"messages": messages, "id": n} for n in range(3)), {"text": "Once"})
    assert main([*command(path), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "record fields not read: id (3 documents)" in printed
    assert "unknown message fields, passed to the chat template: at (3 documents)" in printed
    assert json.loads((tmp_path / "out_corpus.json").read_text())["notes"] == {
        "unknown message fields, passed to the chat template: at": 3,
        "record fields not read: id": 3,
    }


def test_a_refusal_names_the_option_and_the_option_cures_it(command, write_jsonl, tmp_path, capsys):
    path = write_jsonl({"question": "Hi", "reply": "Ho", "weight": 0.5})
    assert main([*command(path), "--workers", "1"]) == 1
    refusal = capsys.readouterr().err
    assert "line 1 cannot be used" in refusal
    assert "add --field question=prompt --field reply=completion" in refusal
    options = ["--field", "question=prompt", "--field", "reply=completion", "--workers", "1"]
    assert main([*command(path), *options]) == 1
    assert "add --field weight=ignore" in capsys.readouterr().err
    assert main([*command(path), *options, "--field", "weight=ignore"]) == 0
    assert len(Corpus(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--field", "a=b"], "--field a=b names no standard field; use one of messages, "),
        (["--role", "a=human"], "--role a=human names no standard role; use one of system, "),
        (
            ["--field", "a=text", "--field", "a=prompt"],
            "--field gives 'a' two meanings, text and prompt",
        ),
    ],
)
def test_a_mapping_that_means_nothing_is_refused(command, write_jsonl, capsys, options, reason):
    path = write_jsonl({"text": "Once"})
    assert main([*command(path), *options]) == 1
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("text", ["a", "=text", "a="])
def test_a_mapping_of_one_name_is_refused(command, write_jsonl, capsys, text):
    with pytest.raises(SystemExit) as stop:
        main([*command(write_jsonl({"text": "Once"})), "--field", text])
    assert stop.value.code == 2
    assert f"'{text}' is not NAME=FIELD or NAME=ROLE" in capsys.readouterr().err


def test_an_unfinished_run_goes_on_only_with_the_same_names(
    command, write_jsonl, monkeypatch, capsys
):
    from megatron_packing.tokenize import unfinished

    path = write_jsonl({"body": "Once"})
    publish = unfinished.UnfinishedCorpus.finish_publishing

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(unfinished.UnfinishedCorpus, "finish_publishing", stop)
    options = ["--workers", "1", "--field"]
    assert main([*command(path), *options, "body=text"]) != 0
    monkeypatch.setattr(unfinished.UnfinishedCorpus, "finish_publishing", publish)
    capsys.readouterr()
    assert main([*command(path), *options, "body=prompt"]) == 1
    assert "that differs in fields" in capsys.readouterr().err
    assert main([*command(path), *options, "body=text"]) == 0


def test_many_inputs_and_a_large_limit_are_told_before_the_run(
    command, write_jsonl, tmp_path, monkeypatch, capsys
):
    real, there = os.sysconf, {"SC_PHYS_PAGES": 4_000_000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", lambda name: there.get(name) or real(name))
    for number in range(100):
        write_jsonl({"text": f"Once {number}"}, name=f"many{number}.jsonl")
    options = ["--workers", "1", "--max-record-bytes"]
    assert main([*command(tmp_path / "many*.jsonl"), *options, "400000000"]) == 0
    said = capsys.readouterr().err
    assert "may need 42 GB of memory, but this machine has 16 GB" in said
    assert "inspected 10 of 100 inputs\n" in said
    assert "inspected 100 of 100 inputs\n" in said
    assert main([*command(tmp_path / "many*.jsonl", "other"), *options, "3000000000"]) == 1
    said = capsys.readouterr().err
    assert "it must be positive and under 2 GiB" in said
    assert "warning" not in said


@pytest.mark.parametrize("option", fields(TokenizeOptions), ids=lambda option: option.name)
def test_each_option_has_a_flag_with_its_default(option, chitchat):
    parser = ArgumentParser()
    add_arguments(parser)
    flags = {action.dest: action for action in parser._actions}
    if option.name == "names":
        assert {"field", "role"} <= set(flags)
        return
    action = flags[option.name]
    if option.default is MISSING:
        assert action.required or action.default == []
    elif option.name != "workers":  # a command uses all cores, a call in Python one
        assert action.default == option.default
    if option.name in {one.name for one in fields(EncodingOptions)}:
        source = find_tokenizer(str(chitchat / "tokenizer"))
        job = describe_job([], EncoderOptions(tokenizer=source, chat_template=None))
        assert option.name in job


PAIR = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def told(capsys):
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_mappings_that_match_nothing_are_named(command, write_jsonl, capsys, workers):
    path = write_jsonl(*[{"messages": PAIR, "id": 1}] * 3)
    options = ["--field", "id=ignore", "--field", "sender=role", "--role", "bot=assistant"]
    assert main([*command(path), *options, "--workers", workers]) == 0
    printed = told(capsys)
    assert "warning: --field sender=role did not match anything in any record" in printed
    assert "warning: --role bot=assistant did not match anything in any record" in printed
    assert "id=ignore" not in printed


def test_mappings_that_match_nothing_are_in_json(command, write_jsonl, capsys):
    path = write_jsonl({"messages": PAIR})
    assert main([*command(path), "--role", "bot=assistant", "--workers", "1", "--json", "-"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["unmatched_mappings"] == ["--role bot=assistant"]


def test_mappings_that_matched_only_bad_records_are_not_named(command, write_jsonl, capsys):
    bad = {"messages": [{"sender": "user", "content": None}]}
    path = write_jsonl({"messages": PAIR}, bad)
    options = ["--field", "sender=role", "--on-bad-record", "skip"]
    assert main([*command(path), *options, "--workers", "1"]) == 0
    assert "did not match" not in told(capsys)


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
def test_answers_that_their_marks_leave_untrained_are_counted(
    command, write_jsonl, capsys, loss_on
):
    unmarked = [{**message, "weight": 0} for message in PAIR]
    path = write_jsonl({"messages": [*unmarked, *PAIR]}, {"messages": PAIR})
    assert main([*command(path), "--loss-on", loss_on, "--workers", "1"]) == 0
    assert "1 answer is not trained, because the record marks it as untrained" in told(capsys)


@pytest.mark.parametrize("placeholder", ["<image>", "<video>", "<|image_pad|>", "[IMG]"])
def test_media_placeholders_in_texts_are_counted_with_the_first(
    command, write_jsonl, capsys, placeholder
):
    question = {"role": "user", "content": f"{placeholder} What is it?"}
    path = write_jsonl({"messages": PAIR}, {"messages": [question, PAIR[1]]})
    assert main([*command(path), "--workers", "1"]) == 0
    assert (
        f"media placeholders that are used as plain text: {placeholder} (1 document), the first "
        f"{placeholder} is in {path}, line 2" in told(capsys)
    )


def test_the_first_plain_text_among_conversations_is_named(command, write_jsonl, capsys):
    path = write_jsonl({"messages": PAIR}, {"messages": PAIR}, {"text": "Once"}, {"text": "Two"})
    assert main([*command(path), "--workers", "1"]) == 0
    assert (
        f"2 records of plain text among conversations; every token of plain text is trained; the "
        f"first is {path}, line 3" in told(capsys)
    )


@pytest.mark.parametrize("record", [{"prompt": "Hi", "completion": "Ho"}, {"messages": PAIR}])
def test_labels_of_preference_data_that_say_good_are_counted(command, write_jsonl, capsys, record):
    path = write_jsonl({**record, "label": True})
    assert main([*command(path), "--workers", "1"]) == 0
    assert (
        "fields read as a label of preference data (KTO) that rates the answer as good: label"
        in told(capsys)
    )
