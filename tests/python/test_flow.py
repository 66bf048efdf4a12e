#!/usr/bin/env python3
"""One agent session from question to evidence, in Python, over stubs generated from proto/.

It starts nothing. A server with the bundle policies/ai-platform must run, and these variables must be set:

    COUNTERSIGN_ENDPOINT           where it serves gRPC, such as http://127.0.0.1:8443
    COUNTERSIGN_TOKEN_AGENT        agent:etl-bot, acting for olivia
    COUNTERSIGN_TOKEN_WAREHOUSE    service:warehouse-gateway, the enforcement point
    COUNTERSIGN_TOKEN_OLIVIA       olivia, the operator, who is a data owner too
    COUNTERSIGN_TOKEN_DANA         dana, a data owner
    COUNTERSIGN_TOKEN_DAVE         dave, a data owner
    COUNTERSIGN_TOKEN_AARON        aaron, an auditor

`cargo test --workspace --test python` sets all that up.
"""

import base64
import hashlib
import json
import os
import sys
import tempfile
import uuid
from pathlib import Path

import grpc
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "docs" / "canonical-form"))
import canonical  # noqa: E402  (the twin, from its folder)

TIMEOUT = 20  # seconds, for each call and for the stream


def generate(target):
    """Makes the stubs of every proto file in `target`, and makes them importable."""
    files = sorted(str(path) for path in (ROOT / "proto").rglob("*.proto"))
    wellknown = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{ROOT / 'proto'}", f"-I{wellknown}", f"--python_out={target}", f"--grpc_python_out={target}"]
    if protoc.main([*arguments, *files]) != 0:
        sys.exit("the stubs cannot be generated")
    sys.path.insert(0, target)


def step(text):
    print(f"- {text}", flush=True)


def check(holds, what):
    if not holds:
        sys.exit(f"expected {what}")


def equal(found, wanted, what):
    check(found == wanted, f"{what} to be {wanted!r}, found {found!r}")


def variable(name):
    value = os.environ.get(name)
    return value or sys.exit(f"set {name}; the head of this file says to what")


class Caller:
    """Calls as one bearer of a credential."""

    def __init__(self, channel, name):
        from countersign.v1 import approvals_pb2_grpc, audit_pb2_grpc, capabilities_pb2_grpc
        from countersign.v1 import decisions_pb2_grpc, policies_pb2_grpc, sessions_pb2_grpc

        self._metadata = [("authorization", f"Bearer {variable(f'COUNTERSIGN_TOKEN_{name}')}")]
        self._stubs = [
            approvals_pb2_grpc.ApprovalServiceStub(channel),
            audit_pb2_grpc.AuditServiceStub(channel),
            capabilities_pb2_grpc.CapabilityServiceStub(channel),
            decisions_pb2_grpc.DecisionServiceStub(channel),
            policies_pb2_grpc.PolicyServiceStub(channel),
            sessions_pb2_grpc.SessionServiceStub(channel),
        ]

    def __getattr__(self, rpc):
        call = next(getattr(stub, rpc) for stub in self._stubs if hasattr(stub, rpc))
        return lambda request: call(request, metadata=self._metadata, timeout=TIMEOUT)


def refused(call, reason, code):
    """The call is refused for exactly this reason, told in the rich error details."""
    try:
        answer = call()
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        check(status is not None, f"rich error details, found {error}")
        info = error_details_pb2.ErrorInfo()
        check(any(detail.Unpack(info) for detail in status.details), "a google.rpc.ErrorInfo")
        equal((info.domain, info.reason), ("countersign", reason), "domain and reason")
        equal(error.code(), code, "the status code")
        return error.details()
    sys.exit(f"expected to be refused with {reason}, and it succeeded: {answer}")


def request_id():
    return str(uuid.uuid4())


def struct(fields):
    message = struct_pb2.Struct()
    message.update(fields)
    return message


