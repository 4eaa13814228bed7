"""Random bytes, digests, encodings and passwords, from Python's standard library.

Everything is plain computing that Lua calls directly, but for passwords: their hash is slow on purpose, so it is an operation
that runs on a thread. The Lua half checks types and sizes; these functions get what it let through.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from greenlua.settings import Settings

# The names of hashlib that every Python has and that give a digest of one length.
ALGORITHMS = (
    "blake2b", "blake2s", "md5", "sha1", "sha224", "sha256", "sha3_224", "sha3_256", "sha3_384", "sha3_512", "sha384", "sha512",
)  # fmt: skip

# scrypt as OWASP's Password Storage Cheat Sheet gives it for 32 MiB a hash: N = 2^15, r = 8, p = 3.
LOG_N, R, P = 15, 8, 3
SALT_BYTES, HASH_BYTES = 16, 32
PASSWORD_MAX = 4096  # bytes
# What a stored hash may ask of this process: OWASP's largest (N = 2^17, r = 8) takes 128 MiB.
MEMORY_MAX = 128 * 2**20
P_MAX = 16
# Hashes made at once: each holds a core and its memory.
THREADS = max(1, min(4, os.cpu_count() or 1))

# The PHC string format, as passlib and others write it: base64 without padding.
_HASH = re.compile(
    rb"\$scrypt\$ln=([1-9]\d?),r=([1-9]\d{0,2}),p=([1-9]\d?)\$([A-Za-z0-9+/]{1,128})\$([A-Za-z0-9+/]{22,128})", re.ASCII
)


def base64_encode(data: bytes) -> bytes:
    """RFC 4648, section 4."""
    return b64encode(data)


def base64url_encode(data: bytes) -> bytes:
    """RFC 4648, section 5, without padding."""
    return b64encode(data, b"-_").rstrip(b"=")


def base64_decode(text: bytes) -> bytes | None:
    """The bytes, or None where the text is not what `base64_encode` gives."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        return None
    # Python lets pass what RFC 4648, 3.5 allows to refuse: bits behind the last byte. One value has one text here.
    return data if b64encode(data) == text else None


def base64url_decode(text: bytes) -> bytes | None:
    """The bytes, or None where the text is not what `base64url_encode` gives."""
    try:
        data = b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
    except ValueError:
        return None
    return data if base64url_encode(data) == text else None


def hex_decode(text: bytes) -> bytes | None:
    """The bytes, or None where the text is no even number of hexadecimal digits, in either case."""
    try:
        return binascii.unhexlify(text)
    except ValueError:
        return None


ENCODINGS: dict[bytes, Callable[[bytes], bytes]] = {
    b"base64": base64_encode,
    b"base64url": base64url_encode,
    b"hex": binascii.hexlify,
    b"raw": bytes,
}


def digest(algorithm: bytes, text: bytes, encoding: bytes) -> bytes:
    """The digest of a text; the algorithm is one of `ALGORITHMS`."""
    # Where a rule of the machine (FIPS) forbids MD5 for security, checksums still work.
    return ENCODINGS[encoding](hashlib.new(algorithm.decode(), text, usedforsecurity=False).digest())


def keyed_digest(algorithm: bytes, key: bytes, text: bytes, encoding: bytes) -> bytes:
    """HMAC as RFC 2104 says it."""
    return ENCODINGS[encoding](hmac.digest(key, text, algorithm.decode()))


