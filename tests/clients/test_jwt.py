"""greenlua.jwt: the tokens of the RFCs and what attackers make of them, for the Python half; then what Lua sees, on every Lua."""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenlua.clients import Clients, jwt
from greenlua.clients.crypto import base64url_decode, base64url_encode
from greenlua.clients.jwt import Client
from greenlua.errors import ConfigurationError
from greenlua.settings import Settings
from greenlua.vm import MODULES
from tests.clients.running_lua import LuaProcess, running_lua

SECRET = b"an octet sequence of 32 bytes..."
LONG = b"s" * 64


def pem(key: Any) -> tuple[bytes, bytes]:
    """A private key, and its public key, as PEM."""
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, public_pem(key.public_key())


def public_pem(key: Any) -> bytes:
    text: bytes = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return text


RSA = pem(rsa.generate_private_key(65537, 2048))
EC = {
    "ES256": pem(ec.generate_private_key(ec.SECP256R1())),
    "ES384": pem(ec.generate_private_key(ec.SECP384R1())),
    "ES512": pem(ec.generate_private_key(ec.SECP521R1())),
    "ES256K": pem(ec.generate_private_key(ec.SECP256K1())),
}
ED25519 = pem(ed25519.Ed25519PrivateKey.generate())
KEYS: dict[str, tuple[bytes, bytes]] = {
    **dict.fromkeys(jwt.KINDS["HMAC"], (LONG, LONG)),
    **dict.fromkeys(jwt.KINDS["RSA"], RSA),
    **EC,
    "EdDSA": ED25519,
}


@pytest.fixture(scope="module")
def client() -> Client:
    return Client(Settings(), Path())


def number(text: bytes) -> int:
    data = base64url_decode(text)
    assert data is not None
    return int.from_bytes(data, "big")


def octets(text: bytes) -> bytes:
    data = base64url_decode(text)
    assert data is not None
    return data


def encode(client: Client, claims: Any, key: bytes = SECRET, **options: Any) -> bytes:
    return client.encode(json.dumps(claims).encode(), key, json.dumps({"algorithm": "HS256", **options}).encode())


def decode(client: Client, token: bytes, key: bytes = SECRET, **options: Any) -> Any:
    """The claims, or the code of what is wrong."""
    answer = client.decode(token, key, json.dumps({"algorithms": ["HS256"], **options}).encode())
    return json.loads(answer) if answer.startswith(b"{") else answer.split()[0].decode()