def walk(channel):
    from countersign.v1 import action_pb2, approvals_pb2, audit_pb2, capabilities_pb2
    from countersign.v1 import decisions_pb2, sessions_pb2

    agent, warehouse, olivia = Caller(channel, "AGENT"), Caller(channel, "WAREHOUSE"), Caller(channel, "OLIVIA")
    dana, dave, aaron = Caller(channel, "DANA"), Caller(channel, "DAVE"), Caller(channel, "AARON")
    audience = "warehouse"

    def operation(name, dataset, **fields):
        resource = action_pb2.Entity(type="Dataset", id=dataset)
        return action_pb2.Operation(name=name, resource=resource, input=struct(fields))

    def decide(what, approval_id=""):
        request = decisions_pb2.DecideRequest(
            session_id=session.session_id,
            operation=what,
            audience=audience,
            approval_id=approval_id,
            mint=True,
            request_id=request_id(),
        )
        return agent.Decide(request)

    def redeem(token, what, attempt=None):
        request = capabilities_pb2.RedeemRequest(
            token=token, operation=what, audience=audience, request_id=attempt or request_id()
        )
        return warehouse.Redeem(request)

    def complete(capability_id):
        request = capabilities_pb2.CompleteRequest(
            capability_id=capability_id, outcome=capabilities_pb2.OUTCOME_SUCCEEDED, request_id=request_id()
        )
        equal(warehouse.Complete(request).capability.state, capabilities_pb2.CAPABILITY_STATE_SUCCEEDED, "the state")

    step("the agent opens a session, acting for olivia")
    session = agent.OpenSession(
        sessions_pb2.OpenSessionRequest(purpose="monthly finance report", request_id=request_id())
    ).session
    equal(session.state, sessions_pb2.SESSION_STATE_OPEN, "the session's state")
    equal((session.principal.id, session.operator.id), ("etl-bot", "olivia"), "principal and operator")

    step("a routine read: allowed, redeemed, completed")
    read = operation("query", "telemetry", statement="select count(*) from telemetry")
    allowed = decide(read)
    equal(allowed.verdict, decisions_pb2.VERDICT_ALLOW, "the verdict")
    receipt = redeem(allowed.capability.token, read)
    check(not receipt.replayed, "a receipt that is no replay")
    complete(receipt.capability_id)

    step("an export is held")
    export = operation("export", "customers", rows=500, destination="s3://ours-reports/finance")
    held = decide(export)
    equal(held.verdict, decisions_pb2.VERDICT_NEEDS_APPROVAL, "the verdict")
    check(not held.HasField("capability"), "no capability")
    equal([(rule.rule_id, rule.quorum) for rule in held.needed_approval.rules], [("export-needs-two", 2)], "the rules")
    # olivia is a data owner and not among them: the agent acts for her.
    equal(sorted(person.id for person in held.needed_approval.persons), ["dana", "dave"], "who may answer")

    step("the agent asks, and waits on a stream")
    asked = agent.RequestApproval(
        approvals_pb2.RequestApprovalRequest(
            session_id=session.session_id,
            operation=export,
            audience=audience,
            justification="Finance needs the regional split; the export stays in our own bucket.",
            request_id=request_id(),
        )
    ).approval
    equal(asked.state, approvals_pb2.APPROVAL_STATE_PENDING, "the request's state")
    waiting = agent.WatchApprovals(approvals_pb2.WatchApprovalsRequest(approval_id=asked.approval_id))
    first = next(waiting)
    equal(first.approval.state, approvals_pb2.APPROVAL_STATE_PENDING, "what the stream begins with")

    step("what is shown is what was asked: text and digest, made again by the Python twin")
    entity = lambda kind, name: {"type": kind, "id": name}  # noqa: E731
    text = canonical.canonical(
        {
            "tenant": "dev",  # the one of a development server
            "audience": audience,
            "session": session.session_id,
            "principal": entity("Agent", "etl-bot"),
            "operator": entity("Person", "olivia"),
            "chain": [],
            "operation": "export",
            "resource": entity("Dataset", "customers"),
            "input": {"rows": 500, "destination": "s3://ours-reports/finance"},
            "environment": {},
        }
    )

    def vote(person):
        """Reads what is shown, checks it, and approves exactly that."""
        shown = person.GetApproval(approvals_pb2.GetApprovalRequest(approval_id=asked.approval_id)).approval
        equal(shown.canonical_action, text, "the canonical action")
        equal(shown.digest, canonical.digest(text), "the digest")
        equal(shown.view_digest, view_digest(shown), "the view digest")
        request = approvals_pb2.CastVoteRequest(
            approval_id=shown.approval_id,
            verdict=approvals_pb2.VOTE_VERDICT_APPROVE,
            digest=shown.digest,
            view_digest=shown.view_digest,
            request_id=request_id(),
        )
        return person.CastVote(request).approval

    step("the operator is refused")
    print(f"  {refused(lambda: vote(olivia), 'VOTER_EXCLUDED', grpc.StatusCode.PERMISSION_DENIED)}")

    step("two data owners approve")
    equal(vote(dana).state, approvals_pb2.APPROVAL_STATE_PENDING, "the state after one vote of two")
    refused(lambda: vote(dana), "ALREADY_VOTED", grpc.StatusCode.ALREADY_EXISTS)
    equal(vote(dave).state, approvals_pb2.APPROVAL_STATE_APPROVED, "the state after two votes of two")

    step("the stream tells the agent, and so does one that resumes after its first message")
    resumed = agent.WatchApprovals(
        approvals_pb2.WatchApprovalsRequest(approval_id=asked.approval_id, resume_token=first.resume_token)
    )
    for stream in [waiting, resumed]:
        states = iter(lambda stream=stream: next(stream).approval.state, approvals_pb2.APPROVAL_STATE_APPROVED)
        check(all(state == approvals_pb2.APPROVAL_STATE_PENDING for state in states), "pending, then approved")
        stream.cancel()

    step("the agent decides again, with the approval")
    allowed = decide(export, asked.approval_id)
    equal(allowed.verdict, decisions_pb2.VERDICT_ALLOW, "the verdict")
    equal(allowed.digest, asked.digest, "the digest that is allowed")

    step("one row more than approved is another action")
    more = operation("export", "customers", rows=501, destination="s3://ours-reports/finance")
    denied = grpc.StatusCode.PERMISSION_DENIED
    print(f"  {refused(lambda: redeem(allowed.capability.token, more), 'CAPABILITY_MISMATCH', denied)}")

    step("redeemed once; a retry gets the same receipt, and it authorizes nothing")
    attempt = request_id()
    receipt = redeem(allowed.capability.token, export, attempt)
    check(not receipt.replayed, "a receipt that is no replay")
    equal(receipt.digest, canonical.digest(text), "the digest that was redeemed")
    again = redeem(allowed.capability.token, export, attempt)
    check(again.replayed and again.capability_id == receipt.capability_id, "the same receipt, marked as replayed")

    step("a second redeem is refused")
    twice = grpc.StatusCode.FAILED_PRECONDITION
    print(f"  {refused(lambda: redeem(allowed.capability.token, export), 'ALREADY_REDEEMED', twice)}")
    complete(receipt.capability_id)

    step("the session ends, and nothing happens in it any more")
    ended = agent.EndSession(sessions_pb2.EndSessionRequest(session_id=session.session_id, request_id=request_id()))
    equal(ended.session.state, sessions_pb2.SESSION_STATE_ENDED, "the session's state")
    refused(lambda: decide(read), "SESSION_OVER", grpc.StatusCode.PERMISSION_DENIED)

    step("the auditor reads the log; the Merkle root, made again in Python, is the checkpoint's")
    checkpoint = aaron.GetCheckpoint(audit_pb2.GetCheckpointRequest())
    size, root = read_note(checkpoint.note)
    equal(size, checkpoint.tree_size, "the note's size")
    records = list_records(aaron, audit_pb2, size)
    leaves = [leaf_hash(record.content) for record in records]
    equal([leaf.hex() for leaf in leaves], [record.leaf_hash for record in records], "the leaf hashes")
    equal(tree_hash(leaves).hex(), root.hex(), "the root")

    contents = [json.loads(record.content) for record in records]
    own = [at for at, content in enumerate(contents) if content.get("capability") == receipt.capability_id]
    spent = next(at for at in own if contents[at]["kind"] == "redeem")
    equal(contents[spent]["approval"], asked.approval_id, "the approval in the record of the redeem")
    equal(contents[spent]["action"], text, "the action in the record of the redeem")
    proof = aaron.GetInclusionProof(audit_pb2.GetInclusionProofRequest(index=spent, tree_size=size))
    equal(root_of_proof(spent, size, leaves[spent], list(proof.hashes)).hex(), root.hex(), "the proof's root")
    kinds = {content["kind"] for content in contents}
    wanted = {"session_opened", "decision", "approval_requested", "vote", "redeem", "complete", "refusal", "session_ended"}
    check(wanted <= kinds, f"records of the kinds {sorted(wanted - kinds)}")
    check(allowed.capability.token not in "".join(map(json.dumps, contents)), "no token in the log")
    print(f"  {size} records, root {root.hex()}")


