"""JSON Web Tokens: which are accepted, known attacks, and keys that rotate or can't be read."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms
from jwt.api_jws import PyJWS

from serve_app.access.jwt_tokens import JwtVerifier, jwt_verifier
from serve_app.access.key_sets import COOLDOWN_S, KeySet, parse_keys
from serve_app.errors import InvalidRequest, Unauthenticated
from serve_app.settings_access import JwtSettings
from tests.access.clock import Clock
from tests.fakes import FakeMeter

KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
SETTINGS = JwtSettings(keys="https://id.example/keys", issuer="https://id.example", audience="glm", leeway_s=30)


def public(algorithm: str, key_id: str | None = None, key: Any = None, **more: Any) -> dict[str, Any]:
    """The public key as an entry of a JWKS."""
    written = get_default_algorithms()[algorithm].to_jwk((key or KEYS[algorithm]).public_key())
    entry = json.loads(written) if isinstance(written, str) else dict(written)
    return {**entry, **({"kid": key_id} if key_id else {}), **more}


def jwks(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"keys": entries}).encode()


ALL = jwks(*(public(algorithm, f"key-{algorithm}") for algorithm in KEYS))


class Provider:
    """An identity provider's key address."""

    def __init__(self, document: bytes = ALL) -> None:
        self.document = document
        self.error: Exception | None = None
        self.reads = 0

    async def __call__(self) -> bytes:
        self.reads += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.document


def key_set(provider: Provider, clock: Clock | None = None, meter: FakeMeter | None = None) -> KeySet:
    return KeySet(provider, refresh_s=300, clock=clock or Clock(), meter=meter or FakeMeter())


def verifier(provider: Provider | None = None, settings: JwtSettings = SETTINGS, **more: Any) -> JwtVerifier:
    return JwtVerifier(settings, key_set(provider or Provider(), **more))


def claims(**more: Any) -> dict[str, Any]:
    given = {"iss": "https://id.example", "aud": "glm", "sub": "anna", "exp": int(time.time()) + 300, **more}
    return {name: value for name, value in given.items() if value is not None}


def token(algorithm: str = "ES256", key: Any = None, key_id: str | None = "", **more: Any) -> str:
    headers = {} if key_id is None else {"kid": key_id or f"key-{algorithm}"}
    return jwt.encode(claims(**more), key or KEYS[algorithm], algorithm, headers=headers)


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_signed_token_names_its_caller(algorithm: str) -> None:
    expires_at = int(time.time()) + 90
    caller = await verifier().verify(token(algorithm, exp=expires_at))
    assert (caller.id, caller.tenant, caller.scopes) == ("anna", "default", {"inference"})
    assert caller.expires_at == expires_at


async def test_tenant_and_scopes_come_from_the_claims_that_the_settings_name() -> None:
    settings = SETTINGS.model_copy(update={"tenant_claim": "org", "scope_claim": "scope", "caller_claim": "email"})
    verifying = verifier(settings=settings)
    caller = await verifying.verify(token(email="anna@acme.example", org="acme", scope="openid inference metrics"))
    assert (caller.id, caller.tenant) == ("anna@acme.example", "acme")
    assert caller.scopes == {"inference", "metrics"}
    listed = await verifying.verify(token(email="anna@acme.example", org="acme", scope=["admin", "other"]))
    assert listed.scopes == {"admin"}
    assert (await verifying.verify(token(email="a@b", org="acme"))).scopes == frozenset()


async def test_one_of_several_audiences_is_enough() -> None:
    assert (await verifier().verify(token(aud=["other", "glm"]))).id == "anna"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"exp": int(time.time()) - 86400}, "has expired"),
        ({"nbf": int(time.time()) + 86400}, "is not valid yet"),
        ({"aud": "another service"}, "is not valid"),
        ({"iss": "https://evil.example"}, "is not valid"),
        ({"exp": None}, "is not valid"),
        ({"aud": None}, "is not valid"),
        ({"iss": None}, "is not valid"),
        ({"sub": None}, "is not valid"),
        ({"sub": ""}, "claim 'sub' is not a name"),
        ({"sub": "a\nb"}, "claim 'sub' is not a name"),
        ({"sub": "x" * 129}, "claim 'sub' is not a name"),
        ({"exp": "soon"}, "is not valid"),
    ],
)
async def test_a_token_with_wrong_claims_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(Unauthenticated, match=message):
        await verifier().verify(token(**more))


