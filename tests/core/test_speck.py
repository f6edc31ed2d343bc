"""The cipher of connection ids."""

from __future__ import annotations

import os

import pytest

from gatesvr._core.speck import Speck

# The test vector of SPECK 64/128 in appendix C of Beaulieu et al., "The SIMON and SPECK Families of
# Lightweight Block Ciphers".
KEY = bytes.fromhex("0001020308090a0b1011121318191a1b")
PLAIN = bytes.fromhex("3b7265747475432d")
BLOCK = bytes.fromhex("8c6fa548454e028b")


def test_the_vector_of_its_designers() -> None:
    cipher = Speck(KEY)
    assert cipher.encipher(PLAIN) == BLOCK
    assert cipher.first_byte(BLOCK) == PLAIN[0]
    assert len(cipher.keys) == 27
    assert cipher.keys[0] == 0x03020100


def test_deciphering_undoes_enciphering() -> None:
    for _ in range(500):
        cipher, plain = Speck(os.urandom(16)), os.urandom(8)
        assert cipher.first_byte(cipher.encipher(plain)) == plain[0]


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_what_is_no_block(size: int) -> None:
    cipher = Speck(KEY)
    for method in (cipher.encipher, cipher.first_byte):
        with pytest.raises(ValueError, match="a block has 8 bytes"):
            method(bytes(size))
        with pytest.raises(TypeError):
            method(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_what_is_no_key(size: int) -> None:
    with pytest.raises(ValueError, match="a key has 16 bytes"):
        Speck(bytes(size))
