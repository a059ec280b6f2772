from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest

from megatron_packing import Corpus
from megatron_packing.errors import InputError
from tests.conftest import write_corpus


def test_slices_of_tokens_and_masks_are_those_of_the_files(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 9, 4])
    tokens = np.fromfile(tmp_path / "corpus.bin", np.int32)
    masks = np.fromfile(tmp_path / "corpus_loss_mask.bin", np.uint8)
    assert corpus.tokens(1).tolist() == tokens[5:14].tolist()
    assert corpus.tokens(1, 2, 6).tolist() == tokens[7:11].tolist()
    assert corpus.loss_mask(1, 2, 6).tolist() == masks[7:11].tolist()
    with pytest.raises(IndexError, match="document 1 has 9 tokens, not 2 to 10"):
        corpus.tokens(1, 2, 10)


def test_without_masks_every_token_is_trained(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5, 9], with_loss_mask=False)
    assert not corpus.has_loss_mask
    assert corpus.loss_mask(1).tolist() == [1] * 9
    assert corpus.loss_mask(1, 3, 5).tolist() == [1, 1]


def test_masks_of_other_documents_are_refused(tmp_path):
    write_corpus(tmp_path / "corpus", [5, 9])
    write_corpus(tmp_path / "other", [5, 8])
    for ending in ("bin", "idx"):
        shutil.copy(tmp_path / f"other_loss_mask.{ending}", tmp_path / f"corpus_loss_mask.{ending}")
    with pytest.raises(
        InputError, match=r"corpus_loss_mask.idx does not have the document lengths"
    ):
        Corpus(tmp_path / "corpus")


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_half_of_the_masks_is_not_taken_for_none(tmp_path, ending):
    write_corpus(tmp_path / "corpus", [5, 9])
    (tmp_path / f"corpus_loss_mask.{ending}").unlink()
    with pytest.raises(InputError, match=rf"corpus_loss_mask.{ending} does not exist"):
        Corpus(tmp_path / "corpus")


def test_masks_must_be_bytes(tmp_path):
    write_corpus(tmp_path / "corpus", [5, 9])
    for ending in ("bin", "idx"):
        shutil.copy(tmp_path / f"corpus.{ending}", tmp_path / f"corpus_loss_mask.{ending}")
    with pytest.raises(InputError, match="loss masks must be uint8"):
        Corpus(tmp_path / "corpus")


def test_the_fingerprint_follows_the_content(tmp_path):
    def fingerprint(name, lengths=(5, 9, 4), **changes):
        return write_corpus(tmp_path / name, lengths, **changes).fingerprint

    original = fingerprint("a/corpus")
    assert fingerprint("b/copy") == original
    others = [
        fingerprint("c/corpus", seed=1),
        fingerprint("d/corpus", lengths=(9, 5, 4)),
        fingerprint("e/corpus", with_loss_mask=False),
    ]
    assert len({original, *others}) == 4


def test_the_fingerprint_of_a_large_corpus_is_of_blocks_throughout(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5_000_000])
    original = corpus.fingerprint
    data = np.memmap(tmp_path / "corpus.bin", np.uint8, "r+")
    block = (len(data) - (1 << 16)) * 100 // 255
    for at in (0, block, len(data) - 1):
        data[at] ^= 1
        data.flush()
        assert Corpus(corpus.prefix).fingerprint != original
        data[at] ^= 1
        data.flush()
    assert Corpus(corpus.prefix).fingerprint == original


def test_a_copy_in_another_process_opens_the_files_anew(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", [5_000, 9])
    corpus.tokens(0)
    pickled = pickle.dumps(corpus)
    assert len(pickled) < 1000
    assert np.array_equal(pickle.loads(pickled).tokens(1), corpus.tokens(1))