async def test_clocks_may_differ_by_the_leeway() -> None:
    assert await verifier().verify(token(exp=int(time.time()) - 20, nbf=int(time.time()) + 20))


# -- attacks


def forged(header: dict[str, Any], body: dict[str, Any] | None = None, signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), json.dumps(body or claims()).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, "HS256", "RS1", ["ES256"], {"a": 1}, 7])
async def test_a_token_without_a_real_signature_is_refused(algorithm: Any) -> None:
    header = {"typ": "JWT", "kid": "key-ES256", **({} if algorithm is None else {"alg": algorithm})}
    for signature in (b"", b"x" * 64):
        with pytest.raises(Unauthenticated):
            await verifier().verify(forged(header, signature=signature))


@pytest.mark.parametrize(
    "encoding", [(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), (Encoding.DER, PublicFormat.PKCS1)]
)
async def test_a_public_key_is_never_a_secret(encoding: tuple[Encoding, PublicFormat]) -> None:
    """Key confusion: HS256 with the RSA key that everybody can read."""
    secret = KEYS["RS256"].public_key().public_bytes(*encoding)

    head, body, _ = forged({"alg": "HS256", "typ": "JWT", "kid": "key-RS256"}).split(".")
    signature = hmac.new(secret, f"{head}.{body}".encode(), hashlib.sha256).digest()
    attack = f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    with pytest.raises(Unauthenticated):
        await verifier().verify(attack)


async def test_a_token_of_another_key_with_a_known_id_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        await verifier().verify(token(key=ec.generate_private_key(ec.SECP256R1())))


async def test_a_known_id_with_the_algorithm_of_another_key_is_refused() -> None:
    with pytest.raises(Unauthenticated):
        await verifier().verify(token("ES256", key_id="key-RS256"))


@pytest.mark.parametrize(
    "key_id",
    ["../../dev/null", "/etc/passwd", "' UNION SELECT 'x", "http://evil.example/k", "\x00", "x" * 300, 7, ["a"], {}],
)
async def test_a_key_id_is_only_looked_up(key_id: Any) -> None:
    provider = Provider()
    header = {"alg": "ES256", "typ": "JWT", "kid": key_id}
    with pytest.raises(Unauthenticated):
        await verifier(provider).verify(forged(header, signature=b"x" * 64))
    assert provider.reads <= 1


async def test_headers_that_bring_their_own_key_have_no_effect() -> None:
    mine = ec.generate_private_key(ec.SECP256R1())
    headers = {"kid": "key-ES256", "jku": "https://evil.example/keys", "jwk": public("ES256", "key-ES256", mine)}
    attack = jwt.encode(claims(), mine, "ES256", headers=headers)
    with pytest.raises(Unauthenticated):
        await verifier().verify(attack)


async def test_a_token_with_critical_extensions_is_refused() -> None:
    headers = {"kid": "key-ES256", "crit": ["exp"]}
    with pytest.raises(Unauthenticated):
        await verifier().verify(jwt.encode(claims(), KEYS["ES256"], "ES256", headers=headers))


@pytest.mark.parametrize("junk", ["..", "a.b.c", "eyJ.eyJ.x", "ä.ö.ü", "." * 5, "\udcff.a.b"])
async def test_what_is_no_token_is_refused(junk: str) -> None:
    with pytest.raises(Unauthenticated):
        await verifier().verify(junk)


async def test_a_changed_claim_is_found() -> None:
    head, _, signature = token().split(".")
    body = base64.urlsafe_b64encode(json.dumps(claims(sub="root")).encode()).rstrip(b"=").decode()
    with pytest.raises(Unauthenticated):
        await verifier().verify(f"{head}.{body}.{signature}")


