"""JSON Web Tokens (RFC 7519) by PyJWT: made, and checked against keys and claims.

Plain computing that Lua calls directly; claims, headers and options cross as JSON text. Rules: a token is judged only by
algorithms that the caller named, all of one kind of key, so that a token cannot choose how its signature is read; "none" is not
there; keys shorter than RFC 7518 asks for are refused. A bad key is the program's fault and raised, a bad token is an answer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from greenlua.settings import Settings

# Kind of key -> its algorithms (RFC 7518, 8037, 8812).
KINDS = {
    "HMAC": ("HS256", "HS384", "HS512"),
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "EC": ("ES256", "ES384", "ES512", "ES256K"),
    "EdDSA": ("EdDSA",),
}
ALGORITHMS = tuple(name for names in KINDS.values() for name in names)
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}

TOKEN_MAX = 16384  # bytes; servers take header lines of 8 to 32 KiB
KEYS_MAX = 128  # keys remembered in parsed form
RSA_MIN = 2048  # bits; RFC 7518, 3.3

# What is wrong with a token: the name of PyJWT's exception -> a code and a sentence.
REASONS = {
    "ExpiredSignatureError": ("expired", "the token has expired"),
    "ImmatureSignatureError": ("not_before", "the token is not valid yet"),
    "InvalidSignatureError": ("signature", "the signature of the token is wrong"),
    "InvalidAlgorithmError": ("algorithm", "the algorithm of the token is not allowed"),
    "InvalidAudienceError": ("audience", "the token is meant for another audience"),
    "InvalidIssuerError": ("issuer", "the token is of another issuer"),
}
MALFORMED = b"malformed the token is malformed"


class Client:
    """The Python half of ``greenlua.jwt``."""

    EXTRA: ClassVar[str] = "jwt"

    def __init__(self, settings: Settings, folder: Path) -> None:
        import cryptography  # noqa: F401  # without it PyJWT has HMAC only
        import jwt

        self._jwt = jwt
        # PERF: parsing an RSA private key takes 45 ms, signing with it 0.8.
        self._signing_key = lru_cache(KEYS_MAX)(self._parse_signing_key)
        self._verifying_key = lru_cache(KEYS_MAX)(self._parse_verifying_key)
        self.operations: dict[str, Callable[..., Any]] = {}
        self.callables: dict[str, Callable[..., Any]] = {
            "algorithms": lambda: " ".join(ALGORITHMS).encode(),
            "encode": self.encode,
            "decode": self.decode,
            "header": self.header,
        }

    def close(self) -> None:
        """Forgets the keys."""
        self._signing_key.cache_clear()
        self._verifying_key.cache_clear()

    # ------------------------------------------------------------ making

    def encode(self, claims_text: bytes, key: bytes, options_text: bytes) -> bytes:
        """A signed token.

        Args:
            claims_text: the claims, a JSON object.
            key: the secret, or a private key as PEM.
            options_text: a JSON object with ``algorithm``, and perhaps ``headers`` and ``expires_in`` (seconds).

        Raises:
            ValueError: a key, claim or header that no token may have; a sentence for the programmer.
        """
        claims, options = json.loads(claims_text), json.loads(options_text)
        if not isinstance(claims, dict):
            raise ValueError("the claims must be an object, not a list")
        algorithm, headers = options["algorithm"], options.get("headers") or {}
        if "expires_in" in options:
            if "exp" in claims:
                raise ValueError("give the claim exp or the option expires_in, not both")
            claims["exp"] = int(time.time() + options["expires_in"])
        _check_claims(claims)
        for name in ("alg", "b64", "crit"):
            if name in headers:
                raise ValueError(f"the header {name} cannot be set")
        if not isinstance(headers.get("kid", ""), str) or not isinstance(headers.get("typ", ""), str):
            raise ValueError("the headers kid and typ must be strings")
        token: bytes = self._jwt.encode(claims, self._signing_key(algorithm, key), algorithm, headers).encode()
        if len(token) > TOKEN_MAX:
            raise ValueError(f"the token would have {len(token)} bytes; at most {TOKEN_MAX} are allowed")
        return token

    # ------------------------------------------------------------ reading

    def decode(self, token: bytes, key: bytes, options_text: bytes) -> bytes:
        """The claims of a good token as JSON text; of a bad one a code, a space and a sentence.

        Args:
            token: as the client sent it.
            key: the secret, or a public or private key as PEM.
            options_text: a JSON object with ``algorithms`` (a list), and perhaps ``audience`` and ``issuer`` (lists), ``leeway``
                (seconds) and ``require`` (a list of claims).

        Raises:
            ValueError: the key does not fit the algorithms; a sentence for the programmer.
        """
        options = json.loads(options_text)
        algorithms, parsed = self._verifying_key(tuple(options["algorithms"]), key)
        if len(token) > TOKEN_MAX:
            return MALFORMED
        try:
            claims = self._jwt.decode(
                token,
                parsed,
                algorithms,
                options={"require": options.get("require") or []},
                audience=options.get("audience"),
                issuer=options.get("issuer"),
                leeway=options.get("leeway", 0),
            )
        except self._jwt.MissingRequiredClaimError as error:
            return f'missing_claim the token has no claim "{error.claim}"'.encode()
        except self._jwt.InvalidTokenError as error:
            code, sentence = REASONS.get(type(error).__name__, ("", ""))
            return f"{code} {sentence}".encode() if code else MALFORMED
        except (OverflowError, RecursionError, TypeError):  # a time that is infinite or no number; brackets in brackets
            return MALFORMED
        return _dump(claims)

    def header(self, token: bytes) -> bytes:
        """The header of a token as JSON text, unverified; of what is no token a code, a space and a sentence."""
        if len(token) > TOKEN_MAX:
            return MALFORMED
        try:
            return _dump(self._jwt.get_unverified_header(token))
        except (self._jwt.InvalidTokenError, RecursionError):
            return MALFORMED

    # ------------------------------------------------------------ keys

    def _parse_signing_key(self, algorithm: str, key: bytes) -> Any:
        parsed = self._parse(algorithm, key)
        if KIND_OF[algorithm] != "HMAC" and not hasattr(parsed, "sign"):
            raise ValueError(f"{algorithm} signs with a private key; this is a public one")
        return parsed

    def _parse_verifying_key(self, algorithms: tuple[str, ...], key: bytes) -> tuple[list[str], Any]:
        kinds = {KIND_OF[algorithm] for algorithm in algorithms}
        if len(kinds) != 1:
            raise ValueError(
                f"{', '.join(algorithms)} take different kinds of keys ({', '.join(sorted(kinds))}); name one kind"
            )
        parsed: Any = None
        fitting = []
        for algorithm in algorithms:
            try:
                parsed = self._parse(algorithm, key)
            except ValueError:
                if kinds != {"EC"}:
                    raise
                continue  # each of these has its own curve: those of other curves are left out
            fitting.append(algorithm)
        if not fitting:
            self._parse(algorithms[0], key)  # raises why
        return fitting, parsed.public_key() if hasattr(parsed, "public_key") else parsed

    def _parse(self, algorithm: str, key: bytes) -> Any:
        kind, known = KIND_OF[algorithm], self._jwt.get_algorithm_by_name(algorithm)
        try:
            parsed = known.prepare_key(key)
        except Exception as error:  # of PyJWT, of cryptography, of bytes that are no text
            if kind == "HMAC":
                raise ValueError(f"{algorithm} takes a secret: {error}") from None
            raise ValueError(f"{algorithm} takes a PEM key of the kind {kind}, and this is none: {error}") from None
        if kind == "HMAC" and len(key) < (least := int(algorithm[2:]) // 8):
            raise ValueError(
                f"{algorithm} takes a secret of {least} bytes or more (RFC 7518), and this has {len(key)};"
                f" make one with crypto.random_bytes({least})"
            )
        if kind == "RSA" and parsed.key_size < RSA_MIN:
            raise ValueError(f"{algorithm} takes an RSA key of {RSA_MIN} bits or more, and this has {parsed.key_size}")
        return parsed


def _check_claims(claims: dict[str, Any]) -> None:
    """The types that RFC 7519 gives its claims; a reader refuses others."""
    for name in ("iss", "sub", "jti"):
        if not isinstance(claims.get(name, ""), str):
            raise ValueError(f"the claim {name} must be a string")
    audience = claims.get("aud", "")
    if not all(isinstance(entry, str) for entry in (audience if isinstance(audience, list) else [audience])):
        raise ValueError("the claim aud must be a string or a list of strings")
    for name in ("exp", "nbf", "iat"):
        if type(claims.get(name, 0)) not in (int, float):
            raise ValueError(f"the claim {name} must be a number of seconds since 1970")


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
