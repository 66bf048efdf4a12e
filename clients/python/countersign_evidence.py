"""Checks a file of countersign's evidence offline, independently of countersign: Python's library, and `cryptography` for Ed25519.

    python3 countersign_evidence.py FILE KEYS [--witnesses N] [--require-signed-votes]

KEYS has a key in each line, from a channel of your own: `log KEY`, `witness KEY` or `voter KEY` in the C2SP signed-note encoding, or
`token ID KEY` with the key in hexadecimal.

Checked are the one spelling of the file, the signatures of the log and of witnesses under its head, the inclusion proofs, the digests, the
votes with their signatures, what they were shown, the quorum, that nothing was spent twice, the signatures of tokens, and the digests of
the bundles. Not checked: what the policies decide and who is eligible, which takes Cedar; what a token says beside its id, its digest and
its votes; and whether the log holds more about the action. The exit code is 1 if anything is refused.
"""

import argparse
import base64
import datetime
import hashlib
import json
import sys
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FORMAT = "countersign-evidence/v1"
MAX_BYTES = 64 * 1024 * 1024


class Refused(Exception):
    """The evidence does not hold."""


def require(holds, why):
    if not holds:
        raise Refused(why)


def sha256(data):
    return hashlib.sha256(data).digest()


@dataclass
class Trust:
    """Whose signatures are believed, and what is demanded of them."""

    log: list = field(default_factory=list)
    witness: list = field(default_factory=list)
    voter: list = field(default_factory=list)
    token: dict = field(default_factory=dict)
    witnesses: int = 0
    signed_votes: bool = False


NOTE, COSIGNATURE = 1, 4


def read_key(text, kind=NOTE):
    """`name+id+key` as name, id and public key."""
    name, key_id, encoded = text.split("+", 2)
    encoded = base64.b64decode(encoded, validate=True)
    require(len(encoded) == 33 and encoded[0] == kind, "a key is of another type")
    require(sha256(name.encode() + b"\n" + encoded)[:4].hex() == key_id, "the id of a key is not its own")
    return name, bytes.fromhex(key_id), encoded[1:]


def read_trust(text, **demands):
    trust = Trust(**demands)
    for line in text.splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            role, key = line.split(" ", 1)
            if role == "token":
                key_id, key = key.split()
                trust.token[int(key_id)] = bytes.fromhex(key)
            else:
                {"log": trust.log, "witness": trust.witness, "voter": trust.voter}[role].append(
                    read_key(key.strip(), COSIGNATURE if role == "witness" else NOTE)
                )
    return trust


def read_line(line):
    """A signature line: name, key id and signature."""
    require(line.startswith("\u2014 "), "a signature line is malformed")
    name, encoded = line[2:].split(" ", 1)
    raw = base64.b64decode(encoded, validate=True)
    require(base64.b64encode(raw).decode() == encoded, "a signature is not spelled as signatures are")
    return name, raw[:4], raw[4:]


def holds(key, signature, message, who):
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        raise Refused(f"the signature of {who} does not hold") from None


def signed_by(text, line, keys):
    """The key among these that made the signature line; None if it is of none of them."""
    name, key_id, signature = read_line(line)
    for key in keys:
        if key[:2] == (name, key_id):
            holds(key[2], signature, text.encode(), repr(name))
            return key
    return None


def cosigned_by(text, line, keys):
    """As `signed_by`, of a witness (C2SP tlog-cosignature): its key, and when it cosigned, in seconds since 1970."""
    name, key_id, stamped = read_line(line)
    for key in keys:
        if key[:2] == (name, key_id):
            require(len(stamped) == 72, "a cosignature is malformed")
            seconds = int.from_bytes(stamped[:8], "big")
            require(seconds < 2**63, "a cosignature is malformed")
            holds(key[2], stamped[8:], f"cosignature/v1\ntime {seconds}\n{text}".encode(), repr(name))
            return key, seconds
    return None


def head(note, trust):
    """Size and root of the log, if its key signed them, and who cosigned when; every signature under them must be by a trusted key."""
    require(note.endswith("\n"), "the checkpoint is cut off")
    text, lines = note[:-1].rsplit("\n\n", 1)
    text += "\n"
    origin, size, root = text.split("\n")[:3]
    require(size.isascii() and size.isdigit() and str(int(size)) == size, "the size of the log is malformed")
    logs = [key for key in trust.log if key[0] == origin]
    lines = lines.split("\n")
    makers = [read_line(line)[:2] for line in lines]
    require(len(set(makers)) == len(makers), "two signatures under the head are by the same key")
    by_log = [signed_by(text, line, logs) for line in lines]
    cosigned = [cosigned_by(text, line, trust.witness) for line, log in zip(lines, by_log) if log is None]
    require(any(by_log), "the head is not signed by a trusted log")
    require(None not in cosigned, "a signature under the head is by no trusted key")
    witnesses = len({key[2] for key, _ in cosigned})
    require(witnesses >= trust.witnesses, f"{witnesses} trusted witnesses cosigned it, and {trust.witnesses} must")
    return int(size), base64.b64decode(root, validate=True), [(key[0], at) for key, at in cosigned]


