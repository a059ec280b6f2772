# SPDX-License-Identifier: Apache-2.0
"""The end token of an export is the tokenizer's, whether it is given or not."""

from __future__ import annotations

import json
import re
import shutil

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("transformers")

from megatron_packing.cli import main
from megatron_packing.commands.end_token import choose_end_token
from megatron_packing.corpus.record import corpus_record_path
from megatron_packing.errors import InputError
from megatron_packing.tokenizers.find import find_tokenizer
from tests.conftest import write_corpus


@pytest.fixture
def chat(chitchat, write_jsonl, tmp_path):
    """A corpus with a record, and its index."""
    path = write_jsonl(*[{"prompt": "a", "completion": "b c d"}] * 20)
    words = ["tokenize", str(path), "--output-prefix", str(tmp_path / "chat"), "--workers", "1"]
    assert main([*words, "--tokenizer", str(chitchat / "tokenizer")]) == 0
    words = ["pack", str(tmp_path / "chat"), "--sequence-length", "64"]
    assert main([*words, "--output", str(tmp_path / "packs")]) == 0
    return tmp_path / "chat"


@pytest.fixture
def export(tmp_path, capsys):
    """Export with options; give the end token, or the sentence of the refusal."""

    def run(*options, packs="packs"):
        output = tmp_path / "out"
        words = ["export", str(tmp_path / packs), "--format", "nemo-npy", "--output", str(output)]
        capsys.readouterr()
        status = main([*words, *options, "--json", str(tmp_path / "out.json")])
        said = capsys.readouterr()
        if status == 0:
            shutil.rmtree(output)
            return json.loads((tmp_path / "out.json").read_text())["end_token"], said.out
        assert not output.exists()
        (line,) = said.err.splitlines()
        return line

    return run


@pytest.mark.usefixtures("chat")
def test_it_is_looked_up_and_compared(export, chitchat):
    tokenizer = find_tokenizer(str(chitchat / "tokenizer")).open()
    end = tokenizer.token_of("</s>")
    assert export()[0] == end
    assert export("--end-token", "</s>")[0] == end
    assert export("--end-token", str(end))[0] == end
    assert export("--end-token", "[INST]")[0] == tokenizer.token_of("[INST]")
    assert "'<eos>', which is not a token of" in export("--end-token", "<eos>")
    line = export("--end-token", str(end + 1))
    assert f"--end-token is {end + 1}, but" in line
    assert f"eos_token '</s>' is {end}" in line
    assert export("--end-token", str(end + 1), "--allow-other-tokenizer")[0] == end + 1
    assert re.search(
        r"--end-token is 10000000, but .* has [\d,]+ tokens", export("--end-token", "10000000")
    )
    assert "end token is -5" in export("--end-token=-5")


def test_a_probe_may_be_given_any_token_of_the_tokenizer(chat, chitchat):
    end = find_tokenizer(str(chitchat / "tokenizer")).open().token_of("</s>")
    assert choose_end_token(str(end + 1), [chat], may_be_any=True) == end + 1
    for number in ("-5", "10000000"):
        with pytest.raises(InputError, match=rf"--end-token is {number}, but .* tokens"):
            choose_end_token(number, [chat], may_be_any=True)


def test_without_a_tokenizer_an_id_is_asked_for(export, chat):
    record = json.loads(corpus_record_path(chat).read_text())
    corpus_record_path(chat).write_text(json.dumps({**record, "tokenizer": "/gone/tokenizer"}))
    assert "--end-token cannot be looked up: the tokenizer '/gone/tokenizer'" in export()
    token, said = export("--end-token", "5")
    assert token == 5
    assert "note: --end-token was not compared with the corpus's tokenizer" in said
    corpus_record_path(chat).unlink()
    assert "is not given, and" in export()
    assert "is the text '</s>', and" in export("--end-token", "</s>")
    assert export("--end-token", "5")[0] == 5


def test_corpora_of_different_tokenizers_are_refused(export, chat, tmp_path):
    other = write_corpus(tmp_path / "other", [5, 6, 7])
    record = {"tokenizer": "another", "tokenizer_sha256": "0" * 64}
    corpus_record_path(other.prefix).write_text(json.dumps(record))
    words = ["pack", str(chat), str(other.prefix), "--sequence-length", "64"]
    both = [*words, "--output", str(tmp_path / "both")]
    if main([*both]) != 0:
        assert main([*both, "--allow-other-tokenizer"]) == 0
    line = export("--end-token", "2", packs="both")
    assert "so their token ids mean different texts" in line
    assert export("--end-token", "2", "--allow-other-tokenizer", packs="both")[0] == 2
