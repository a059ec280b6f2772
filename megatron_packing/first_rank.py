# SPDX-License-Identifier: Apache-2.0
"""Work of rank 0 that the other ranks wait for, and what all ranks must have done.

Everything goes through the key-value store by which the ranks of a run found each other. Nobody
waits in a collective operation, which NCCL would abort after some minutes, and who waits learns
what rank 0 does, that it failed and why, or that it has ended.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import megatron_packing.needs.torch  # noqa: F401

import torch

from megatron_packing.errors import InputError

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 600.0
"""Ranks wait as long as rank 0 says what it does, but not longer than this without a word."""

_DONE, _WRONG = "+", "-"  # how the result of a work begins: with its text, or with an error
_BEAT_SECONDS = 2.0
_SAY_SECONDS = 10.0
_LINGER_SECONDS = 5.0
_POLLS_A_SECOND = 2000  # of all ranks together

Made = TypeVar("Made")

_doing = "starting"
_said = 0


def _key_of(name: str) -> str:
    """A key that no earlier attempt of torchrun used: its store may outlive an attempt."""
    return f"megatron_packing/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}"


def _beat() -> str:
    return _key_of("beat")


def is_several() -> bool:
    """Whether this process is one of several ranks."""
    return bool(torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1)


def is_rank_0() -> bool:
    """Whether this process is rank 0 or runs alone; before torch.distributed, by the launcher."""
    if torch.distributed.is_initialized():
        return int(torch.distributed.get_rank()) == 0
    return os.environ.get("RANK", "0") == "0"


def say(what: str) -> None:
    """Let the ranks that wait know what this one does, such as "packing chat: 40%".

    Each call is a sign of life. A rank that says nothing may hang, though its process lives.
    """
    global _doing, _said
    _doing = what
    _said += 1


def on_first_rank(
    name: str,
    work: Callable[[], str | None],
    what: str,
    *,
    silence_seconds: float = SILENCE_SECONDS,
) -> str:
    """Do ``work`` on rank 0 while the others wait for it.

    Every rank gets the text that it returns.

    Args:
        name: Of this work, once in a run.
        work: What rank 0 does. It may ``say`` how far it is.
        what: The same in words, after "rank 0 could not".
        silence_seconds: How long rank 0 may say nothing new.

    Raises:
        InputError: Rank 0 raised it, with its message on every rank; or rank 0 has ended.
    """
    if not is_several():
        return work() or ""
    key = _key_of(name)
    if torch.distributed.get_rank() != 0:
        return _wait(key, what, silence_seconds)
    say(what)
    try:
        with _beating():
            result = work() or ""
    except BaseException as error:
        _refuse(key, f"rank 0 could not {what}: {_text_of(error)}", is_only=True)
        raise
    _store().set(key, _DONE + result)
    return result


def on_every_rank(
    name: str,
    work: Callable[[], Made],
    what: str,
    *,
    silence_seconds: float = SILENCE_SECONDS,
) -> Made:
    """Do ``work`` on every rank, and go on when all have done it.

    Then no rank waits in a collective operation for one that has failed.

    Args:
        name: Of this work, once in a run. Every rank must call this.
        work: What each rank does.
        what: The same in words, after "rank 3 could not".
        silence_seconds: How long this waits while no rank finishes.

    Raises:
        InputError: A rank raised it, with its message on every rank; or one has said nothing.
    """
    if not is_several():
        return work()
    key, rank = _key_of(name), torch.distributed.get_rank()
    try:
        made = work()
    except BaseException as error:
        where = "" if rank == 0 else f" on {socket.gethostname()}"
        _refuse(key, f"rank {rank}{where} could not {what}: {_text_of(error)}")
        raise
    with _ended_where_the_store_is(what):
        store = _store()
        store.set(f"{key}/{rank}", "")
        if store.add(f"{key}/count", 1) >= torch.distributed.get_world_size():
            store.set(key, _DONE)
    _wait(key, what, silence_seconds, progress=f"{key}/count")
    return made


def _wait(key: str, what: str, silence_seconds: float, progress: str = "") -> str:
    """Poll for the result of a work, as long as ``progress``, or rank 0's last word, changes."""
    progress = progress or _beat()
    pause = _pause()
    heard = said = time.monotonic()
    before = None
    while True:
        with _ended_where_the_store_is(what):
            if _store().check([key]):
                result: str = _store().get(key).decode()
                break
            sign = _store().get(progress).decode() if _store().check([progress]) else None
        now = time.monotonic()
        if sign != before:
            before, heard = sign, now
        if now - heard > silence_seconds:
            raise InputError(_describe_silence(key, what, silence_seconds, before, progress))
        if now - said > _SAY_SECONDS and os.environ.get("LOCAL_RANK", "0") == "0":
            said = now
            logger.warning(_describe_waiting(before, progress))
        time.sleep(pause)
    if result.startswith(_WRONG):
        with suppress(RuntimeError):
            _store().add(f"{key}/read", 1)
        _linger(key)
        raise InputError(result[1:])
    return result[1:]


