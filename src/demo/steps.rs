//! The steps, each of which asserts its answer.

use countersign::client::{Client, ClientError, operation};
use countersign::proto::{
    Approval, ApprovalState, CapabilityState, CastVoteRequest, CompleteRequest, DecideRequest, DecideResponse,
    EndSessionRequest, ErrorReason, GetApprovalRequest, MintedCapability, OpenSessionRequest, Operation, Outcome,
    RedeemRequest, RedeemResponse, RequestApprovalRequest, SessionState, Verdict, VoteVerdict,
};
use serde_json::json;

use super::cast::{AUDIENCE, Cast};
use super::tell::{Teller, Tone};
use crate::cli::{Failure, examine};

/// The rule of the example bundle that holds the export.
const RULE: &str = "export-needs-two";
/// Why the agent asks.
const JUSTIFICATION: &str = "Finance needs the 500 customers with open invoices for the monthly report, ticket FIN-812";

/// Walks the session. Gives its id.
pub async fn walk(cast: &Cast, teller: &mut Teller<'_>) -> Result<String, Failure> {
    let session = open(cast, teller).await?;
    routine_read(cast, &session, teller).await?;
    let export = export(500)?;
    held(cast, &session, &export, teller).await?;
    let approval = ask(cast, &session, &export, teller).await?;
    operator_is_refused(cast, &approval, teller).await?;
    owners_approve(cast, &approval, teller).await?;
    let capability = allowed(cast, &session, &export, &approval, teller).await?;
    let receipt = redeemed_once(cast, &capability, &export, teller).await?;
    completed(cast, &receipt, teller).await?;
    ended(cast, &session, &export, teller).await?;
    Ok(session)
}

fn export(rows: u64) -> Result<Operation, Failure> {
    let input = json!({"rows": rows, "destination": "s3://ours-reports/finance"});
    Ok(operation("export", ("Dataset", "customers"), input, json!({}))?)
}

async fn open(cast: &Cast, teller: &mut Teller<'_>) -> Result<String, Failure> {
    teller.step("The agent etl-bot opens a session, acting for olivia")?;
    let request = OpenSessionRequest {
        purpose: "monthly finance report".to_owned(),
        ttl: Some(prost_types::Duration { seconds: 1_800, nanos: 0 }),
        ..OpenSessionRequest::default()
    };
    let session = present("session", cast.agent.open_session(request).await?.session)?;
    let is = |entity: Option<&countersign::proto::Entity>, id: &str| entity.is_some_and(|entity| entity.id == id);
    expect(session.state() == SessionState::Open, "an open session")?;
    expect(is(session.principal.as_ref(), "etl-bot"), "the principal etl-bot")?;
    expect(is(session.operator.as_ref(), "olivia"), "the operator olivia")?;
    teller.answer(
        Tone::Yes,
        "OPEN",
        &format!("{} for \"{}\", at most 30 minutes", session.session_id, session.purpose),
    )?;
    teller.meaning("Whatever is granted in this session dies with it.")?;
    Ok(session.session_id)
}

async fn routine_read(cast: &Cast, session: &str, teller: &mut Teller<'_>) -> Result<(), Failure> {
    teller.step("A routine read: the agent queries internal telemetry")?;
    let input = json!({"statement": "select count(*) from telemetry"});
    let read = operation("query", ("Dataset", "telemetry"), input, json!({}))?;
    let answer = decide(&cast.agent, session, &read, "").await?;
    expect_verdict(&answer, Verdict::Allow)?;
    let capability = present("capability", answer.capability)?;
    teller.answer(
        Tone::Yes,
        "ALLOW",
        &format!("capability {}, good once, for exactly this", capability.capability_id),
    )?;
    let rows = cast.warehouse.enforce(&capability.token, read, AUDIENCE, || async { Ok::<_, std::io::Error>(1) }).await;
    let rows = rows.map_err(|error| Failure::new(error.to_string()))?;
    expect(rows == 1, "the read to run")?;
    teller.answer(Tone::Yes, "DONE", "the warehouse spent the capability, ran the query, and reported success")?;
    teller.meaning("No human was asked. A system that asks for everything teaches people to approve everything.")
}

