"""Feishu's encryption and signature of events: AES-256-CBC and SHA-256.

Source: open.feishu.cn, "Encrypt Key" of event subscriptions. The AES key is the SHA-256 of the Encrypt Key; the
first 16 bytes of the encrypted text are the IV.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

BLOCK: Final = 16  # bytes


class CryptoError(Exception):
    """An event is not from Feishu, is damaged, or belongs to another key; the message names no secret."""


class Crypto:
    """Verifies, decrypts and encrypts the events of one app."""

    def __init__(self, encrypt_key: str) -> None:
        self._encrypt_key = encrypt_key.encode()
        self._key = hashlib.sha256(self._encrypt_key).digest()

    def signature(self, timestamp: str, nonce: str, body: bytes) -> str:
        head = f"{timestamp}{nonce}".encode("utf-8", "surrogateescape")
        return hashlib.sha256(head + self._encrypt_key + body).hexdigest()

    def verify(self, signature: str, timestamp: str, nonce: str, body: bytes) -> None:
        """Raises CryptoError if the signature of a body is wrong."""
        expected = self.signature(timestamp, nonce, body).encode()
        if not hmac.compare_digest(expected, signature.encode("utf-8", "surrogateescape")):
            raise CryptoError("The signature is wrong. Check feishu.encrypt_key_file.")

    def decrypt(self, encrypted: str) -> bytes:
        """The plain bytes of a base64 text. Raises CryptoError."""
        try:
            data = base64.b64decode(encrypted, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CryptoError("The encrypted text is not base64.") from error
        if len(data) < 2 * BLOCK or len(data) % BLOCK:
            raise CryptoError("The encrypted text does not consist of blocks of 16 bytes.")
        decryptor = Cipher(algorithms.AES(self._key), modes.CBC(data[:BLOCK])).decryptor()
        padded = decryptor.update(data[BLOCK:]) + decryptor.finalize()
        unpadder = PKCS7(BLOCK * 8).unpadder()
        try:
            return unpadder.update(padded) + unpadder.finalize()
        except ValueError as error:
            raise CryptoError("The padding is wrong. Check feishu.encrypt_key_file.") from error

    def encrypt(self, plain: bytes, iv: bytes | None = None) -> str:
        """The base64 text of the bytes, as Feishu sends them."""
        iv = iv or secrets.token_bytes(BLOCK)
        padder = PKCS7(BLOCK * 8).padder()
        encryptor = Cipher(algorithms.AES(self._key), modes.CBC(iv)).encryptor()
        padded = padder.update(plain) + padder.finalize()
        return base64.b64encode(iv + encryptor.update(padded) + encryptor.finalize()).decode()
