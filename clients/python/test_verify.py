"""Runs the cases of tests/integration/verifiers.rs: `test_verify.py CASES VECTORS`. Prints what came of each, as JSON."""

import json
import sys

import biscuit_auth

from countersign_verify import KeyRing, Presented, Refused, certificate_holder, digest_of, holder_by_proof, verify


def presented_of(case):
    return Presented(
        tenant=case["tenant"],
        audience=case["audience"],
        session=case["session"],
        digest=digest_of(case["action"]),
        now_millis=case["now_millis"],
        development=case["development"],
    )


def play(case, keys):
    presented = presented_of(case)
    try:
        if case.get("proof"):
            holder = holder_by_proof(case["proof"], case["token"], presented, case["request_id"])
        elif case.get("certificate"):
            holder = certificate_holder(bytes.fromhex(case["certificate"]))
        else:
            holder = None
        claims = verify(case["token"], keys, Presented(**{**vars(presented), "holder": holder}))
        dies_with = [claims.exchanged, claims.sessions_above, claims.chain]
        return {"result": "good", "token_id": claims.token_id, "dies_with": dies_with}
    except Refused as refused:
        return {"result": refused.reason}


def appended(case, keys, source):
    """A token that its holder appended this to, with the library alone."""
    encoded = case["token"].removeprefix("csn_")
    token = biscuit_auth.UnverifiedBiscuit.from_base64(encoded + "=" * (-len(encoded) % 4))
    token = token.append(biscuit_auth.BlockBuilder(source))
    key = biscuit_auth.PublicKey.from_bytes(keys.keys[token.root_key_id()], biscuit_auth.Algorithm.Ed25519)
    return {**case, "token": "csn_" + token.verify(key).to_base64().rstrip("=")}


def main(cases, vectors):
    cases = json.load(open(cases, encoding="utf-8"))
    keys = KeyRing.from_json(json.dumps(cases["keys"]))
    results = {case["name"]: play(case, keys) for case in cases["cases"]}
    open_case = next(case for case in cases["cases"] if case["name"] == "open")
    widened = [play(appended(open_case, keys, source), keys) for source in cases["widening"]]
    narrowed = appended(open_case, keys, f"check if now($now), $now < {open_case['now_millis'] + 20_000};")
    vectors = json.load(open(vectors, encoding="utf-8"))
    digests = 0
    for vector in vectors["accepted"]:
        action = {**vectors["base"], **vector.get("with", {})}
        if "fill" in vector:
            continue
        action["input"], action["environment"] = json.loads(action["input"]), json.loads(action["environment"])
        if action.get("operator") is None:
            action.pop("operator")
        assert digest_of(action).hex() == vector["digest"], vector["name"]
        digests += 1
    answer = {
        "results": results,
        "widened": [came["result"] for came in widened],
        "narrowed": narrowed["token"],
        "narrowed_result": play(narrowed, keys)["result"],
        "digests": digests,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