async fn held(cast: &Cast, session: &str, export: &Operation, teller: &mut Teller<'_>) -> Result<(), Failure> {
    teller.step("The agent wants to export 500 customers")?;
    let answer = decide(&cast.agent, session, export, "").await?;
    expect_verdict(&answer, Verdict::NeedsApproval)?;
    expect(answer.capability.is_none(), "no capability")?;
    let needed = present("needed_approval", answer.needed_approval)?;
    let [rule] = needed.rules.as_slice() else { return Err(unexpected("one rule that asks")) };
    expect(rule.rule_id == RULE && rule.quorum == 2, "the rule `export-needs-two` with a quorum of 2")?;
    let mut persons: Vec<&str> = needed.persons.iter().map(|person| person.id.as_str()).collect();
    persons.sort_unstable();
    // olivia is a data owner, and still not among them: the agent acts for her.
    expect(persons == ["dana", "dave"], "dana and dave, and nobody else, to be able to answer")?;
    teller.answer(Tone::Wait, "NEEDS_APPROVAL", &format!("{}: \"{}\"", rule.rule_id, rule.reason))?;
    teller.answer(Tone::Wait, "2 of", &format!("{} must approve", persons.join(", ")))?;
    teller.meaning("Deciding asks nobody. This is a preview, so that a probing agent wears nobody out.")
}

async fn ask(cast: &Cast, session: &str, export: &Operation, teller: &mut Teller<'_>) -> Result<Approval, Failure> {
    teller.step("The agent asks for approval, and says why")?;
    let request = RequestApprovalRequest {
        session_id: session.to_owned(),
        operation: Some(export.clone()),
        audience: AUDIENCE.to_owned(),
        justification: JUSTIFICATION.to_owned(),
        ..RequestApprovalRequest::default()
    };
    let approval = present("approval", cast.agent.request_approval(request).await?.approval)?;
    expect(approval.state() == ApprovalState::Pending, "a pending request")?;
    teller.answer(Tone::Wait, "PENDING", &approval.approval_id)?;
    teller.meaning(
        "The question is bound to the SHA-256 of the whole action: change one argument, and it is another one.",
    )?;
    Ok(approval)
}

async fn operator_is_refused(cast: &Cast, approval: &Approval, teller: &mut Teller<'_>) -> Result<(), Failure> {
    teller.step("olivia, for whom the agent acts, tries to approve it herself")?;
    let refused = vote(&cast.operator, approval).await;
    expect_reason(refused.as_ref().err(), ErrorReason::VoterExcluded)?;
    let text = refused.err().map(|error| error.to_string()).unwrap_or_default();
    teller.answer(Tone::No, "VOTER_EXCLUDED", &text)?;
    teller.meaning("She is a data owner, but nobody approves what is done in their own name.")
}

async fn owners_approve(cast: &Cast, approval: &Approval, teller: &mut Teller<'_>) -> Result<(), Failure> {
    teller.step("dana, a data owner, sees exactly what will be executed, and approves")?;
    let shown = fetch(&cast.dana, approval).await?;
    teller.show("what dana sees", &examine(&shown)?.human())?;
    let after = present("approval", vote(&cast.dana, &shown).await?)?;
    expect(after.state() == ApprovalState::Pending, "the request to be pending after one vote of two")?;
    teller.answer(Tone::Wait, "1 of 2", "still pending: the vote names the digest and everything that was shown")?;
    teller.meaning("Whatever changes the view asks again.")?;

    teller.step("dave, another data owner, approves; the agent was waiting without polling")?;
    let shown = fetch(&cast.dave, approval).await?;
    examine(&shown)?;
    let waiting = cast.agent.wait_for_approval(&approval.approval_id);
    let (waited, voted) = tokio::join!(waiting, vote(&cast.dave, &shown));
    expect(present("approval", voted?)?.state() == ApprovalState::Approved, "the request to be approved")?;
    expect(waited?.state() == ApprovalState::Approved, "the agent to learn of the approval")?;
    teller.answer(Tone::Yes, "APPROVED", "two distinct people, neither of them involved")?;
    teller.meaning("An approval allows nothing by itself: policy decides again, with the approval in view.")
}