def root_of(leaf, index, size, proof):
    """RFC 9162, section 2.1.3.2."""
    require(index < size, "a record lies beyond the head")
    node, last, digest = index, size - 1, leaf
    for sibling in proof:
        require(last > 0, "a proof is too long")
        if node & 1 or node == last:
            digest = sha256(b"\x01" + sibling + digest)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            digest = sha256(b"\x01" + digest + sibling)
        node, last = node >> 1, last >> 1
    require(last == 0, "a proof is too short")
    return digest


def vote_text(record):
    person = record["person"]
    made = record.get("signature", {"request": "-", "at": record["at"]})
    quoted = person["id"].replace("\\", "\\\\").replace('"', '\\"')
    return (
        "countersign-vote/v1\n"
        f"approval {record['approval']}\ndigest {record['digest']}\nview {record['view']}\nverdict {record['verdict']}\n"
        f"comment {sha256(record['comment'].encode()).hex()}\nperson {person['type']}::\"{quoted}\"\n"
        f"request {made['request']}\nat {made['at']}\n"
    )


def check_vote(record, trust):
    made = record["signature"]
    require(made["kind"] == "ed25519", "a vote is signed in a way that is not known here")
    key = read_key(made["key"])
    require(signed_by(vote_text(record), made["line"], [key]) == key, "a vote is signed by another key")
    own = [trusted for trusted in trust.voter if trusted[0] == record["person"]["id"]]
    require(not own or key in own, "a vote is signed by another key than the trusted one of the voter")
    return bool(own)


def check_view(digest, view, records):
    """What people were shown: it has the digest that votes name, and says what the records say."""
    require(sha256(view.encode()).hex() == digest, "a view has another digest")
    shown = json.loads(view)
    asked = [record for record in records if record["kind"] == "approval_requested" and record["view"] == digest]
    require(asked, "no record names a view")
    said = [shown["justification"]] + [one["justification"] for one in shown.get("also", [])]
    for record in asked:
        same = (shown["id"], shown["action"]) == (record["approval"], record["action"])
        require(same and shown["rules"] == record["rules"], "a view shows something else than its record")
        require(shown.get("labels", []) == record.get("labels", []), "a view shows other labels than its record")
        bounds = [json_.get("pre_approval") or {} for json_ in (shown, record)]
        bounds = [(bound.get("uses"), bound.get("seconds")) for bound in bounds]
        require(bounds[0] == bounds[1], "a view shows other bounds than its record")
        if "asked_again" in record or "joined" not in record:
            require(record["justification"] in said, "a view shows another justification than its record")
        session = json.loads(record["action"]).get("session")
        for opened in records:
            if opened["kind"] == "session_opened" and opened["session"]["id"] == session:
                require(shown["purpose"] == opened["session"]["purpose"], "a view shows another purpose")


def fields(data):
    """The fields of a protocol buffer that has numbers, and bytes of a length, alone."""
    found, at = [], 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        value = number()
        if key & 7 == 2:
            require(at + value <= len(data), "a token is cut off")
            value, at = data[at : at + value], at + value
        else:
            require(key & 7 == 0, "a token is malformed")
        found.append((key >> 3, value))
    return found


def signed_block(data, key, before):
    """A block of a Biscuit that the key signed, after the signature before: its content, its signature, and the next key."""
    parts = fields(data)
    require([number for number, _ in parts] in ([1, 2, 3], [1, 2, 3, 5]), "a token has other parts than ours have")
    (_, block), (_, following), (_, signature) = parts[:3]
    require([number for number, _ in fields(following)] == [1, 2], "a token has other parts than ours have")
    (_, algorithm), (_, following) = fields(following)
    algorithm = algorithm.to_bytes(4, "little")
    message = block + algorithm + following
    if len(parts) == 4:
        message = b"\0BLOCK\0\0VERSION\0" + parts[3][1].to_bytes(4, "little") + b"\0PAYLOAD\0" + block
        message += b"\0ALGORITHM\0" + algorithm + b"\0NEXTKEY\0" + following
        message += b"" if before is None else b"\0PREVSIG\0" + before
    holds(key, signature, message, "a token")
    return block, signature, following, block + algorithm + following + signature


