"""Verifies countersign's capabilities offline, with the official Biscuit library (PyPI: biscuit-python).

An enforcement point that looks before it asks: what is refused here, the server would refuse too. It never replaces the redeem,
which alone spends, and alone knows what was spent, revoked, or is of a session that is over.

    from countersign_verify import KeyRing, Presented, digest_of, verify

    keys = KeyRing.from_json(open("keys.json").read())      # countersign keys list --json
    claims = verify(token, keys, Presented(
        tenant="acme",
        audience="warehouse",
        session=session,
        digest=digest_of(action),                           # of what is about to run
        now_millis=int(time.time() * 1000),
    ))

`action` is what docs/design/canonical-form.md describes. Inputs that the schema marks sensitive cannot be digested offline: their
commitments take a key that only the service has.
"""

import base64
import datetime
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Optional

import biscuit_auth

PREFIX = "csn_"
MAX_TEXT_BYTES = 12_288
MAX_NARROWINGS = 4
VERSION = 1
PROOF_TYPE = "countersign-proof+jwt"
MAX_AGE_MILLIS = 60_000
MAX_AHEAD_MILLIS = 5_000
MAX_LONG = 2**53 - 1

# What a holder may append, as the library prints it. A name that could be taken for more is none.
NARROWED = re.compile(
    r'(check if now\(\$now\), \$now < (-?\d+);\n)?(check if presented_audience\("[^"\\\n]{1,128}"\);\n)?'
)


class Refused(Exception):
    """The capability is not good for this. `reason` is one word."""

    def __init__(self, reason, detail):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class Presented:
    """What is about to happen, as the enforcement point knows it. Nothing of it may be taken from the token."""

    tenant: str
    audience: str
    session: str
    digest: bytes
    now_millis: int
    # Who is shown to hold it, as (kind, thumbprint): by `certificate_holder` or `holder_by_proof`.
    holder: Optional[tuple] = None
    # Whether this is a development environment: tokens of one are worthless in the other.
    development: bool = False


@dataclass(frozen=True)
class Claims:
    """What a genuine token says."""

    key_id: int
    token_id: str
    # What it was exchanged for, and that in turn; the sessions that its own was opened in; through whom the principal acts. Each from
    # the nearest on. It dies with any of them.
    exchanged: tuple
    tenant: str
    session: str
    sessions_above: tuple
    principal: tuple
    operator: Optional[tuple]
    chain: tuple
    operation: str
    resource: tuple
    digest: bytes
    audience: str
    approval: Optional[str]
    # SHA-256 of what each vote said that it rests on, in the order in which they were cast.
    votes: tuple
    holder: Optional[tuple]
    open: bool
    expires_at_millis: int
    mint_epoch: int
    development: bool


@dataclass(frozen=True)
class KeyRing:
    """The public keys by id, and those that are not trusted any more."""

    keys: dict
    compromised: frozenset = field(default_factory=frozenset)

    @staticmethod
    def from_json(text):
        """The keys that `countersign keys list --json` printed. Ask again after its `max_age_seconds`."""
        keys, compromised = {}, set()
        for key in json.loads(text)["keys"]:
            if key["algorithm"] != "Ed25519" or key["state"] not in ("active", "retired"):
                compromised.add(key["key_id"])
            else:
                keys[key["key_id"]] = bytes.fromhex(key["public_key"])
        return KeyRing(keys, frozenset(compromised))