def _pause() -> float:
    """Seconds between two questions to the store."""
    return float(max(0.1, torch.distributed.get_world_size() / _POLLS_A_SECOND))


def _describe_waiting(sign: str | None, progress: str) -> str:
    if progress == _beat():
        doing = sign.partition(" ")[2] if sign else "it has not said what it does"
        return f"waiting for rank 0: {doing}"
    return f"waiting for all ranks: {sign or 0} of {torch.distributed.get_world_size():,} are there"


def _describe_silence(key: str, what: str, seconds: float, sign: str | None, progress: str) -> str:
    for_long = f"for {seconds / 60:g} minutes"
    if progress == _beat():
        last = sign.partition(" ")[2] if sign else "nothing at all"
        return (
            f"rank 0 has made no progress {for_long} while others waited for it to {what} (its "
            f"last word: {last}); its own log says where it stands"
        )
    ranks = range(torch.distributed.get_world_size())
    missing = (rank for rank in ranks if not _store().check([f"{key}/{rank}"]))
    with _ended_where_the_store_is(what):
        first = list(itertools.islice(missing, 6))  # a large run has many
    named = ", ".join(map(str, first[:5])) + (", ..." if len(first) > 5 else "")
    return (
        f"{len(ranks) - int(sign or 0)} of {len(ranks)} ranks ({named}) have not said {for_long} "
        f"that they could {what}; their own logs say where they stand"
    )


def _refuse(key: str, message: str, *, is_only: bool = False) -> None:
    """Let the others know that a work failed; the first rank to say so is heard.

    Args:
        key: Of the result.
        message: What failed, and why.
        is_only: Whether no other rank writes the result.
    """
    with suppress(RuntimeError):  # the store may be gone already
        if is_only:
            _store().set(key, _WRONG + message)
        else:
            _store().compare_set(key, "", _WRONG + message)
        _store().add(f"{key}/read", 1)
        _linger(key)


def _linger(key: str) -> None:
    """Wait until all ranks know of a failure.

    The store may end with rank 0, and launchers kill the other ranks when the first one ends.
    """
    pause = _pause()
    deadline = time.monotonic() + _LINGER_SECONDS + 2 * pause
    with suppress(RuntimeError):
        while time.monotonic() < deadline:
            if _store().add(f"{key}/read", 0) >= torch.distributed.get_world_size():
                time.sleep(0.2)  # they may be reading that number
                return
            time.sleep(pause)


@contextmanager
def _beating() -> Iterator[None]:
    """Hand on what this rank says while a block runs."""
    ended = threading.Event()

    def beat() -> None:
        with suppress(RuntimeError):
            while not ended.is_set():
                _store().set(_beat(), f"{_said} {_doing}")
                ended.wait(_BEAT_SECONDS)

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def _ended_where_the_store_is(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = next(iter(f"{error}".splitlines()), type(error).__name__)
        raise InputError(
            f"rank 0 ended while others waited for it to {what} ({reason}); its own log says why"
        ) from error


def _text_of(error: BaseException) -> str:
    return f"{error}" or type(error).__name__


def _store() -> torch.distributed.Store:
    return torch.distributed.distributed_c10d._get_default_store()