def check_token(token, records, trust):
    """That the key which the log names (and the stranger trusts, if they do) signed this Biscuit, whose authority block names a capability
    that was minted, its digest and its votes. Answers the id of the capability, and who says that the key is right."""
    require(token.startswith("csn_"), "a token is malformed")
    encoded = token[4:]
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    require(base64.urlsafe_b64encode(raw).decode().rstrip("=") == encoded, "a token is not spelled as tokens are")
    parts = fields(raw)
    blocks = [value for number, value in parts if number == 3]
    require([number for number, _ in parts] == [1, 2, *[3] * len(blocks), 4], "a token has other parts than ours have")
    key_id = parts[0][1]
    keys = {record["public"] for record in records if record["kind"] == "key" and record["key"] == key_id}
    if not keys and key_id in trust.token:
        keys = {trust.token[key_id].hex()}
    require(len(keys) == 1, "no record names the key of a token, or several do")
    dead = any(record["kind"] == "key" and record["state"] == "compromised" and record["key"] == key_id for record in records)
    key = bytes.fromhex(keys.pop())
    require(trust.token.get(key_id, key) == key, "the key of a token is another than the trusted one")
    block, signature, following, sealed = signed_block(parts[1][1], key, None)
    for appended in blocks:
        _, signature, following, sealed = signed_block(appended, following, signature)
    [(proof, value)] = fields(parts[-1][1])
    if proof == 2:
        holds(following, value, sealed, "the seal of a token")
    else:
        own = Ed25519PrivateKey.from_private_bytes(value).public_key().public_bytes_raw()
        require(proof == 1 and own == following, "a token has another proof than ours have")
    for record in records:
        minted = record.get("minted", {})
        if minted and minted["id"].encode() in block:
            named = [minted["digest"], *minted.get("votes", [])]
            require(minted["key"] == key_id, "a token is by another key than it was minted with")
            require(all(bytes.fromhex(digest) in block for digest in named), "a token is for something else")
            return minted["id"], "the log calls COMPROMISED" if dead else whom(key_id in trust.token)
    raise Refused("no record minted a token")


def bundle_digest(files):
    digest = hashlib.sha256()
    parts = [b"countersign/bundle/v1"]
    for path in sorted(files, key=lambda path: path.encode()):
        parts += [path.encode(), files[path].encode()]
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def check_records(subject, records, trust):
    asked, excluded, votes, quorums, minted, spent, dead = {}, {}, {}, {}, {}, set(), set()
    named, said, signed_rules, signed = set(), set(), set(), set()
    unsigned = unvouched = 0
    for record in records:
        require(record["tenant"] == records[0]["tenant"], "the records are of several tenants")
        kind, approval, capability = record["kind"], record.get("approval"), record.get("capability")
        named |= {record.get("decision"), approval, capability, record.get("minted", {}).get("id")}
        if "action" in record:
            require(sha256(record["action"].encode()).hex() == record["digest"], "an action has another digest")
        if kind == "approval_requested":
            if asked.get(approval) != (record["digest"], record["view"]):
                votes = {key: rules for key, rules in votes.items() if key[0] != approval}
            asked[approval] = (record["digest"], record["view"])
            quorums.update({(approval, rule["id"]): rule["quorum"] for rule in record["rules"]})
            signed_rules |= {(approval, rule["id"]) for rule in record["rules"] if rule.get("signed_votes")}
        if kind in ("approval_requested", "approval_excluded"):
            excluded.setdefault(approval, []).extend(record["excluded"])
            for person in record["excluded"]:
                votes.pop((approval, (person["type"], person["id"])), None)
        if kind == "vote":
            person = (record["person"]["type"], record["person"]["id"])
            require(asked.get(approval) == (record["digest"], record["view"]), "a vote is on something else")
            require(record["person"] not in excluded[approval], "an excluded person voted")
            if "statement" in record:
                require(sha256(vote_text(record).encode()).hex() == record["statement"], "a vote says something else")
                said.add((approval, record["statement"]))
            signed.discard((approval, person))
            if "signature" in record:
                unvouched += not check_vote(record, trust)
                signed.add((approval, person))
            else:
                unsigned += 1
            votes.pop((approval, person), None)
            if record["verdict"] == "approve":
                votes[approval, person] = set(record["rules"])
        if kind == "vote_withdrawn":
            votes.pop((approval, (record["person"]["type"], record["person"]["id"])), None)
        rules = record.get("context", {}).get("approval", {}).get("rules", []) if kind == "decision" else []
        rules = rules + [tally["rule"] for tally in record.get("tally", [])]
        for rule in rules:
            persons = [key for key, met in votes.items() if key[0] == approval and rule in met]
            if (approval, rule) in signed_rules:
                persons = [key for key in persons if key in signed]
            require(len(persons) >= quorums[approval, rule] > 0, f"{rule} was not met")
        if kind == "decision" and "minted" in record:
            require(record["verdict"] == "ALLOW" and record["minted"]["digest"] == record["digest"], "wrongly minted")
            for vote in record["minted"].get("votes", []):
                require((approval, vote) in said, "a capability names a vote that nobody cast before")
            minted[record["minted"]["id"]] = record
        if kind in ("redeem", "delegated"):
            by = minted[capability]
            require((by["digest"], by.get("approval")) == (record["digest"], approval), "spent for something else")
            require(record["at"] < by["minted"]["expires_at"], "spent when it had expired")
            require(capability not in spent and capability not in dead, "spent twice, or when it was revoked")
            spent.add(capability)
        if kind == "complete":
            require(capability in spent, "reported before it was spent")
        if kind == "revoke":
            dead.add(capability)
    require(subject in named, "no record is about the subject")
    require(not trust.signed_votes or unsigned + unvouched == 0, f"{unsigned + unvouched} votes lack a trusted signature")
    return unsigned, unvouched