async fn allowed(
    cast: &Cast,
    session: &str,
    export: &Operation,
    approval: &Approval,
    teller: &mut Teller<'_>,
) -> Result<MintedCapability, Failure> {
    teller.step("The agent decides again, with the approval")?;
    let answer = decide(&cast.agent, session, export, &approval.approval_id).await?;
    expect_verdict(&answer, Verdict::Allow)?;
    expect(answer.digest == approval.digest, "the digest that was voted on")?;
    let capability = present("capability", answer.capability)?;
    teller.answer(Tone::Yes, "ALLOW", &format!("capability {}, for that one digest", capability.capability_id))?;
    teller.meaning("What was displayed, voted on and minted is one digest.")?;
    Ok(capability)
}

async fn redeemed_once(
    cast: &Cast,
    capability: &MintedCapability,
    as_approved: &Operation,
    teller: &mut Teller<'_>,
) -> Result<RedeemResponse, Failure> {
    teller.step("The capability is spent at the warehouse: for what was approved, and once")?;
    // Before it is spent, so that what refuses is the altered argument and nothing else.
    let altered = redeem(&cast.warehouse, &capability.token, &export(500_000)?).await;
    expect_reason(altered.as_ref().err(), ErrorReason::CapabilityMismatch)?;
    teller.answer(
        Tone::No,
        "CAPABILITY_MISMATCH",
        "500,000 rows instead of 500: the recomputed digest is another one",
    )?;

    let receipt = redeem(&cast.warehouse, &capability.token, as_approved).await?;
    expect(!receipt.replayed && receipt.capability_id == capability.capability_id, "a receipt that is no replay")?;
    teller.answer(Tone::Yes, "REDEEMED", "500 rows, as approved: token and approval are spent in one commit")?;

    let again = redeem(&cast.warehouse, &capability.token, as_approved).await;
    expect_reason(again.as_ref().err(), ErrorReason::AlreadyRedeemed)?;
    teller.answer(Tone::No, "ALREADY_REDEEMED", "the same once more: one approval, one execution")?;
    teller.meaning("Current policy was evaluated once more at this very moment, on what is about to run.")?;
    Ok(receipt)
}

async fn completed(cast: &Cast, receipt: &RedeemResponse, teller: &mut Teller<'_>) -> Result<(), Failure> {
    teller.step("The warehouse reports the outcome")?;
    let request = CompleteRequest {
        capability_id: receipt.capability_id.clone(),
        outcome: Outcome::Succeeded.into(),
        ..CompleteRequest::default()
    };
    let capability = present("capability", cast.warehouse.complete(request).await?.capability)?;
    expect(capability.state() == CapabilityState::Succeeded, "the outcome to be taken")?;
    teller.answer(Tone::Yes, "SUCCEEDED", &capability.capability_id)?;
    teller.meaning("Without a report by its deadline it would be listed as outcome unknown, for somebody to look.")
}

async fn ended(cast: &Cast, session: &str, export: &Operation, teller: &mut Teller<'_>) -> Result<(), Failure> {
    teller.step("The session ends, and with it everything in it")?;
    let request = EndSessionRequest { session_id: session.to_owned(), request_id: String::new() };
    let after = present("session", cast.agent.end_session(request).await?.session)?;
    expect(after.state() == SessionState::Ended, "the session to have ended")?;
    let late = decide(&cast.agent, session, export, "").await;
    expect_reason(late.as_ref().err(), ErrorReason::SessionOver)?;
    teller.answer(Tone::Yes, "ENDED", "another question in it is refused: SESSION_OVER")?;
    teller.meaning("Nobody holds a standing privilege.")
}

