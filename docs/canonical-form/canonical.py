#!/usr/bin/env python3
"""The canonical form of actions and pre-approvals, version 1, in Python: an independent twin of the Rust code.

The form is described in docs/design/canonical-form.md. Standard library only. Run it to check the test vectors:

    python3 docs/canonical-form/canonical.py
"""

import hashlib
import hmac
import json
import re
import sys
import unicodedata
from pathlib import Path

VERSION = 1
PRE_APPROVAL_VERSION = 1
MAX_USES = 100
MAX_SECONDS = 24 * 60 * 60
MAX_BYTES = 32 * 1024
MAX_LONG = 2**53 - 1
MAX_DEPTH = 32
MAX_CHAIN = 8
COMMITMENT = "__commitment"


class Refused(Exception):
    """The action has no canonical form. `reason` is the short word that the vectors use."""

    def __init__(self, reason, detail=""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Commitment:
    """Stands for a sensitive value. Not a dict, so that nothing a caller sends can be one."""

    def __init__(self, digest):
        self.digest = digest


# Writing: RFC 8785, for the values that an action can hold.

SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def write_string(text):
    return '"' + "".join(SHORT.get(c) or (f"\\u{ord(c):04x}" if c < " " else c) for c in text) + '"'


def write(value):
    """The RFC 8785 text of a value."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return write_string(value)
    if isinstance(value, Commitment):
        return write({COMMITMENT: value.digest})
    if isinstance(value, list):
        return "[" + ",".join(write(item) for item in value) + "]"
    if isinstance(value, dict):
        # By UTF-16 code units, which is neither the order of code points nor that of UTF-8 bytes.
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{write_string(name)}:{write(value[name])}" for name in names) + "}"
    raise TypeError(type(value))


# Reading: what readers disagree about is refused, never coerced.


def read_json(text):
    """A JSON value, strictly."""

    def pairs(items):
        names = [name for name, _ in items]
        if len(set(names)) != len(names):
            raise Refused("duplicate_name", str(names))
        return dict(items)

    def integer(digits):
        if digits == "-0":
            raise Refused("fraction", digits)
        number = int(digits)
        if abs(number) > MAX_LONG:
            raise Refused("magnitude", digits)
        return number

    def fraction(digits):
        raise Refused("fraction", digits)

    def constant(word):
        raise Refused("syntax", word)

    try:
        value = json.loads(
            text, object_pairs_hook=pairs, parse_int=integer, parse_float=fraction, parse_constant=constant
        )
    except ValueError as error:
        raise Refused("syntax", str(error)) from error
    return value


def from_double(number):
    """A whole number that protobuf's Struct carried as a double."""
    if number != number or number in (float("inf"), float("-inf")) or number != int(number):
        raise Refused("fraction", str(number))
    if abs(number) > MAX_LONG:
        raise Refused("magnitude", str(number))
    return int(number)


def check(value, depth):
    """Checks a value at its depth; the fields of input and environment are at depth 1."""
    if depth > MAX_DEPTH:
        raise Refused("too_deep")
    if value is None:
        raise Refused("null")
    if isinstance(value, bool) or isinstance(value, Commitment):
        return
    if isinstance(value, int):
        if abs(value) > MAX_LONG:
            raise Refused("magnitude", str(value))
    elif isinstance(value, str):
        check_text(value)
    elif isinstance(value, list):
        for item in value:
            check(item, depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            check_text(name)
            if name.startswith("__"):
                raise Refused("reserved_name", name)
            check(item, depth + 1)
    else:
        raise Refused("fraction", str(value))


def check_text(text):
    # Python's strings can hold lone surrogates, which are no text.
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise Refused("syntax", "a lone surrogate")


def check_entity(entity):
    kind, name = entity["type"], entity["id"]
    part = "[A-Za-z_][A-Za-z0-9_]*"
    if len(kind.encode()) > 128 or not re.fullmatch(f"{part}(::{part})*", kind):
        raise Refused("entity_type", kind)
    if not 1 <= len(name.encode()) <= 256 or any(unicodedata.category(c) == "Cc" for c in name):
        raise Refused("entity_id", name)


def check_chain(principal, operator, chain):
    if len(chain) > MAX_CHAIN:
        raise Refused("chain_too_long", str(len(chain)))
    links = [(link["type"], link["id"]) for link in [principal, *chain, *([operator] if operator else [])]]
    if len(set(links)) != len(links):
        raise Refused("chain_loop")


# The action.


def members(action):
    """The members of an action that are in the form. An absent operator is left out; everything else is always there."""
    names = ["tenant", "audience", "session", "principal", "chain", "operation", "resource", "input", "environment"]
    form = {name: action[name] for name in names}
    if action.get("operator") is not None:
        form["operator"] = action["operator"]
    return form


def check_frame(action):
    """What must hold of everything but input and environment."""
    if not re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", action["tenant"]):
        raise Refused("tenant", action["tenant"])
    uuid = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    if not re.fullmatch(f"ses_{uuid}", action["session"]):
        raise Refused("session", action["session"])
    for entity in [action["principal"], action.get("operator"), action["resource"], *action["chain"]]:
        if entity is not None:
            check_entity(entity)
    if not re.fullmatch("[A-Za-z0-9_.:/-]{1,128}", action["operation"]):
        raise Refused("operation", action["operation"])
    if not re.fullmatch(r"[!#-\[\]-~]{1,128}", action["audience"]):
        raise Refused("audience", action["audience"])
    check_chain(action["principal"], action.get("operator"), action["chain"])


def canonical(action):
    """The canonical text of an action. Raises Refused."""
    check_frame(action)
    for part in ["input", "environment"]:
        if not isinstance(action[part], dict):
            raise Refused("not_an_object", part)
        check(action[part], 0)
    return sized(write({"version": VERSION, **members(action)}))


def canonical_pre_approval(action, rules, uses, seconds, until_millis):
    """The canonical text of pre-approving every action like this one: input and environment are left out. Raises Refused."""
    check_frame(action)
    if not (1 <= uses <= MAX_USES and 1 <= seconds <= MAX_SECONDS):
        raise Refused("bounds", f"{uses} uses, {seconds} s")
    form = {name: value for name, value in members(action).items() if name not in ("input", "environment")}
    # The rules are a set: each once, in the order of their UTF-8 bytes.
    bounds = {"rules": sorted(set(rules), key=str.encode), "uses": uses, "seconds": seconds, "until_millis": until_millis}
    return sized(write({"kind": "pre_approval", "version": PRE_APPROVAL_VERSION, **form, **bounds}))


def sized(text):
    if len(text.encode()) > MAX_BYTES:
        raise Refused("too_large", f"{len(text.encode())} bytes")
    return text


def digest(text):
    """SHA-256, as 64 lowercase hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


# Sensitive inputs.


def of_parts(*parts):
    """SHA-256 over the parts, each preceded by its length as 8 bytes, big end first."""
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


def commitment_of(salt, value):
    """What whoever was given salt and value compares with the commitment in the canonical text."""
    return of_parts(salt, write(value).encode()).hex()


def commit(action, sensitive, key):
    """The action with the named top-level inputs replaced, and the salt of each."""
    inputs = action["input"]
    scope = {**members(action), "input": {name: inputs[name] for name in inputs if name not in sensitive}}
    committed, salts = dict(inputs), {}
    for name in sensitive:
        if name in inputs:
            value = write(inputs[name]).encode()
            message = of_parts(b"countersign/commitment/v1", write(scope).encode(), name.encode(), value)
            salts[name] = hmac.new(key, message, hashlib.sha256).digest()
            committed[name] = Commitment(commitment_of(salts[name], inputs[name]))
    return {**action, "input": committed}, salts


# The vectors.


def action_of(vectors, vector):
    """The vector's action: the base, with what it changes. `input` and `environment` are JSON texts."""
    action = {**vectors["base"], **vector.get("with", {})}
    for part in ["input", "environment"]:
        action[part] = read_json(action[part])
        if not isinstance(action[part], dict):
            raise Refused("not_an_object", part)
    if fill := vector.get("fill"):
        action["input"][fill["name"]] = fill["text"] * fill["times"]
    return action


def run(vectors):
    """Checks every vector; returns what differs."""
    wrong = []

    def expect(name, what, found, wanted):
        if found != wanted:
            wrong.append(f"{name}: {what} is {found!r}, the vector has {wanted!r}")

    for vector in vectors["accepted"]:
        try:
            text = canonical(action_of(vectors, vector))
        except Refused as refused:
            wrong.append(f"{vector['name']}: refused ({refused}), the vector accepts it")
            continue
        if "canonical" in vector:
            expect(vector["name"], "the text", text, vector["canonical"])
        expect(vector["name"], "the length", len(text.encode()), vector["bytes"])
        expect(vector["name"], "the digest", digest(text), vector["digest"])
    for vector in vectors["refused"]:
        try:
            text = canonical(action_of(vectors, vector))
            wrong.append(f"{vector['name']}: accepted as {text}, the vector refuses it: {vector['reason']}")
        except Refused as refused:
            expect(vector["name"], "the reason", refused.reason, vector["reason"])
    for vector in vectors["commitments"]:
        action, salts = commit(action_of(vectors, vector), vector["sensitive"], bytes.fromhex(vector["key"]))
        text = canonical(action)
        expect(vector["name"], "the salts", {name: salt.hex() for name, salt in salts.items()}, vector["salts"])
        expect(vector["name"], "the text", text, vector["canonical"])
        expect(vector["name"], "the digest", digest(text), vector["digest"])
        # A stranger who is given value and salt, and not the key.
        raw = action_of(vectors, vector)["input"]
        for name, salt in vector["salts"].items():
            found = json.loads(vector["canonical"])["input"][name][COMMITMENT]
            expect(vector["name"], f"the opened {name}", commitment_of(bytes.fromhex(salt), raw[name]), found)
    for vector in vectors["pre_approvals"]:
        bounds = [vector[name] for name in ["rules", "uses", "seconds", "until_millis"]]
        try:
            text = canonical_pre_approval(action_of(vectors, vector), *bounds)
        except Refused as refused:
            expect(vector["name"], "the reason", refused.reason, vector.get("reason"))
            continue
        expect(vector["name"], "the text", text, vector.get("canonical"))
        expect(vector["name"], "the digest", digest(text), vector.get("digest"))
    for vector in vectors["doubles"]:
        try:
            expect(vector["double"], "the number", from_double(float(vector["double"])), vector.get("long"))
        except Refused as refused:
            expect(vector["double"], "the reason", refused.reason, vector.get("reason"))
    return wrong


def main():
    path = Path(__file__).with_name("vectors.json")
    vectors = json.loads(path.read_text(encoding="utf-8"))
    wrong = run(vectors)
    for line in wrong:
        print(line)
    kinds = ["accepted", "refused", "commitments", "pre_approvals", "doubles"]
    counts = ", ".join(f"{len(vectors[kind])} {kind}" for kind in kinds)
    print(f"{path.name}: {counts}: {'all agree' if not wrong else f'{len(wrong)} differ'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
