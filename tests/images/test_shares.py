"""Bytes of fetched images: bounded per tenant and in all."""

from __future__ import annotations

import threading

import pytest

from inference_server.errors import CapacityError
from inference_server.images.shares import Shares


def test_a_tenant_has_a_share_and_the_others_have_the_rest() -> None:
    shares = Shares(100, 60)
    eve, bob = shares.open("eve"), shares.open("bob")
    eve.take(60)
    with pytest.raises(CapacityError, match="INFERENCE_FETCH_TENANT_MEMORY_MB") as refused:
        shares.open("eve").take(1)
    assert refused.value.full == "fetches"
    bob.take(40)
    with pytest.raises(CapacityError, match="INFERENCE_FETCH_MEMORY_MB"):
        bob.take(1)
    assert (shares.nbytes, eve.nbytes, bob.nbytes) == (100, 60, 40)
    eve.release()
    bob.take(20)
    assert shares.nbytes == 60


def test_bytes_are_released_once_and_in_any_thread() -> None:
    shares = Shares(100, 60)
    share = shares.open("eve")
    share.take(25)
    share.take(25)
    thread = threading.Thread(target=share.release)
    thread.start()
    thread.join()
    share.release()
    assert shares.nbytes == 0
    shares.open("eve").take(60)