async fn decide(
    client: &Client,
    session: &str,
    operation: &Operation,
    approval_id: &str,
) -> Result<DecideResponse, ClientError> {
    client
        .decide(DecideRequest {
            session_id: session.to_owned(),
            operation: Some(operation.clone()),
            audience: AUDIENCE.to_owned(),
            approval_id: approval_id.to_owned(),
            mint: true,
            ..DecideRequest::default()
        })
        .await
}

async fn redeem(client: &Client, token: &str, operation: &Operation) -> Result<RedeemResponse, ClientError> {
    client
        .redeem(RedeemRequest {
            token: token.to_owned(),
            operation: Some(operation.clone()),
            audience: AUDIENCE.to_owned(),
            ..RedeemRequest::default()
        })
        .await
}

async fn fetch(client: &Client, approval: &Approval) -> Result<Approval, Failure> {
    let request = GetApprovalRequest { approval_id: approval.approval_id.clone() };
    present("approval", client.get_approval(request).await?.approval)
}

async fn vote(client: &Client, shown: &Approval) -> Result<Option<Approval>, ClientError> {
    let request = CastVoteRequest {
        approval_id: shown.approval_id.clone(),
        verdict: VoteVerdict::Approve.into(),
        digest: shown.digest.clone(),
        view_digest: shown.view_digest.clone(),
        ..CastVoteRequest::default()
    };
    Ok(client.cast_vote(request).await?.approval)
}

fn present<T>(name: &'static str, value: Option<T>) -> Result<T, Failure> {
    Ok(value.ok_or(ClientError::Incomplete(name))?)
}

fn expect(holds: bool, what: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(unexpected(what)) }
}

fn unexpected(what: &str) -> Failure {
    Failure::new(format!("the demo went wrong: expected {what}"))
        .reason("DEMO_WENT_WRONG")
        .hint("run it with the bundle policies/ai-platform; if it is that one, this is a fault of countersign")
}

fn expect_verdict(answer: &DecideResponse, expected: Verdict) -> Result<(), Failure> {
    if answer.verdict() == expected {
        return Ok(());
    }
    let reasons: Vec<String> = answer.reasons.iter().map(|why| format!("{}: {}", why.policy_id, why.text)).collect();
    Err(unexpected(&format!("{expected:?}, and got {:?} ({})", answer.verdict(), reasons.join("; "))))
}

fn expect_reason(error: Option<&ClientError>, expected: ErrorReason) -> Result<(), Failure> {
    match error {
        Some(error) if error.reason() == Some(expected) => Ok(()),
        Some(error) => Err(unexpected(&format!("to be refused with {expected:?}, and got {error}"))),
        None => Err(unexpected(&format!("to be refused with {expected:?}, and it succeeded"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unexpected_answer_fails_loudly() {
        let answer = DecideResponse { verdict: Verdict::Allow.into(), ..DecideResponse::default() };
        assert!(expect_verdict(&answer, Verdict::Allow).is_ok());
        let failure = expect_verdict(&answer, Verdict::NeedsApproval).unwrap_err();
        assert!(failure.to_human().contains("expected NeedsApproval, and got Allow"));
        assert_eq!(failure.exit(), crate::cli::Exit::Error);
    }

    #[test]
    fn being_let_through_where_a_refusal_is_due_is_a_failure() {
        assert!(expect_reason(None, ErrorReason::AlreadyRedeemed).is_err());
        let other = ClientError::Incomplete("x");
        assert!(expect_reason(Some(&other), ErrorReason::AlreadyRedeemed).is_err());
    }
}
