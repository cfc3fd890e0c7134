"""WeCom's encryption of callbacks and files: AES-256-CBC, padding to 32 bytes, SHA-1 signature.

Source: developer.work.weixin.qq.com, documents 90968, 101033 and 100719. The plain text of a callback is
`random(16) || length (4 bytes, big-endian) || message || receiver id`; a file is encrypted without these fields.
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

KEY_CHARACTERS: Final = 43
BLOCK: Final = 32  # bytes of WeCom's padding; AES's own blocks have 16
RANDOM: Final = 16


class CryptoError(Exception):
    """A callback or file is not from WeCom, is damaged, or belongs to another key; the message names no secret."""


class Crypto:
    """Verifies, decrypts and encrypts the callbacks of one robot.

    `receiver` is the id at the end of the plain text: the CorpID for a self-built app, empty for an AI bot.
    """

    def __init__(self, token: str, aes_key: str, receiver: str = "") -> None:
        self._token = token
        self.key = decode_key(aes_key)
        self._receiver = receiver.encode()

    def signature(self, timestamp: str, nonce: str, encrypted: str) -> str:
        joined = "".join(sorted((self._token, timestamp, nonce, encrypted)))
        return hashlib.sha1(joined.encode("utf-8", "surrogateescape"), usedforsecurity=False).hexdigest()

    def verify(self, signature: str, timestamp: str, nonce: str, encrypted: str) -> None:
        """Raises CryptoError if the signature is wrong."""
        expected = self.signature(timestamp, nonce, encrypted).encode()
        if not hmac.compare_digest(expected, signature.encode("utf-8", "surrogateescape")):
            raise CryptoError("The signature is wrong. Token, timestamp, nonce or body differ from what was signed.")

    def decrypt(self, encrypted: str) -> bytes:
        """The message of a base64 text; raises CryptoError if it is damaged or for another receiver."""
        try:
            data = base64.b64decode(encrypted, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CryptoError("The encrypted text is not base64.") from error
        plain = decrypt_file(data, self.key)
        length = int.from_bytes(plain[RANDOM : RANDOM + 4], "big")
        end = RANDOM + 4 + length
        if len(plain) < RANDOM + 4 or end > len(plain):
            raise CryptoError("The decrypted text is shorter than its length field says.")
        if not hmac.compare_digest(plain[end:], self._receiver):
            raise CryptoError("The message is for another receiver (receiveid).")
        return plain[RANDOM + 4 : end]

    def encrypt(self, message: bytes, random: bytes | None = None) -> str:
        """The base64 text of a message; `random` has 16 bytes and is given by tests only."""
        head = secrets.token_bytes(RANDOM) if random is None else random
        plain = head + len(message).to_bytes(4, "big") + message + self._receiver
        return base64.b64encode(encrypt_file(plain, self.key)).decode()


def decode_key(text: str) -> bytes:
    """The 32 bytes of an EncodingAESKey or of a file's `aeskey`; raises CryptoError.

    43 characters have 258 bits; the last two are ignored, as WeCom's own example has them set. The alphabet of URLs
    is accepted too.
    """
    characters = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    if len(characters) != KEY_CHARACTERS:
        raise CryptoError(f"The AES key has {len(characters)} characters; it must have {KEY_CHARACTERS}.")
    try:
        return base64.b64decode(characters + "=", validate=True)
    except (binascii.Error, ValueError) as error:
        raise CryptoError("The AES key is not base64.") from error


def decrypt_file(data: bytes, key: bytes) -> bytes:
    """The plain bytes of a file; raises CryptoError for another key or damaged bytes."""
    if not data or len(data) % BLOCK:
        raise CryptoError(f"The encrypted data has {len(data)} bytes, which is not a multiple of {BLOCK}.")
    decryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).decryptor()
    padded = decryptor.update(data) + decryptor.finalize()
    unpadder = PKCS7(BLOCK * 8).unpadder()
    try:
        return unpadder.update(padded) + unpadder.finalize()
    except ValueError as error:
        raise CryptoError("The padding is wrong: the data is damaged or belongs to another AES key.") from error


def encrypt_file(data: bytes, key: bytes) -> bytes:
    padder = PKCS7(BLOCK * 8).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(key[:16])).encryptor()
    return encryptor.update(padder.update(data) + padder.finalize()) + encryptor.finalize()