class Uuids:
    """Makes UUIDs (RFC 9562). Those of version 7 grow strictly within this process, also when the clock goes back.

    ``clock`` gives nanoseconds since 1970.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._milliseconds = self._sequence = 0

    def make(self, version: int) -> bytes:
        """The text of a new UUID; 4 is random, 7 begins with the time."""
        bits = int.from_bytes(os.urandom(16), "big")
        if version == 7:
            bits = self._stamp() << 64 | bits & (1 << 62) - 1
        mask = 0xF << 76 | 0b11 << 62
        text = f"{bits & ~mask | int(version) << 76 | 0b10 << 62:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}".encode()

    def _stamp(self) -> int:
        # 48 bits of time, then a sequence of 12 bits that counts within a millisecond (RFC 9562, 6.2, method 1). It starts
        # at random in its lower half, so at least 2,048 fit; after them the time is one millisecond ahead.
        now = self._clock() // 1_000_000
        if now > self._milliseconds:
            self._milliseconds, self._sequence = now, int.from_bytes(os.urandom(2), "big") & 0x7FF
        elif self._sequence < 0xFFF:
            self._sequence += 1
        else:
            self._milliseconds, self._sequence = self._milliseconds + 1, int.from_bytes(os.urandom(2), "big") & 0x7FF
        return self._milliseconds << 16 | self._sequence


def hash_password(password: bytes) -> str:
    """A new hash with a salt and its parameters in it; slow."""
    salt = os.urandom(SALT_BYTES)
    key = _scrypt(password, salt, LOG_N, R, P, HASH_BYTES)
    return f"$scrypt$ln={LOG_N},r={R},p={P}${_unpadded(salt)}${_unpadded(key)}"


def verify_password(password: bytes, stored: bytes) -> bool | str:
    """Whether the hash is that of the password, in constant time; a sentence where it is no hash; slow."""
    match = _HASH.fullmatch(stored)
    if match is None:
        return "the hash is none of crypto.password"
    log_n, r, p = int(match[1]), int(match[2]), int(match[3])
    if 128 * r << log_n > MEMORY_MAX or p > P_MAX:
        return "the hash asks for more memory or time than crypto.password gives"
    salt, key = (base64_decode(part + b"=" * (-len(part) % 4)) for part in (match[4], match[5]))
    if salt is None or key is None:
        return "the hash is none of crypto.password"
    if len(password) > PASSWORD_MAX or b"\0" in password:
        return False  # no hash was ever made of it
    try:
        return hmac.compare_digest(_scrypt(password, salt, log_n, r, p, len(key)), key)
    except ValueError:  # parameters that scrypt does not have, such as N = 2^16 with r = 1
        return "the hash is none of crypto.password"


def _scrypt(password: bytes, salt: bytes, log_n: int, r: int, p: int, length: int) -> bytes:
    # OpenSSL counts a little more than 128 * N * r against its limit.
    limit = MEMORY_MAX + 128 * r * (p + 2) + 2**16
    return hashlib.scrypt(password, salt=salt, n=1 << log_n, r=r, p=p, maxmem=limit, dklen=length)


def _unpadded(data: bytes) -> str:
    return b64encode(data).decode().rstrip("=")


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


class Client:
    """The Python half of ``greenlua.crypto``."""

    EXTRA: ClassVar[str] = ""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._pool: Any = None
        self.callables: dict[str, Callable[..., Any]] = {
            "algorithms": lambda: " ".join(ALGORITHMS).encode(),
            "encodings": lambda: b" ".join(ENCODINGS),
            "uuid": Uuids().make,
            "random_bytes": lambda count: os.urandom(int(count)),
            "hash": digest,
            "hmac": keyed_digest,
            "equal": hmac.compare_digest,
            "base64_encode": base64_encode,
            "base64_decode": base64_decode,
            "base64url_encode": base64url_encode,
            "base64url_decode": base64url_decode,
            "hex_encode": binascii.hexlify,
            "hex_decode": hex_decode,
        }
        self.operations: dict[str, Callable[..., Any]] = {
            "password.hash": lambda password: self._on_thread(hash_password, _bytes(password)),
            "password.verify": lambda password, stored: self._on_thread(
                verify_password, _bytes(password), _bytes(stored)
            ),
        }

    def _on_thread(self, function: Callable[..., Any], *arguments: bytes) -> Any:
        # Threads of its own: the hub's few also resolve names, and what waits here must not hold them up. hashlib lets go
        # of Python's lock while it works.
        if self._pool is None:
            from gevent.threadpool import ThreadPool

            self._pool = ThreadPool(THREADS)
        return self._pool.apply(function, arguments)

    def close(self) -> None:
        """Ends the threads."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.kill()