def by_hand(header: Any, payload: Any, key: bytes = SECRET, signature: bytes | None = None) -> bytes:
    """A token with whatever header and payload, signed with HMAC and SHA-256."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    text = b".".join(map(base64url_encode, parts))
    return text + b"." + base64url_encode(hmac.digest(key, text, "sha256") if signature is None else signature)


HS256 = {"typ": "JWT", "alg": "HS256"}

# ------------------------------------------------------------ the tokens of the RFCs

# RFC 7515, A.1 to A.3: the claims of each are those of RFC 7519, 3.1; they expired in 2011
JOE = {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
PAYLOAD = b"eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
A1_KEY = octets(b"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
A1 = b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." + PAYLOAD + b".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
A2_KEY = public_pem(
    rsa.RSAPublicNumbers(
        65537,
        number(
            b"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pC"
            b"gNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg6"
            b"65xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRW"
            b"yuXpoQ"
        ),
    ).public_key()
)
A2 = (
    b"eyJhbGciOiJSUzI1NiJ9."
    + PAYLOAD
    + b".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Q"
    b"c_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K"
    b"0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIh"
    b"WkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
A3_KEY = public_pem(
    ec.EllipticCurvePublicNumbers(
        number(b"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
        number(b"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
        ec.SECP256R1(),
    ).public_key()
)
A3 = (
    b"eyJhbGciOiJFUzI1NiJ9."
    + PAYLOAD
    + b".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqP"
    b"P3-Kg6NU1Q"
)
RFC_7515 = [("HS256", A1, A1_KEY), ("RS256", A2, A2_KEY), ("ES256", A3, A3_KEY)]
CENTURY = 3_155_760_000


@pytest.mark.parametrize(("algorithm", "token", "key"), RFC_7515, ids=["A.1", "A.2", "A.3"])
def test_tokens_of_rfc_7515_are_read(client: Client, algorithm: str, token: bytes, key: bytes) -> None:
    assert decode(client, token, key, algorithms=[algorithm], leeway=CENTURY) == JOE
    assert decode(client, token, key, algorithms=[algorithm]) == "expired"
    other = bytearray(token)
    other[len(token) - len(token.rpartition(b".")[2])] ^= 1
    assert decode(client, bytes(other), key, algorithms=[algorithm], leeway=CENTURY) == "signature"


def test_the_token_of_rfc_8037_has_a_good_signature_and_no_claims(client: Client) -> None:
    key = public_pem(ed25519.Ed25519PublicKey.from_public_bytes(octets(b"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")))
    token = (
        b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc"
        b".hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    assert decode(client, token, key, algorithms=["EdDSA"]) == "malformed"
    assert decode(client, token.replace(b"RXhh", b"RXhi"), key, algorithms=["EdDSA"]) == "signature"


# ------------------------------------------------------------ made and read


@pytest.mark.parametrize("algorithm", jwt.ALGORITHMS)
def test_every_algorithm_reads_what_it_signed_and_nothing_else(client: Client, algorithm: str) -> None:
    private, public = KEYS[algorithm]
    claims = {"sub": "ada", "n": [1, None, True, -(2**63), 2**63 - 1, 0.5, "ö"], "o": {}}
    token = encode(client, claims, private, algorithm=algorithm)
    assert decode(client, token, public, algorithms=[algorithm]) == claims
    assert decode(client, token, private, algorithms=[algorithm]) == claims, "the private key has the public one in it"
    head, payload, signature = token.split(b".")
    for changed in (
        b".".join((head, base64url_encode(json.dumps({**claims, "sub": "eve"}).encode()), signature)),
        b".".join((base64url_encode(json.dumps({"alg": algorithm, "kid": "x"}).encode()), payload, signature)),
        b".".join((head, payload, base64url_encode(octets(signature)[::-1]))),
        b".".join((head, payload, b"")),
    ):
        assert decode(client, changed, public, algorithms=[algorithm]) == "signature"


JSON_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)


@given(
    claims=st.dictionaries(
        st.text(max_size=8).filter(lambda name: name not in ("exp", "nbf", "iat", "iss", "sub", "aud", "jti")),
        st.recursive(
            JSON_SCALARS,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=10,
        ),
        max_size=5,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_claims_come_back_as_they_were(client: Client, claims: dict[str, Any]) -> None:
    assert decode(client, encode(client, claims)) == claims


def test_expires_in_is_the_claim_exp(client: Client) -> None:
    before = int(time.time())
    claims = decode(client, encode(client, {"sub": "ada"}, expires_in=60))
    assert before + 60 <= claims["exp"] <= time.time() + 60


def test_headers_are_written_and_read(client: Client) -> None:
    token = encode(client, {}, headers={"kid": "2026", "typ": "at+jwt", "n": 2**60})
    assert json.loads(client.header(token)) == {"alg": "HS256", "kid": "2026", "typ": "at+jwt", "n": 2**60}


# ------------------------------------------------------------ claims

NOW = int(time.time())  # far from the edges below, as the whole run takes minutes
# claims, options, the code or None for a good token
JUDGED: list[tuple[dict[str, Any], dict[str, Any], str | None]] = [
    ({"exp": NOW + 3600}, {}, None),
    ({"exp": NOW - 3600}, {}, "expired"),
    ({"exp": NOW - 3600}, {"leeway": 7200}, None),
    ({"exp": NOW - 3600}, {"leeway": 30}, "expired"),
    ({"nbf": NOW + 3600}, {}, "not_before"),
    ({"nbf": NOW + 3600}, {"leeway": 7200}, None),
    ({"nbf": NOW - 3600}, {}, None),
    ({"iat": NOW + 3600}, {}, "not_before"),
    ({"iat": NOW - 3600.5}, {}, None),
    ({"exp": "soon"}, {}, "malformed"),
    ({"exp": None}, {}, "malformed"),
    ({"exp": [1]}, {}, "malformed"),
    ({"nbf": {}}, {}, "malformed"),
    ({"iat": "x"}, {}, "malformed"),
    ({"sub": 7}, {}, "malformed"),
    ({"jti": 7}, {}, "malformed"),
    ({"aud": "a"}, {"audience": ["a"]}, None),
    ({"aud": ["a", "b"]}, {"audience": ["b"]}, None),
    ({"aud": ["a"]}, {"audience": ["b", "a"]}, None),
    ({"aud": "a"}, {"audience": ["b"]}, "audience"),
    ({"aud": ["a"]}, {"audience": ["b", "c"]}, "audience"),
    ({"aud": "ab"}, {"audience": ["a"]}, "audience"),
    ({"aud": {"a": 1}}, {"audience": ["a"]}, "audience"),
    ({"aud": "a"}, {}, "audience"),  # meant for somebody, and we did not say that we are it (RFC 7519, 4.1.3)
    ({}, {"audience": ["a"]}, "missing_claim"),
    ({"iss": "i"}, {"issuer": ["i"]}, None),
    ({"iss": "i"}, {"issuer": ["j", "i"]}, None),
    ({"iss": "i"}, {"issuer": ["j"]}, "issuer"),
    ({"iss": "ij"}, {"issuer": ["i"]}, "issuer"),
    ({"iss": ["i"]}, {"issuer": ["i"]}, "issuer"),
    ({"iss": "i"}, {}, None),
    ({}, {"issuer": ["i"]}, "missing_claim"),
    ({"sub": "s"}, {"require": ["exp"]}, "missing_claim"),
    ({"sub": None}, {"require": ["sub"]}, "missing_claim"),
    ({"exp": NOW + 3600, "sub": "s"}, {"require": ["exp", "sub"]}, None),
]


@pytest.mark.parametrize(("claims", "options", "code"), JUDGED)
def test_claims_are_judged(client: Client, claims: dict[str, Any], options: dict[str, Any], code: str | None) -> None:
    assert decode(client, by_hand(HS256, claims), **options) == (code or claims)


def test_a_missing_claim_is_named(client: Client) -> None:
    answer = client.decode(by_hand(HS256, {}), SECRET, b'{"algorithms":["HS256"],"require":["exp"]}')
    assert answer == b'missing_claim the token has no claim "exp"'


# ------------------------------------------------------------ tokens that attackers make

ATTACKS: dict[str, tuple[bytes, str]] = {
    "none": (by_hand({"alg": "none"}, {"sub": "eve"}, signature=b""), "algorithm"),
    "None": (by_hand({"alg": "None"}, {"sub": "eve"}, signature=b""), "algorithm"),
    "no algorithm": (by_hand({"typ": "JWT"}, {}), "algorithm"),
    "an algorithm that is not named": (by_hand({"alg": "HS512"}, {}), "algorithm"),
    "an algorithm that is none": (by_hand({"alg": ["HS256"]}, {}), "algorithm"),
    "an algorithm that is an object": (by_hand({"alg": {"HS256": 1}}, {}), "algorithm"),
    "another secret": (by_hand(HS256, {}, b"x" * 32), "signature"),
    "no signature": (by_hand(HS256, {}, signature=b""), "signature"),
    "a short signature": (by_hand(HS256, {}, signature=b"\0" * 16), "signature"),
    "a payload that is not signed": (by_hand({**HS256, "b64": False, "crit": ["b64"]}, {}), "malformed"),
    "an extension that is not known": (by_hand({**HS256, "crit": ["exp"], "exp": 1}, {}), "malformed"),
    "a kid that is no string": (by_hand({**HS256, "kid": {"$ne": 1}}, {}), "malformed"),
    "a header that is a list": (by_hand(["HS256"], {}), "malformed"),
    "a header that is no JSON": (by_hand(b"{", {}), "malformed"),
    "a header that is not UTF-8": (by_hand(b'{"alg":"HS256","x":"\xff"}', {}), "malformed"),
    "a header of brackets": (by_hand(b"[" * 6000, {}), "malformed"),
    "claims that are a list": (by_hand(HS256, ["sub"]), "malformed"),
    "claims that are text": (by_hand(HS256, "sub"), "malformed"),
    "claims that are no JSON": (by_hand(HS256, b"sub=eve"), "malformed"),
    "claims of brackets": (by_hand(HS256, b'{"a":' * 2000 + b"1" + b"}" * 2000), "malformed"),
    "an infinite time": (by_hand(HS256, b'{"exp":1e999}'), "malformed"),
    "a number of many digits": (by_hand(HS256, b'{"exp":' + b"9" * 5000 + b"}"), "malformed"),
    "nothing": (b"", "malformed"),
    "one part": (b"abc", "malformed"),
    "two parts": (b"abc.def", "malformed"),
    "four parts": (b"a.b.c.d", "malformed"),
    "dots": (b"..", "malformed"),
    "not ASCII": ("é.é.é".encode(), "malformed"),
    "NUL": (b"\0.\0.\0", "malformed"),
    "spaces": (b" " + by_hand(HS256, {}), "malformed"),
    "too long": (by_hand(HS256, {"x": "x" * 16384}), "malformed"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_bad_token_is_an_answer(client: Client, name: str) -> None:
    token, code = ATTACKS[name]
    assert decode(client, token) == code


@given(token=st.one_of(st.binary(max_size=60), st.text("aA0.-_=e", max_size=60).map(str.encode)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_nothing_that_is_sent_raises_or_is_good(client: Client, token: bytes) -> None:
    assert isinstance(decode(client, token), str)
    client.header(token)


def test_a_public_key_is_never_taken_as_a_secret(client: Client) -> None:
    # The attack: a token signed with HMAC, whose secret is the public key that everybody has.
    public = RSA[1]
    forged = by_hand(HS256, {"sub": "eve"}, public)
    assert decode(client, forged, public, algorithms=["RS256"]) == "algorithm"
    for algorithms in (["HS256"], ["RS256", "HS256"], ["HS256", "RS256"]):
        with pytest.raises(ValueError, match=r"takes a secret|different kinds of keys"):
            decode(client, forged, public, algorithms=algorithms)


# ------------------------------------------------------------ keys and claims of the program

SMALL_RSA = b"""-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC7vbqajDw4o6gJy8UtmIbkcpnk
O3Kwc4qsEnSZp/TR+fQi62F79RHWmwKOtFmwteURgLbj7D/WGuNLGOfa/2vse3G2
eHnHl5CB8ruRX9fBl/KgwCVr2JaEuUm66bBQeP5XeBotdR4cvX38uPYivCDdPjJ1
QWPdspTBKcxeFbccDwIDAQAB
-----END PUBLIC KEY-----
"""
P256_PRIVATE, P256_PUBLIC = EC["ES256"]
# algorithms, key, what the sentence says
BAD_KEYS: list[tuple[list[str], bytes, str]] = [
    (["HS256"], b"", "HS256 takes a secret"),
    (["HS256"], b"x" * 31, "HS256 takes a secret of 32 bytes or more.*31"),
    (["HS384"], b"x" * 47, "HS384 takes a secret of 48"),
    (["HS512"], b"x" * 63, "HS512 takes a secret of 64"),
    (["HS256", "HS512"], SECRET, "HS512 takes a secret of 64"),
    (["HS256"], RSA[1], "HS256 takes a secret"),
    (["HS256"], RSA[0], "HS256 takes a secret"),
    (["HS256"], P256_PUBLIC, "HS256 takes a secret"),
    (["HS256"], ED25519[1], "HS256 takes a secret"),
    (["HS256", "RS256"], SECRET, "different kinds of keys"),
    (["RS256", "ES256"], RSA[1], "different kinds of keys"),
    (["RS256"], SECRET, "RS256 takes a PEM key of the kind RSA"),
    (["RS256"], b"\xff\xfe", "RS256 takes a PEM key"),
    (["RS256"], P256_PUBLIC, "RS256 takes a PEM key of the kind RSA"),
    (["RS256"], SMALL_RSA, "RSA key of 2048 bits or more, and this has 1024"),
    (["ES256"], RSA[1], "ES256 takes a PEM key of the kind EC"),
    (["ES256"], EC["ES384"][1], "ES256 takes a PEM key"),
    (["ES256"], EC["ES256K"][1], "ES256 takes a PEM key"),
    (["EdDSA"], P256_PUBLIC, "EdDSA takes a PEM key"),
    (["EdDSA"], b"\xff\xfe", "EdDSA takes a PEM key"),
    (["ES256"], b"-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n", "ES256 takes a PEM key"),
]


@pytest.mark.parametrize(("algorithms", "key", "sentence"), BAD_KEYS)
def test_a_key_that_does_not_fit_is_raised(client: Client, algorithms: list[str], key: bytes, sentence: str) -> None:
    # Whatever the token: a mistake in a program shows at once.
    for token in (b"", A1):
        with pytest.raises(ValueError, match=sentence):
            decode(client, token, key, algorithms=algorithms)
    if len(algorithms) == 1:
        with pytest.raises(ValueError, match=sentence):
            encode(client, {}, key, algorithm=algorithms[0])


def test_a_public_key_signs_nothing(client: Client) -> None:
    for algorithm in ("RS256", "PS512", "ES256", "EdDSA"):
        with pytest.raises(ValueError, match=f"{algorithm} signs with a private key; this is a public one"):
            encode(client, {}, KEYS[algorithm][1], algorithm=algorithm)


def test_of_several_curves_the_one_of_the_key_counts(client: Client) -> None:
    every = ["ES256", "ES384", "ES512", "ES256K"]
    for algorithm, (private, public) in EC.items():
        token = encode(client, {"sub": "s"}, private, algorithm=algorithm)
        assert decode(client, token, public, algorithms=every) == {"sub": "s"}
        for _, other in EC.values():
            if other != public:
                assert decode(client, token, other, algorithms=every) == "algorithm"


# claims, options, what the sentence says
BAD_CLAIMS: list[tuple[Any, dict[str, Any], str]] = [
    ([], {}, "the claims must be an object"),
    ({"sub": 7}, {}, "the claim sub must be a string"),
    ({"iss": ["i"]}, {}, "the claim iss must be a string"),
    ({"jti": True}, {}, "the claim jti must be a string"),
    ({"sub": None}, {}, "the claim sub must be a string"),
    ({"aud": 7}, {}, "the claim aud must be a string or a list"),
    ({"aud": ["a", 7]}, {}, "the claim aud must be a string or a list"),
    ({"aud": {}}, {}, "the claim aud must be a string or a list"),
    ({"exp": "soon"}, {}, "the claim exp must be a number"),
    ({"nbf": True}, {}, "the claim nbf must be a number"),
    ({"iat": None}, {}, "the claim iat must be a number"),
    ({"exp": 1}, {"expires_in": 60}, "the claim exp or the option expires_in"),
    ({}, {"headers": {"alg": "none"}}, "the header alg cannot be set"),
    ({}, {"headers": {"b64": False}}, "the header b64 cannot be set"),
    ({}, {"headers": {"crit": ["b64"]}}, "the header crit cannot be set"),
    ({}, {"headers": {"kid": 7}}, "the headers kid and typ must be strings"),
    ({}, {"headers": {"typ": []}}, "the headers kid and typ must be strings"),
    ({"x": "x" * 16384}, {}, "the token would have .* bytes; at most 16384"),
]


@pytest.mark.parametrize(("claims", "options", "sentence"), BAD_CLAIMS)
def test_what_no_reader_would_take_is_not_written(
    client: Client, claims: Any, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        encode(client, claims, **options)


def test_keys_are_parsed_once_and_forgotten_at_the_end() -> None:
    own = Client(Settings(), Path())
    token = encode(own, {}, RSA[0], algorithm="RS256")
    for _ in range(3):
        encode(own, {}, RSA[0], algorithm="RS256")
        decode(own, token, RSA[1], algorithms=["RS256"])
    assert (own._signing_key.cache_info().misses, own._verifying_key.cache_info().misses) == (1, 1)
    own.close()
    assert own._signing_key.cache_info().currsize == own._verifying_key.cache_info().currsize == 0


@pytest.mark.parametrize("library", ["jwt", "cryptography"])
def test_without_its_library_the_client_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'greenlua\[jwt\]'$"):
        Clients(Settings(), tmp_path).open("jwt")


# ------------------------------------------------------------ what Lua sees


def quoted(text: bytes) -> str:
    """As a string of Lua."""
    return '"' + text.decode().replace("\n", "\\n") + '"'


HEAD = f"""
jwt = require "greenlua.jwt"
secret, rsa_private, rsa_public = {quoted(SECRET)}, {quoted(RSA[0])}, {quoted(RSA[1])}
ec_private, ec_public = {quoted(P256_PRIVATE)}, {quoted(P256_PUBLIC)}
ed_private, ed_public = {quoted(ED25519[0])}, {quoted(ED25519[1])}
"""


@pytest.fixture(scope="module", params=list(MODULES))
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LuaProcess]:
    with running_lua(tmp_path_factory.mktemp("app"), HEAD, lua=request.param) as running:
        yield running


MALFORMED = [None, "the token is malformed", "malformed"]
PROMISES: list[tuple[str, list[Any]]] = [
    (
        "return jwt.decode(jwt.encode({ sub = 'ada', list = json.array {}, none = json.null, f = 0.5 }, secret), secret)",
        [{"sub": "ada", "list": [], "none": None, "f": 0.5}],
    ),
    ("return jwt.decode(jwt.encode({}, secret), secret)", [{}]),
    ("return jwt.header(jwt.encode({}, secret, { headers = { kid = 'k' } }))", [{"alg": "HS256", "typ": "JWT", "kid": "k"}]),
    ("return jwt.decode(jwt.encode({}, secret, { headers = {} }), secret, {})", [{}]),
    (
        "local c = jwt.decode(jwt.encode({}, secret, { expires_in = 60 }), secret, { require = 'exp' })"
        " return c.exp - now() > 50, c.exp - now() <= 60, c.exp % 1 == 0",
        [True, True, True],
    ),
    (
        "local t = jwt.encode({ exp = now() - 60 }, secret)"
        " local late = jwt.decode(t, secret, { leeway = 90 }) assert(late.exp) return jwt.decode(t, secret)",
        [None, "the token has expired", "expired"],
    ),
    ("return jwt.decode(jwt.encode({ nbf = now() + 60 }, secret), secret)", [None, "the token is not valid yet", "not_before"]),
    (
        "return jwt.decode(jwt.encode({}, secret), ('x'):rep(32))",
        [None, "the signature of the token is wrong", "signature"],
    ),
    (
        "local k = secret .. secret return jwt.decode(jwt.encode({}, k), k, { algorithms = { 'HS384' } })",
        [None, "the algorithm of the token is not allowed", "algorithm"],
    ),
    (
        "return jwt.decode(jwt.encode({ aud = 'a' }, secret), secret, { audience = 'b' })",
        [None, "the token is meant for another audience", "audience"],
    ),
    ("return jwt.decode(jwt.encode({ aud = { 'a', 'b' } }, secret), secret, { audience = { 'c', 'b' } })", [{"aud": ["a", "b"]}]),
    (
        "return jwt.decode(jwt.encode({ iss = 'i' }, secret), secret, { issuer = 'j' })",
        [None, "the token is of another issuer", "issuer"],
    ),
    (
        "return jwt.decode(jwt.encode({}, secret), secret, { require = { 'exp', 'sub' } })",
        [None, 'the token has no claim "exp"', "missing_claim"],
    ),
    ("return jwt.decode(nil, secret)", [None, "there is no token", "missing"]),
    ("return jwt.header(nil)", [None, "there is no token", "missing"]),
    ("return jwt.decode('', secret)", MALFORMED),
    ("return jwt.decode('\\255\\0.a.b', secret)", MALFORMED),
    ("return jwt.header('a.b.c')", MALFORMED),
    ("return jwt.decode(('x'):rep(20000), secret)", MALFORMED),
    (
        "return jwt.decode(jwt.encode({ sub = 's' }, rsa_private, { algorithm = 'RS256' }), rsa_public, { algorithms = 'RS256' })",
        [{"sub": "s"}],
    ),
    (
        "local t = jwt.encode({ sub = 's' }, ec_private, { algorithm = 'ES256' })"
        " return jwt.decode(t, ec_public, { algorithms = { 'ES256' } })",
        [{"sub": "s"}],
    ),
    (
        "local t = jwt.encode({ sub = 's' }, ed_private, { algorithm = 'EdDSA' })"
        " return jwt.decode(t, ed_public, { algorithms = { 'EdDSA' } })",
        [{"sub": "s"}],
    ),
    (
        "return jwt.decode(jwt.encode({}, ec_private, { algorithm = 'ES256' }), rsa_public, { algorithms = { 'RS256' } })",
        [None, "the algorithm of the token is not allowed", "algorithm"],
    ),
    ("return pcall(function() jwt.decode = nil end)", [False, "test.lua:1: greenlua.jwt cannot be changed"]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), PROMISES, ids=[source[:60] for source, _ in PROMISES])
def test_lua_gets(process: LuaProcess, source: str, expected: list[Any]) -> None:
    assert process.run(source) == expected


def test_integers_are_exact(process: LuaProcess) -> None:
    exact = process.run("return math.type and 9007199254740993 or 9007199254740992")[0]
    source = f"return jwt.decode(jwt.encode({{ a = {exact}, b = -{exact} }}, secret), secret)"
    assert process.run(source) == [{"a": exact, "b": -exact}]
    if exact % 2:
        source = "return jwt.decode(jwt.encode({ a = math.maxinteger, b = math.mininteger }, secret), secret)"
        assert process.run(source) == [{"a": 2**63 - 1, "b": -(2**63)}]


MISUSES = [
    ("jwt.encode(nil, secret)", "jwt.encode: the claims must be a table, not a nil"),
    ("jwt.encode({ 1, 2 }, secret)", "jwt.encode: the claims must be an object, not a list"),
    ("jwt.encode({ x = print }, secret)", "jwt.encode: the claims: $.x is a function, which JSON cannot say"),
    ("jwt.encode({ sub = 7 }, secret)", "jwt.encode: the claim sub must be a string"),
    ("jwt.encode({})", "jwt.encode: the key must be a string, not a nil"),
    ("jwt.encode({}, ('x'):rep(70000))", "jwt.encode: the key has 70000 bytes; at most 65536 are taken"),
    ("jwt.encode({}, 'short')", "jwt.encode: HS256 takes a secret of 32 bytes or more (RFC 7518), and this has 5; make one with"),
    ("jwt.encode({}, secret, 60)", "jwt.encode: the options must be a table, not a number"),
    ("jwt.encode({}, secret, { expire_in = 60 })", "jwt.encode has no option expire_in; did you mean expires_in?"),
    ("jwt.encode({}, secret, { 60 })", "jwt.encode has no option 1; there are algorithm, headers, expires_in"),
    ("jwt.encode({}, secret, { expires_in = 0 })", "jwt.encode: expires_in must be a number of seconds, more than 0"),
    ("jwt.encode({}, secret, { expires_in = 1 / 0 })", "jwt.encode: expires_in must be a number of seconds, more than 0"),
    ("jwt.encode({}, secret, { expires_in = '60' })", "jwt.encode: expires_in must be a number of seconds, more than 0"),
    ("jwt.encode({}, secret, { algorithm = 'none' })", 'jwt.encode: there is no algorithm "none"; there are HS256,'),
    ("jwt.encode({}, secret, { algorithm = 7 })", "jwt.encode: there is no algorithm 7; there are HS256,"),
    ("jwt.encode({}, secret, { headers = { 'kid' } })", "jwt.encode: headers must be a table of names"),
    ("jwt.encode({}, secret, { headers = { alg = 'none' } })", "jwt.encode: the header alg cannot be set"),
    ("jwt.encode({}, rsa_public, { algorithm = 'RS256' })", "jwt.encode: RS256 signs with a private key; this is a public one"),
    ("jwt.encode({}, rsa_public)", "jwt.encode: HS256 takes a secret: "),
    ("jwt.decode(7, secret)", "jwt.decode: the token must be a string, not a number"),
    ("jwt.decode('a.b.c')", "jwt.decode: the key must be a string, not a nil"),
    ("jwt.decode(nil)", "jwt.decode: the key must be a string, not a nil"),
    ("jwt.decode('a.b.c', 'short')", "jwt.decode: HS256 takes a secret of 32 bytes or more"),
    ("jwt.decode('a.b.c', rsa_public)", "jwt.decode: HS256 takes a secret: "),
    ("jwt.decode('a.b.c', secret, { algorithm = 'HS256' })", "jwt.decode has no option algorithm; did you mean algorithms?"),
    ("jwt.decode('a.b.c', secret, { algorithms = {} })", "jwt.decode: algorithms must be a string or a list of strings"),
    ("jwt.decode('a.b.c', secret, { algorithms = { 'none' } })", 'jwt.decode: there is no algorithm "none"; there are HS256,'),
    ("jwt.decode('a.b.c', secret, { algorithms = { 'HS256', 7 } })", "jwt.decode: algorithms[2] must be a string, not a number"),
    ("jwt.decode('a.b.c', secret, { algorithms = { 'HS256', 'RS256' } })", "jwt.decode: HS256, RS256 take different kinds of keys"),
    ("jwt.decode('a.b.c', secret, { audience = {} })", "jwt.decode: audience must be a string or a list of strings"),
    ("jwt.decode('a.b.c', secret, { issuer = 7 })", "jwt.decode: issuer must be a string or a list of strings"),
    ("jwt.decode('a.b.c', secret, { leeway = -1 })", "jwt.decode: leeway must be a number of seconds, 0 or more"),
    ("jwt.decode('a.b.c', secret, { require = { {} } })", "jwt.decode: require[1] must be a string, not a table"),
    ("jwt.header({})", "jwt.header: the token must be a string, not a table"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), MISUSES, ids=[call for call, _ in MISUSES])
def test_misuse_is_raised_at_its_place(process: LuaProcess, call: str, message: str) -> None:
    outcome = process.outcome(f"\nlocal x = {call}\nreturn x")
    assert outcome.text.startswith(f"test.lua:2: {message}")


def test_a_signature_is_the_hmac_of_rfc_7515(process: LuaProcess) -> None:
    head, payload, signature = process.run("return jwt.encode({ sub = 's' }, secret)")[0].encode().split(b".")
    assert octets(signature) == hmac.new(SECRET, head + b"." + payload, hashlib.sha256).digest()