def verify(token, keys, presented):
    """The claims of a token that is good for exactly what is presented; raises `Refused` otherwise."""
    encoded = _encoded(token)
    key_id, public = _root_key(encoded, keys)
    try:
        biscuit = biscuit_auth.Biscuit.from_base64(encoded, public)
    except (biscuit_auth.BiscuitValidationError, biscuit_auth.BiscuitSerializationError, ValueError) as error:
        raise Refused("signature", "it was changed, or another key signed it") from error
    narrowed_until = _narrowings(biscuit)

    builder = biscuit_auth.AuthorizerBuilder(
        """
        presented_tenant({tenant});
        presented_session({session});
        presented_audience({audience});
        presented_digest({digest});
        now({now});
        allow if true;
        """,
        {
            "tenant": presented.tenant,
            "session": presented.session,
            "audience": presented.audience,
            "digest": presented.digest,
            "now": presented.now_millis,
        },
    )
    if presented.holder is not None:
        kind, thumbprint = presented.holder
        builder.add_fact(biscuit_auth.Fact("presented_holder({kind}, {it})", {"kind": kind, "it": thumbprint}))
    limits = builder.limits()
    limits.max_facts, limits.max_iterations = 64, 4
    # Only a backstop: what runs was signed by the service, or has the one shape above. Far above the time that it takes, so that a
    # busy machine refuses nobody.
    limits.max_time = datetime.timedelta(seconds=5)
    builder.set_limits(limits)
    authorizer = builder.build(biscuit)
    claims = _claims(authorizer, key_id)

    _refuse_what_differs(claims, narrowed_until, presented)
    # Once more by the checks inside the token. Both must agree.
    try:
        authorizer.authorize()
    except biscuit_auth.AuthorizationError as error:
        raise Refused("checks", "a check inside the token failed, or was not done in time") from error
    return claims


def _encoded(token):
    if len(token.encode()) > MAX_TEXT_BYTES:
        raise Refused("malformed", "it is too long")
    if not token.startswith(PREFIX):
        raise Refused("malformed", f"it does not begin with `{PREFIX}`")
    encoded = token[len(PREFIX) :]
    if base64.urlsafe_b64encode(_base64url(encoded, "malformed")).rstrip(b"=").decode() != encoded:
        raise Refused("malformed", "it is not in its one spelling")
    # The library wants the padding that the token goes without.
    return encoded + "=" * (-len(encoded) % 4)


def _base64url(text, reason):
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise Refused(reason, "it is not base64url without padding")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError as error:
        raise Refused(reason, "it is not base64url without padding") from error


def _root_key(encoded, keys):
    try:
        key_id = biscuit_auth.UnverifiedBiscuit.from_base64(encoded).root_key_id()
    except (biscuit_auth.BiscuitValidationError, biscuit_auth.BiscuitSerializationError, ValueError) as error:
        raise Refused("malformed", "it is no Biscuit") from error
    if key_id in keys.compromised:
        raise Refused("compromised_key", f"root key {key_id} is no longer trusted")
    if key_id not in keys.keys:
        raise Refused("unknown_key", f"root key {key_id} is unknown here")
    return key_id, biscuit_auth.PublicKey.from_bytes(keys.keys[key_id], biscuit_auth.Algorithm.Ed25519)


def _narrowings(biscuit):
    """Until when the holder's own blocks let it be good, if they say so. They may narrow and do nothing else."""
    blocks = biscuit.block_count() - 1
    if blocks > MAX_NARROWINGS:
        raise Refused("widened", "more blocks were appended to it than may be")
    until = None
    for number in range(1, blocks + 1):
        source = NARROWED.fullmatch(biscuit.block_source(number))
        if biscuit.block_external_key(number) is not None or not source or not source.group(0):
            raise Refused("widened", "what was appended to it does not only narrow it")
        if source.group(2) is not None:
            until = int(source.group(2)) if until is None else min(until, int(source.group(2)))
    return until


def _claims(authorizer, key_id):
    # A query sees the authority block, which the root key signed, and not what a holder appended.
    def facts(name, arity):
        variables = ", ".join(f"$v{place}" for place in range(arity))
        return authorizer.query(biscuit_auth.Rule(f"data({variables}) <- {name}({variables})"))

    def one(name, arity=1, required=True):
        found = facts(name, arity)
        if len(found) > 1 or (required and not found):
            raise Refused("malformed", f"it does not say `{name}` once")
        if not found:
            return None
        return found[0].terms[0] if arity == 1 else tuple(found[0].terms)

    def numbered(name, arity):
        found = sorted(tuple(fact.terms) for fact in facts(name, arity + 1))
        if [fact[0] for fact in found] != list(range(len(found))):
            raise Refused("malformed", f"it does not number what it says of `{name}`")
        return tuple(fact[1] if arity == 1 else fact[1:] for fact in found)

    if one("countersign") != VERSION:
        raise Refused("malformed", "it is of another version")
    holder = one("holder", 2, required=False)
    return Claims(
        key_id=key_id,
        token_id=one("token_id"),
        exchanged=numbered("exchanged", 1),
        tenant=one("tenant"),
        session=one("session"),
        sessions_above=numbered("session_above", 1),
        principal=one("principal", 2),
        operator=one("operator", 2, required=False),
        chain=numbered("chain", 2),
        operation=one("operation"),
        resource=one("resource", 2),
        digest=bytes(one("digest")),
        audience=one("audience"),
        approval=one("approval", required=False),
        votes=tuple(bytes(vote) for vote in numbered("vote", 1)),
        holder=None if holder is None else (holder[0], bytes(holder[1])),
        open=one("open", required=False) is True,
        expires_at_millis=one("expires_at"),
        mint_epoch=one("mint_epoch"),
        development=one("development"),
    )