def verify(data, trust):
    """The evidence, and what is to be told of it, if it holds."""
    require(len(data) <= MAX_BYTES, "the file is too large")
    try:
        evidence = json.loads(data)
        again = json.dumps(evidence, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        require(again == data, "the file is not spelled as evidence is")
        form = ["format", "subject", "checkpoint", "records", "bundles", "views", "tokens"]
        require(list(evidence) == form, "the form is another")
        require(evidence["format"] == FORMAT, "the form is another")
        size, root, cosigned = head(evidence["checkpoint"], trust)
        records, before = [], -1
        for proved in evidence["records"]:
            require(list(proved) == ["index", "proof", "content"], "the form is another")
            require(type(proved["index"]) is int and proved["index"] > before, "the records are out of order")
            before = proved["index"]
            proof = [bytes.fromhex(text) for text in proved["proof"]]
            require([node.hex() for node in proof] == proved["proof"], "a proof is not spelled as proofs are")
            leaf = sha256(b"\x00" + proved["content"].encode())
            require(root_of(leaf, before, size, proof) == root, f"record {before} is not in the log")
            records.append(json.loads(proved["content"]))
        unsigned, unvouched = check_records(evidence["subject"], records, trust)
        for digest, view in evidence["views"].items():
            check_view(digest, view, records)
        tokens = [check_token(token, records, trust) for token in evidence["tokens"]]
        for digest, files in evidence["bundles"].items():
            require(any(record.get("bundle") == digest for record in records), "no record names a bundle")
            require(bundle_digest(files) == digest, "a bundle has another digest")
    except Refused:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Refused(f"the file is malformed: {error!r}") from None
    votes = [record for record in records if record["kind"] == "vote"]
    told = [f"{len(records)} records about {evidence['subject']}, in a log of {size}"]
    told += [f"{name!r} cosigned its head at {moment(at)}" for name, at in cosigned] or ["NO WITNESS cosigned its head"]
    told += [f"the token of {name} is signed by a key that {by}" for name, by in tokens]
    unseen = sum(record["view"] not in evidence["views"] for record in votes)
    for number, what in (
        (unsigned, "bear NO SIGNATURE of the voter's: that these persons said so is the word of the service alone"),
        (unvouched, "are signed by keys that NOBODY BUT THE LOG vouches for"),
        (unseen, "are on views that are not in the file, so their digests are not recomputed"),
    ):
        told += [f"{number} of {len(votes)} votes {what}"] if number else []
    return told


def moment(seconds):
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat()
    except (ValueError, OverflowError):
        return f"{seconds} s after 1970"


def whom(trusted):
    return "you trust" if trusted else "the log vouches for"


def main(path, keys, **demands):
    try:
        with open(keys, "rb") as file:
            trust = read_trust(file.read().decode("utf-8"), **demands)
        with open(path, "rb") as file:
            told = verify(file.read(MAX_BYTES + 1), trust)
    except (OSError, UnicodeDecodeError) as unreadable:
        print(f"cannot be read: {unreadable}", file=sys.stderr)
        return 1
    except Refused as refused:
        print(f"REFUSED: {refused}", file=sys.stderr)
        return 1
    print("nothing was refused:", *told, sep="\n  ")
    print("not checked here: what the policies decide, who was eligible, and what else the log holds")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Checks a file of countersign's evidence offline.")
    parser.add_argument("file")
    parser.add_argument("keys")
    parser.add_argument("--witnesses", type=int, default=0, metavar="N")
    parser.add_argument("--require-signed-votes", action="store_true")
    given = parser.parse_args()
    sys.exit(main(given.file, given.keys, witnesses=given.witnesses, signed_votes=given.require_signed_votes))
