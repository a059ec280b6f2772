# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from megatron_packing.schemas.conversations import read_record

ASKED = {"role": "user", "content": "1+1?"}
ANSWERED = {"role": "assistant", "content": "2"}


@pytest.mark.parametrize("prompt", ["1+1?", [ASKED]])
@pytest.mark.parametrize("completion", ["2", [ANSWERED]])
def test_prompts_and_completions_are_texts_or_messages(prompt, completion):
    conversation = read_record({"prompt": prompt, "completion": completion})
    assert conversation.messages == [ASKED, ANSWERED]
    assert conversation.trained == (isinstance(prompt, str), True)
