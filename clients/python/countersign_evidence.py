"""Checks a file of countersign's evidence offline, independently of countersign: Python's library, and `cryptography` for Ed25519.

    python3 countersign_evidence.py FILE KEYS

KEYS has a key in each line: `log KEY`, `witness KEY` or `voter KEY`, in the C2SP signed-note encoding, from a channel of your own.

Checked are the one spelling of the file, the signatures under the head of the log, the inclusion proofs, the digests, the votes with
their signatures, the quorum, that nothing was spent twice, and the digests of the bundles. Not checked: what the policies decide, which
takes Cedar; the view digests, the token, and whether the log holds more about the action. The exit code is 1 if anything is refused.
"""

import base64
import hashlib
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = "countersign-evidence/v1"
MAX_BYTES = 64 * 1024 * 1024


class Refused(Exception):
    """The evidence does not hold."""


def require(holds, why):
    if not holds:
        raise Refused(why)


def sha256(data):
    return hashlib.sha256(data).digest()


def read_key(text):
    """`name+id+key` as name, id and public key."""
    name, key_id, encoded = text.split("+", 2)
    encoded = base64.b64decode(encoded, validate=True)
    require(len(encoded) == 33 and encoded[0] == 1, "a key is not Ed25519")
    require(sha256(name.encode() + b"\n" + encoded)[:4].hex() == key_id, "the id of a key is not its own")
    return name, bytes.fromhex(key_id), encoded[1:]


def read_trust(text):
    trust = {"log": [], "witness": [], "voter": []}
    for line in text.splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            role, key = line.split(" ", 1)
            trust[role].append(read_key(key.strip()))
    return trust


def signed_by(text, line, keys):
    """The key among these that made the signature line; None if it is of none of them."""
    require(line.startswith("\u2014 "), "a signature line is malformed")
    name, encoded = line[2:].split(" ", 1)
    raw = base64.b64decode(encoded, validate=True)
    require(base64.b64encode(raw).decode() == encoded, "a signature is not spelled as signatures are")
    for key in keys:
        if key[0] == name and key[1] == raw[:4]:
            try:
                Ed25519PublicKey.from_public_bytes(key[2]).verify(raw[4:], text.encode())
            except InvalidSignature:
                raise Refused(f"the signature of {name!r} does not hold") from None
            return key
    return None


def head(note, trust):
    """Size and root of the log, if its key signed them; every signature under them must be by a trusted key."""
    require(note.endswith("\n"), "the checkpoint is cut off")
    text, lines = note[:-1].rsplit("\n\n", 1)
    text += "\n"
    origin, size, root = text.split("\n")[:3]
    require(size.isascii() and size.isdigit() and str(int(size)) == size, "the size of the log is malformed")
    logs = [key for key in trust["log"] if key[0] == origin]
    makers = [signed_by(text, line, logs + trust["witness"]) for line in lines.split("\n")]
    require(None not in makers and len(set(makers)) == len(makers), "a signature under the head is by no trusted key")
    require(any(maker in logs for maker in makers), "the head is not signed by a trusted log")
    return int(size), base64.b64decode(root, validate=True)


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
    own = [trusted for trusted in trust["voter"] if trusted[0] == record["person"]["id"]]
    require(not own or key in own, "a vote is signed by another key than the trusted one of the voter")


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
    named, said = set(), set()
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
            if "signature" in record:
                check_vote(record, trust)
            votes.pop((approval, person), None)
            if record["verdict"] == "approve":
                votes[approval, person] = set(record["rules"])
        if kind == "vote_withdrawn":
            votes.pop((approval, (record["person"]["type"], record["person"]["id"])), None)
        rules = record.get("context", {}).get("approval", {}).get("rules", []) if kind == "decision" else []
        rules = rules + [tally["rule"] for tally in record.get("tally", [])]
        for rule in rules:
            persons = [key for key, met in votes.items() if key[0] == approval and rule in met]
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


def verify(data, trust):
    """The evidence, if it holds."""
    require(len(data) <= MAX_BYTES, "the file is too large")
    try:
        evidence = json.loads(data)
        again = json.dumps(evidence, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        require(again == data, "the file is not spelled as evidence is")
        require(list(evidence) == ["format", "subject", "checkpoint", "records", "bundles"], "the form is another")
        require(evidence["format"] == FORMAT, "the form is another")
        size, root = head(evidence["checkpoint"], trust)
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
        check_records(evidence["subject"], records, trust)
        for digest, files in evidence["bundles"].items():
            require(any(record.get("bundle") == digest for record in records), "no record names a bundle")
            require(bundle_digest(files) == digest, "a bundle has another digest")
    except Refused:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Refused(f"the file is malformed: {error!r}") from None
    return evidence


def main(path, keys):
    with open(keys, encoding="utf-8") as file:
        trust = read_trust(file.read())
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        evidence = verify(data, trust)
    except Refused as refused:
        print(f"REFUSED: {refused}", file=sys.stderr)
        return 1
    print(f"nothing was refused: {len(evidence['records'])} records about {evidence['subject']}")
    print("not checked here: what the policies decide, view digests, the token, and what else the log holds")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