# -- a shared secret


async def test_hs256_is_accepted_with_a_secret_and_nothing_else_is(tmp_path: Path) -> None:
    file, secret = tmp_path / "secret", "s" * 40
    file.write_text(secret + "\n")
    settings = JwtSettings(secret_file=str(file), issuer="https://id.example", audience="glm")
    verifying = jwt_verifier(settings, clock=Clock(), meter=FakeMeter())
    assert verifying is not None
    assert (await verifying.verify(jwt.encode(claims(), secret, "HS256"))).id == "anna"
    for attack in (jwt.encode(claims(), "t" * 40, "HS256"), jwt.encode(claims(), secret * 2, "HS512"), token("RS256")):
        with pytest.raises(Unauthenticated):
            await verifying.verify(attack)


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("hunter2")
    settings = JwtSettings(secret_file=str(file), issuer="i", audience="a")
    with pytest.raises(InvalidRequest, match="has 7 bytes; HS256 needs 32 at least"):
        jwt_verifier(settings, clock=Clock(), meter=FakeMeter())


# -- keys


async def test_a_token_without_a_key_id_is_accepted_if_only_one_key_fits() -> None:
    assert (await verifier().verify(token(key_id=None))).id == "anna"
    two = jwks(public("ES256", "a"), public("ES256", "b", ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(Unauthenticated):
        await verifier(Provider(two)).verify(token(key_id=None))


async def test_keys_are_read_once_for_many_tokens() -> None:
    provider = Provider()
    verifying = verifier(provider)
    await asyncio.gather(*(verifying.verify(token()) for _ in range(20)))
    assert provider.reads == 1


async def test_a_new_key_is_used_at_once_and_unknown_ids_do_not_flood_the_provider() -> None:
    provider, clock = Provider(), Clock()
    verifying = verifier(provider, clock=clock)
    await verifying.verify(token())
    new = ec.generate_private_key(ec.SECP256R1())
    provider.document = jwks(public("ES256", "new", new), *json.loads(ALL)["keys"])
    clock.now += COOLDOWN_S + 1
    assert (await verifying.verify(token(key=new, key_id="new"))).id == "anna"
    assert (await verifying.verify(token())).id == "anna"
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await verifying.verify(token(key_id=f"unknown-{number}"))
    assert provider.reads == 2


async def test_keys_rotate_under_load_without_an_error() -> None:
    """The provider adds the new key, signs with it, and later removes the old one."""
    provider, clock, old = Provider(), Clock(), KEYS["ES256"]
    new = ec.generate_private_key(ec.SECP256R1())
    verifying = verifier(provider, clock=clock)
    for step in range(40):
        if step == 10:
            provider.document = jwks(public("ES256", "key-ES256"), public("ES256", "new", new))
        signing, key_id = (old, "key-ES256") if step < 15 else (new, "new")
        if step == 30:
            provider.document = jwks(public("ES256", "new", new))
        signed = token(key=signing, key_id=key_id)
        assert len(await asyncio.gather(*(verifying.verify(signed) for _ in range(5)))) == 5
        clock.now += 20
    with pytest.raises(Unauthenticated):
        await verifying.verify(token(key=old, key_id="key-ES256"))


@pytest.mark.parametrize(
    "fault", [OSError("refused"), ValueError("large"), b"{", b"[]", b'{"keys": []}', b'{"keys": [7]}']
)
async def test_keys_stay_in_force_while_the_provider_fails(fault: Any) -> None:
    provider, clock, meter = Provider(), Clock(), FakeMeter()
    verifying = verifier(provider, clock=clock, meter=meter)
    await verifying.verify(token())
    if isinstance(fault, bytes):
        provider.document = fault
    else:
        provider.error = fault
    for _ in range(3):
        clock.now += 400
        assert (await verifying.verify(token())).id == "anna"
        await asyncio.sleep(0.01)
    assert meter.counts["glm_jwks_errors_total",] == 3


async def test_without_keys_tokens_are_refused_and_the_provider_is_asked_again_after_a_while() -> None:
    provider, clock = Provider(), Clock()
    provider.error = OSError("refused")
    verifying = verifier(provider, clock=clock)
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await verifying.verify(token())
    assert provider.reads == 1
    provider.error = None
    clock.now += COOLDOWN_S + 1
    assert (await verifying.verify(token())).id == "anna"


def test_keys_for_encryption_secrets_and_other_algorithms_are_left_out() -> None:
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"}
    entries = [
        public("RS256", "enc", use="enc"),
        public("RS256", "rs512", alg="RS512"),
        secret,
        public("ES256", "good"),
    ]
    assert [key.id for key in parse_keys(jwks(*entries))] == ["good"]


def private(algorithm: str, key_id: str) -> dict[str, Any]:
    """A private key as an entry of a JWKS, published by mistake."""
    written = get_default_algorithms()[algorithm].to_jwk(KEYS[algorithm])
    return {**(json.loads(written) if isinstance(written, str) else dict(written)), "kid": key_id}


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_private_key_in_a_jwks_is_not_used(algorithm: str) -> None:
    """Everybody who could read it could sign; an RSA key of this kind was an internal error."""
    provider = Provider(jwks(private(algorithm, f"key-{algorithm}"), public("ES256", "other")))
    with pytest.raises(Unauthenticated):
        await verifier(provider).verify(token(algorithm))


@pytest.mark.parametrize(
    "entry",
    [
        7,
        {"kty": "RSA", "kid": "broken"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "broken"},
        {"kty": ["RSA"], "kid": "broken"},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!", "kid": "broken"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "broken"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "broken"},
        {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"},
        {"kty": "future", "kid": "new kind"},
        {**public("ES256"), "kid": 7},
    ],
)
def test_an_entry_that_is_no_usable_key_does_not_make_the_others_unusable(entry: Any) -> None:
    """RFC 7517, section 5: entries that are not understood or not valid should be ignored."""
    assert [key.id for key in parse_keys(jwks(entry, public("ES256", "good")))] == ["good"]


async def test_a_key_id_that_two_keys_of_one_kind_have_is_not_accepted() -> None:
    two = jwks(public("ES256", "key-ES256"), public("ES256", "key-ES256", ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(Unauthenticated):
        await verifier(Provider(two)).verify(token())


async def test_a_provider_that_never_ends_its_response_is_given_up() -> None:
    async def trickle() -> bytes:
        await asyncio.sleep(60)
        return ALL

    meter = FakeMeter()
    keys = KeySet(trickle, refresh_s=300, clock=Clock(), meter=meter, read_s=0.05)
    with pytest.raises(Unauthenticated):
        await JwtVerifier(SETTINGS, keys).verify(token())
    assert meter.counts["glm_jwks_errors_total",] == 1


@pytest.mark.parametrize("header", [b"[" * 4000, b'{"alg":"ES256","x":' + b"[" * 4000, b'{"alg":"ES256","b64":false}'])
async def test_headers_that_a_parser_may_not_survive_are_refused(header: bytes) -> None:
    parts = (header, json.dumps(claims()).encode(), b"x" * 64)
    attack = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    with pytest.raises(Unauthenticated):
        await verifier().verify(attack)


@pytest.mark.parametrize("number", [b"1e999", b"NaN", b"-Infinity", b"1" * 4000, b"9" * 5000, b"[" * 2000, b"true"])
async def test_numbers_of_any_size_in_signed_claims_are_no_internal_error(number: bytes) -> None:
    body = json.dumps(claims(exp=None)).encode()[:-1] + b', "exp": ' + number + b"}"
    signed = PyJWS().encode(body, KEYS["ES256"], "ES256", headers={"kid": "key-ES256"})
    try:
        await verifier().verify(signed)
    except Unauthenticated:
        return
    assert number == b"1" * 4000  # far in the future
