"""greenlua.crypto: known vectors for the Python half; then what Lua sees of it, on every Lua, in a real process."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenlua.clients import crypto
from greenlua.clients.crypto import Client, Uuids
from greenlua.settings import Settings
from greenlua.vm import MODULES
from tests.clients.running_lua import LuaProcess, running_lua

# ------------------------------------------------------------ digests

# RFC 4231, section 4: key, data, and the HMACs with SHA-224, -256, -384, -512 (case 5 is cut to 128 bits)
RFC_4231 = [
    (
        b"\x0b" * 20, b"Hi There",
        "896fb1128abbdf196832107cd49df33f47b4b1169912ba4f53684b22",
        "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
        "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
        "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4"
        "be9d914eeb61f1702e696c203a126854",
    ),
    (
        b"Jefe", b"what do ya want for nothing?",
        "a30e01098bc6dbbf45690f3a7e9e6d0f8bbea2a39e6148008fd05e44",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd"
        "caeab1a34d4a6b4b636e070a38bce737",
    ),
    (
        b"\xaa" * 20, b"\xdd" * 50,
        "7fb3cb3588c6c1f6ffa9694d7d6ad2649365b0c1f65d69d1ec8333ea",
        "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
        "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b2a5ab39dc13814b94e3ab6e101a34f27",
        "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39bf3e848279a722c806b485a47e67c807"
        "b946a337bee8942674278859e13292fb",
    ),
    (
        bytes(range(1, 26)), b"\xcd" * 50,
        "6c11506874013cac6a2abc1bb382627cec6a90d86efc012de7afec5a",
        "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e6801dd23c4a7d679ccf8a386c674cffb",
        "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3dba91ca5c11aa25eb4d679275cc5788063"
        "a5f19741120c4f2de2adebeb10a298dd",
    ),
    (
        b"\x0c" * 20, b"Test With Truncation",
        "0e2aea68a90c8d37c988bcdb9fca6fa8",
        "a3b6167473100ee06e0c796c2955552b",
        "3abf34c3503b2a23a46efc619baef897",
        "415fad6271580a531d4179bc891d87a6",
    ),
    (
        b"\xaa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First",
        "95e9a0db962095adaebe9b2d6f0dbce2d499f112f2d2b7273fa6870e",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
        "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e52"
        "95e64f73f63f0aec8b915a985d786598",
    ),
    (
        b"\xaa" * 131,
        b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed"
        b" before being used by the HMAC algorithm.",
        "3a854166ac5d9f023f54d517d0b39dbd946770db9c2b95c9f6f565d1",
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5a678cc31e799176d3860e6110c46523e",
        "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944b6022cac3c4982b10d5eeb55c3e4de15"
        "134676fb6de0446065c97440fa8c6a58",
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", RFC_4231, ids=range(1, 8))
def test_hmacs_are_those_of_rfc_4231(case: tuple[Any, ...]) -> None:
    key, data, *expected = case
    for algorithm, text in zip((b"sha224", b"sha256", b"sha384", b"sha512"), expected, strict=True):
        assert crypto.keyed_digest(algorithm, key, data, b"hex")[: len(text)].decode() == text


# FIPS 180-4 and 202, RFC 1321, 3174, 7693: the digest of "abc"
ABC = {
    "md5": "900150983cd24fb0d6963f7d28e17f72",
    "sha1": "a9993e364706816aba3e25717850c26c9cd0d89d",
    "sha224": "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
    "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    "sha384": "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
    "sha512": "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
    "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
    "sha3_224": "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf",
    "sha3_256": "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
    "sha3_384": "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
    "sha3_512": "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e"
    "10e116e9192af3c91a7ec57647e3934057340b4cf408d5a56592f8274eec53f0",
    "blake2b": "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
    "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923",
    "blake2s": "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982",
}


def test_digests_of_abc_are_those_of_the_standards() -> None:
    assert sorted(ABC) == sorted(crypto.ALGORITHMS)
    for algorithm, expected in ABC.items():
        assert crypto.digest(algorithm.encode(), b"abc", b"hex").decode() == expected


@pytest.mark.parametrize("algorithm", crypto.ALGORITHMS)
def test_every_algorithm_has_an_hmac(algorithm: str) -> None:
    expected = hmac.new(b"key", b"text", getattr(hashlib, algorithm)).hexdigest()
    assert crypto.keyed_digest(algorithm.encode(), b"key", b"text", b"hex").decode() == expected


def test_encodings_of_a_digest_are_the_same_bytes() -> None:
    raw = crypto.digest(b"sha256", b"abc", b"raw")
    assert raw.hex() == ABC["sha256"]
    assert crypto.digest(b"sha256", b"abc", b"base64") == b64encode(raw)
    assert crypto.digest(b"sha256", b"abc", b"base64url") == urlsafe_b64encode(raw).rstrip(b"=")


# ------------------------------------------------------------ encodings

# RFC 4648, section 10
RFC_4648 = [
    (b"", b"", b""), (b"f", b"Zg==", b"66"), (b"fo", b"Zm8=", b"666F"), (b"foo", b"Zm9v", b"666F6F"),
    (b"foob", b"Zm9vYg==", b"666F6F62"), (b"fooba", b"Zm9vYmE=", b"666F6F6261"), (b"foobar", b"Zm9vYmFy", b"666F6F626172"),
]  # fmt: skip


def test_encodings_are_those_of_rfc_4648() -> None:
    for data, base64, hexadecimal in RFC_4648:
        assert crypto.base64_encode(data) == base64
        assert crypto.base64_decode(base64) == data
        assert crypto.base64url_encode(data) == base64.rstrip(b"=")
        assert crypto.base64url_decode(base64.rstrip(b"=")) == data
        assert crypto.ENCODINGS[b"hex"](data) == hexadecimal.lower()
        assert crypto.hex_decode(hexadecimal) == crypto.hex_decode(hexadecimal.lower()) == data
    assert crypto.base64_encode(b"\xfb\xff") == b"+/8="
    assert crypto.base64url_encode(b"\xfb\xff") == b"-_8"


DECODERS: list[tuple[Callable[[bytes], bytes], Callable[[bytes], bytes | None]]] = [
    (crypto.base64_encode, crypto.base64_decode),
    (crypto.base64url_encode, crypto.base64url_decode),
]


@given(text=st.one_of(st.binary(max_size=12), st.text("AQgw+/-_=\n 4", max_size=12).map(str.encode)))
def test_a_text_is_decoded_only_if_it_is_the_one_that_encoding_gives(text: bytes) -> None:
    for encode, decode in DECODERS:
        assert decode(encode(text)) == text
        decoded = decode(text)
        assert decoded is None or encode(decoded) == text


REFUSED = [
    # no padding, too much of it, in the middle, bits behind the last byte, line breaks, the other alphabet
    (
        crypto.base64_decode,
        [b"Zg", b"Zg=", b"Zg===", b"=", b"Zg==Zg==", b"Zh==", b"Zm9\n", b"Zm9v\n", b" Zm9v", b"-_8=", b"Z"],
    ),
    (crypto.base64url_decode, [b"Zg==", b"Zm8=", b"Zh", b"Zm9v\n", b"+/8", b"Z", b"Zm9vY", b"="]),
    (crypto.hex_decode, [b"6", b"6g", b"66 66", b"0x66", b"66\n", b"\xff\xff"]),
]


@pytest.mark.parametrize(("decode", "texts"), REFUSED, ids=["base64", "base64url", "hex"])
def test_what_is_not_canonical_is_not_decoded(decode: Callable[[bytes], bytes | None], texts: list[bytes]) -> None:
    assert [text for text in texts if decode(text) is not None] == []


# ------------------------------------------------------------ uuids


def test_uuids_have_their_version_and_variant() -> None:
    make = Uuids().make
    for version in (4, 7):
        made = [uuid.UUID(make(version).decode()) for _ in range(1000)]
        assert {(one.version, one.variant) for one in made} == {(version, uuid.RFC_4122)}
        assert len(set(made)) == 1000
        assert str(made[0]) == str(uuid.UUID(str(made[0]))), "lower case with dashes"


def test_uuids_of_version_7_hold_the_time_of_rfc_9562() -> None:
    # RFC 9562, A.6: 2022-02-22 14:22:22.00 GMT-05:00
    assert Uuids(lambda: 0x017F22E279B0 * 1_000_000).make(7).startswith(b"017f22e2-79b0-7")


@pytest.mark.parametrize(
    "times",
    [[1000] * 20_000, [1000, 999, 5, 1001, 0] * 4000, list(range(20_000)), [7, 7, 8] * 6000],
    ids=["one millisecond", "a clock that goes back", "a clock that runs", "some of each"],
)
def test_uuids_of_version_7_grow_whatever_the_clock_does(times: list[int]) -> None:
    ticks = iter(times)
    make = Uuids(lambda: next(ticks) * 1_000_000).make
    made = [make(7) for _ in times]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


# ------------------------------------------------------------ passwords

# Hashes by others: passlib's documentation, and RFC 7914, section 12 in the same notation (its 64 bytes in base64)
RFC_7914 = bytes.fromhex(
    "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
)
FOREIGN_HASHES = [
    b"$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E",
    b"$scrypt$ln=10,r=8,p=16$TmFDbA$" + b64encode(RFC_7914).rstrip(b"="),
]


@pytest.mark.parametrize("stored", FOREIGN_HASHES, ids=["passlib", "RFC 7914"])
def test_hashes_in_the_common_notation_are_verified(stored: bytes) -> None:
    assert crypto.verify_password(b"password", stored) is True
    assert crypto.verify_password(b"Password", stored) is False


def test_a_hash_verifies_its_password_and_no_other() -> None:
    password = "Käse".encode()
    stored = crypto.hash_password(password).encode()
    assert stored.startswith(b"$scrypt$ln=15,r=8,p=3$")
    assert crypto.verify_password(password, stored) is True
    # scrypt itself does not tell a password from the same with NUL behind it.
    for other in (b"", b"K\xe4se", password + b" ", password + b"\0", b"x" * (crypto.PASSWORD_MAX + 1)):
        assert crypto.verify_password(other, stored) is False
    assert crypto.verify_password(password, stored[:-1] + (b"A" if stored[-1:] != b"A" else b"E")) is False
    salts = {crypto.hash_password(b"").split("$")[3] for _ in range(2)}
    assert len(salts) == 2, "each hash has a salt of its own"


NO_HASHES = [
    b"",
    b"password",
    b"$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
    b"$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
    b"$scrypt$ln=15,r=8,p=3$c2FsdA$c2hvcnQ",  # 5 bytes of hash
    b"$scrypt$ln=15,r=8,p=3$c2FsdA$" + b"A" * 42 + b"B",  # bits behind the last byte
    b"$scrypt$ln=0,r=8,p=3$c2FsdA$" + b"A" * 43,
    b"$scrypt$ln=16,r=1,p=3$c2FsdA$" + b"A" * 43,  # scrypt has no such N for this r
    b"$scrypt$ln=15,r=8,p=3$c2FsdA$" + b"A" * 43 + b"\n",
    b"$scrypt$ln=25,r=8,p=1$c2FsdA$" + b"A" * 43,  # 32 GiB
    b"$scrypt$ln=99,r=999,p=99$c2FsdA$" + b"A" * 43,
    b"$scrypt$ln=15,r=8,p=99$c2FsdA$" + b"A" * 43,
]


@pytest.mark.parametrize("stored", NO_HASHES)
def test_what_is_no_hash_of_ours_is_told_and_costs_nothing(stored: bytes) -> None:
    answer = crypto.verify_password(b"password", stored)
    assert isinstance(answer, str)
    assert answer.startswith("the hash ")


def test_hashing_lets_the_loop_go_on() -> None:
    client = Client(Settings(), Path())
    try:
        hashing = gevent.spawn(client.operations["password.hash"], "password")
        turns = 0
        while not hashing.ready():
            gevent.sleep(0.001)
            turns += 1
        assert turns > 1
        assert client.operations["password.verify"](b"password", hashing.get()) is True
    finally:
        client.close()


# ------------------------------------------------------------ what Lua sees

HEAD = 'crypto = require "greenlua.crypto"'


@pytest.fixture(scope="module", params=list(MODULES))
def process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LuaProcess]:
    with running_lua(tmp_path_factory.mktemp("app"), HEAD, lua=request.param) as running:
        yield running


PROMISES: list[tuple[str, list[Any]]] = [
    ('return crypto.hash("sha256", "abc")', [ABC["sha256"]]),
    ('return crypto.hash("sha1", "abc", "base64")', ["qZk+NkcGgWq6PiVxeFDCbJzQ2J0="]),
    ('return crypto.hash("sha1", "abc", "base64url")', ["qZk-NkcGgWq6PiVxeFDCbJzQ2J0"]),
    ('return #crypto.hash("sha512", "", "raw")', [64]),
    ('return crypto.hash("sha256", "\\0\\255") == crypto.hash("sha256", "\\0\\254")', [False]),
    ('return crypto.hmac("sha256", "Jefe", "what do ya want for nothing?")', [RFC_4231[1][3]]),
    ('return crypto.hmac("sha1", "", "", "base64")', ["+9sdGxiqbAgyS31ktx+3Y3BpDh0="]),
    ('return crypto.equal("a\\0b", "a\\0b"), crypto.equal("a", "b"), crypto.equal("a", "ab")', [True, False, False]),
    ('return crypto.base64.encode("\\251\\255"), crypto.base64url.encode("\\251\\255")', ["+/8=", "-_8"]),
    ('return crypto.base64.decode("+/8=") == "\\251\\255", crypto.base64url.decode("-_8") == "\\251\\255"', [True, True]),
    ('return crypto.base64.decode("+/8")', [None, "not valid base64"]),
    ('return crypto.base64url.decode("-_8=")', [None, "not valid base64url without padding"]),
    ('return crypto.hex.encode("\\0\\171"), crypto.hex.decode("00AB") == "\\0\\171"', ["00ab", True]),
    ('return crypto.hex.decode("0")', [None, "not valid hexadecimal"]),
    ('return crypto.base64.decode(""), crypto.hex.decode("")', ["", ""]),
    ("return #crypto.random_bytes(1), #crypto.random_bytes(65536)", [1, 65536]),
    ("return crypto.random_bytes(16) == crypto.random_bytes(16)", [False]),
    (
        "return #crypto.uuid(), crypto.uuid():sub(15, 15), crypto.uuid(4):sub(15, 15), crypto.uuid(7):sub(15, 15)",
        [36, "4", "4", "7"],
    ),
    ("local last = '' for i = 1, 5000 do local new = crypto.uuid(7) assert(new > last) last = new end return true", [True]),
    (
        'local p = crypto.password local h = p.hash("secret") return p.verify("secret", h), p.verify("Secret", h)',
        [True, False],
    ),
    (
        'local p = crypto.password local h = p.hash("\\255") return p.verify("\\255", h), p.verify("\\255\\0", h)',
        [True, False],
    ),
    ('return crypto.password.verify("secret", "!")', [None, "the hash is none of crypto.password"]),
    ('return crypto.password.verify(("x"):rep(5000), crypto.password.hash("x"))', [False]),
    ('return pcall(function() crypto.hash = nil end)', [False, "test.lua:1: greenlua.crypto cannot be changed"]),
    ('return pcall(function() crypto.base64.encode = nil end)', [False, "test.lua:1: crypto.base64 cannot be changed"]),
    ('return pcall(function() crypto.password.verify = nil end)', [False, "test.lua:1: crypto.password cannot be changed"]),
]  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), PROMISES, ids=[source for source, _ in PROMISES])
def test_lua_gets(process: LuaProcess, source: str, expected: list[Any]) -> None:
    assert process.run(source) == expected


BIG = '("x"):rep(16 * 1024 * 1024 + 1)'
MISUSES = [
    (
        'crypto.hash("sha257", "x")',
        'crypto.hash: there is no algorithm "sha257"; did you mean sha256? there are blake2b,',
    ),
    ('crypto.hash(nil, "x")', "crypto.hash: there is no algorithm nil; there are blake2b,"),
    ('crypto.hash("shake_128", "x")', 'crypto.hash: there is no algorithm "shake_128"; '),
    (
        'crypto.hash("sha256", "x", "bas64")',
        'crypto.hash: there is no encoding "bas64"; did you mean base64? there are base64,',
    ),
    ('crypto.hash("sha256")', "crypto.hash: the text must be a string, not a nil"),
    ('crypto.hash("sha256", 12)', "crypto.hash: the text must be a string, not a number"),
    (f'crypto.hash("sha256", {BIG})', "crypto.hash: the text has 16777217 bytes; at most 16777216 are taken"),
    ('crypto.hmac("sha9", "k", "x")', 'crypto.hmac: there is no algorithm "sha9"; '),
    ('crypto.hmac("sha256", nil, "x")', "crypto.hmac: the key must be a string, not a nil"),
    ('crypto.hmac("sha256", "k", {})', "crypto.hmac: the text must be a string, not a table"),
    ('crypto.hmac("sha256", "k", "x", 5)', "crypto.hmac: there is no encoding 5; "),
    ('crypto.equal("a", nil)', "crypto.equal: the second text must be a string, not a nil"),
    ("crypto.uuid(1)", "crypto.uuid: there are versions 4 (random) and 7 (by time)"),
    ('crypto.uuid("4")', "crypto.uuid: there are versions 4 (random) and 7 (by time)"),
    ("crypto.random_bytes(0)", "crypto.random_bytes takes a whole number from 1 to 65536"),
    ("crypto.random_bytes(65537)", "crypto.random_bytes takes a whole number from 1 to 65536"),
    ("crypto.random_bytes(1.5)", "crypto.random_bytes takes a whole number from 1 to 65536"),
    ("crypto.random_bytes(0/0)", "crypto.random_bytes takes a whole number from 1 to 65536"),
    ("crypto.random_bytes()", "crypto.random_bytes takes a whole number from 1 to 65536"),
    ("crypto.base64.decode(nil)", "crypto.base64.decode: the text must be a string, not a nil"),
    (f"crypto.base64.encode({BIG})", "crypto.base64.encode: the text has 16777217 bytes; at most 16777216 are taken"),
    ("crypto.hex.decode({})", "crypto.hex.decode: the text must be a string, not a table"),
    (
        'crypto.password.hash(("x"):rep(4097))',
        "crypto.password.hash: the password has 4097 bytes; at most 4096 are taken",
    ),
    ('crypto.password.hash("x\\0")', "crypto.password.hash: the password must not contain NUL"),
    ("crypto.password.hash(nil)", "crypto.password.hash: the password must be a string, not a nil"),
    ('crypto.password.verify("x", nil)', "crypto.password.verify: the hash must be a string, not a nil"),
]


@pytest.mark.parametrize(("call", "message"), MISUSES, ids=[call[:40] for call, _ in MISUSES])
def test_misuse_is_raised_at_its_place(process: LuaProcess, call: str, message: str) -> None:
    outcome = process.outcome(f"\nlocal x = {call}\nreturn x")
    assert outcome.text.startswith(f"test.lua:2: {message}")


def test_other_requests_are_answered_while_a_password_is_hashed(process: LuaProcess) -> None:
    slow = 'for i = 1, 3 do crypto.password.hash("secret") end return true'
    with ThreadPoolExecutor(4) as pool:
        hashing = [pool.submit(process.run, slow) for _ in range(3)]
        answered = 0
        while not any(one.done() for one in hashing):
            assert process.run("return 1") == [1]
            answered += 1
        assert [one.result() for one in hashing] == [[True]] * 3
    assert answered > 3


def test_what_is_not_made_while_the_app_loads_says_so(tmp_path: Path) -> None:
    head = HEAD + '\nlocal ok, why = pcall(crypto.password.hash, "x")\nwhy_not = tostring(why)'
    with running_lua(tmp_path, head) as running:
        assert "crypto.password.hash cannot wait here" in running.run("return why_not")[0]