def entity(of):
    return {"type": of.type, "id": of.id}


def view_digest(shown):
    """SHA-256 of everything that is shown: docs/design/canonical-form.md, the view digest."""
    [rule] = shown.rules
    view = {
        "version": 2,
        "id": shown.approval_id,
        "owner": entity(shown.owner),
        "history": {
            "approved": shown.history.approved,
            "denied": shown.history.denied,
            "recent": [
                {
                    "approval": past.approval_id,
                    "principal": entity(past.principal),
                    "verdict": {1: "deny", 2: "approve"}[past.verdict],
                    "by": [entity(person) for person in past.persons],
                    "at": past.answered_at.ToMilliseconds(),
                }
                for past in shown.history.recent
            ],
        },
        "action": shown.canonical_action,
        "asked_by": entity(shown.asked_by),
        "justification": shown.justification,
        "purpose": shown.purpose,
        "rules": [{"id": rule.rule_id, "quorum": rule.quorum, "reason": rule.reason}],
        "ttl_millis": shown.ttl.ToMilliseconds(),
    }
    return canonical.digest(canonical.write(view))


def list_records(caller, audit_pb2, size):
    records, token = [], ""
    while len(records) < size:
        page = caller.ListRecords(audit_pb2.ListRecordsRequest(page_size=7, page_token=token))
        records += page.records
        token = page.next_page_token
        if not token:
            break
    equal([record.index for record in records[:size]], list(range(size)), "the indices of the records")
    return records[:size]


def read_note(note):
    """Size and root of a C2SP checkpoint. Its signature is for `countersign audit verify`."""
    text, _signatures = note.split("\n\n", 1)
    _origin, size, root = text.split("\n")[:3]
    return int(size), base64.b64decode(root)


# RFC 9162, section 2.1.


def leaf_hash(record):
    return hashlib.sha256(b"\x00" + record).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_hash(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(tree_hash(leaves[:split]), tree_hash(leaves[split:]))


def root_of_proof(index, size, leaf, hashes):
    node, last, found = index, size - 1, leaf
    for sibling in hashes:
        check(last != 0, "a proof that is not too long")
        if node & 1 or node == last:
            found = node_hash(sibling, found)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        node, last = node >> 1, last >> 1
    equal(last, 0, "what is left of the proof")
    return found


def main():
    endpoint = variable("COUNTERSIGN_ENDPOINT").removeprefix("http://")
    with tempfile.TemporaryDirectory() as target:
        generate(target)
        with grpc.insecure_channel(endpoint) as channel:
            walk(channel)
    print("the whole flow, in Python: done")


if __name__ == "__main__":
    main()