def _refuse_what_differs(claims, narrowed_until, presented):
    until = claims.expires_at_millis if narrowed_until is None else min(claims.expires_at_millis, narrowed_until)
    if presented.now_millis >= until:
        raise Refused("expired", "its deadline was reached")
    if not isinstance(presented.digest, bytes):
        raise TypeError("`digest` is the 32 bytes: bytes.fromhex(...) of what Decide answers")
    for name in ("tenant", "session", "audience", "digest"):
        if getattr(claims, name) != getattr(presented, name):
            raise Refused(name, f"it is for another {name}")
    if claims.development != presented.development:
        kind = "a development server's" if claims.development else "a production server's"
        raise Refused("development", f"it is {kind}, and `development={presented.development}` is presented")
    if claims.holder is not None and claims.holder != presented.holder:
        raise Refused("holder", "whom it is bound to is not shown to present it")


def certificate_holder(der):
    """Who is shown by the client certificate of a connection (`SSLSocket.getpeercert(binary_form=True)`): RFC 8705."""
    return ("certificate", hashlib.sha256(der).digest())


def holder_by_proof(proof, token, presented, request_id):
    """Who is shown by a proof over this token, action, audience and request id (in the manner of RFC 9449); raises `Refused`.

    Needs the package `cryptography`.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    parts = proof.split(".")
    if len(proof) > 2048 or len(parts) != 3:
        raise Refused("proof", "it is no compact JWS")
    try:
        header, payload = (json.loads(_base64url(part, "proof"), object_pairs_hook=_unique) for part in parts[:2])
        jwk = header.pop("jwk")
        x = jwk.pop("x")
        public = Ed25519PublicKey.from_public_bytes(_base64url(x, "proof"))
        Ed25519PublicKey.verify(public, _base64url(parts[2], "proof"), ".".join(parts[:2]).encode())
    except (ValueError, TypeError, KeyError, AttributeError, InvalidSignature) as error:
        raise Refused("proof", "its signature does not match, or it is malformed") from error
    algorithm = header.pop("alg", None)
    if header != {"typ": PROOF_TYPE} or algorithm not in ("EdDSA", "Ed25519") or jwk != {"kty": "OKP", "crv": "Ed25519"}:
        raise Refused("proof", "its header is not one of a proof")
    made = payload.pop("iat", None) if isinstance(payload, dict) else None
    about = {
        "ath": base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode(),
        "digest": presented.digest.hex(),
        "aud": presented.audience,
        "jti": request_id,
    }
    if payload != about:
        raise Refused("proof", "it is of another token, action, audience or request")
    if type(made) is not int or not -MAX_AHEAD_MILLIS <= presented.now_millis - made * 1000 <= MAX_AGE_MILLIS:
        raise Refused("proof", "it is too old, or from the future")
    thumbprint = f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'
    return ("key", hashlib.sha256(thumbprint.encode()).digest())


def _unique(pairs):
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def digest_of(action):
    """The digest of an action: a dict of `tenant`, `audience`, `session`, `principal`, `operator` (if any), `chain`, `operation`,
    `resource`, `input` and `environment`. Raises `ValueError` for what no reader may guess at."""
    return hashlib.sha256(_canonical({**action, "version": 1}).encode()).digest()


def _canonical(value):
    """RFC 8785, for the values that an action can hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) <= MAX_LONG:
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    if isinstance(value, dict):
        # By UTF-16 code units, which is neither the order of code points nor that of UTF-8 bytes.
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{json.dumps(name, ensure_ascii=False)}:{_canonical(value[name])}" for name in names) + "}"
    raise ValueError(f"{value!r} is in no action")
