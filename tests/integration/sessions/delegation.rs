//! Who acts, and for whom: the caller, or whom a trusted caller names or presents; never somebody by leaving a name out.

use countersign::proto::*;
use tonic::Code;

use crate::approvals::shared::{Ledger, denied, invalid, join, neither_vote_counts, unvoted};
use crate::harness::flow::{self, AUDIENCE, describe, export, mint, open, question, refused, vote};
use crate::harness::{Bundle, Server, fresh_id};

fn entity(kind: &str, id: &str) -> Entity {
    Entity { r#type: kind.to_owned(), id: id.to_owned() }
}

fn opening() -> OpenSessionRequest {
    OpenSessionRequest { purpose: "a test".to_owned(), request_id: fresh_id(), ..OpenSessionRequest::default() }
}

/// A session of etl-bot for olivia, opened by the gateway.
fn named() -> OpenSessionRequest {
    OpenSessionRequest {
        principal: Some(entity("Agent", "etl-bot")),
        operator: Some(entity("Person", "olivia")),
        ..opening()
    }
}

fn asking(session: &str) -> RequestApprovalRequest {
    RequestApprovalRequest {
        session_id: session.to_owned(),
        operation: Some(export(5)),
        audience: AUDIENCE.to_owned(),
        justification: "a test".to_owned(),
        request_id: fresh_id(),
        ..RequestApprovalRequest::default()
    }
}

#[tokio::test]
async fn a_gateway_that_leaves_the_operator_out_frees_nobody() {
    let bundle = Bundle::example();
    // alice owns the gateway; were she a data owner, she could not answer for what it asks.
    join(&bundle, "alice", "data-owners");
    let server = Server::with_bundle(bundle).await;
    let gateway = server.person("service:gateway").await;
    let session = gateway.open_session(named()).await.unwrap().session.unwrap();
    assert_eq!(session.operator, Some(entity("Person", "olivia")));
    let principal = Some(entity("Agent", "etl-bot"));

    // Neither call names the operator; the session's counts.
    let decide = DecideRequest { principal: principal.clone(), ..question(&session.session_id, &export(5)) };
    let answer = gateway.decide(decide).await.unwrap();
    let needed = answer.needed_approval.unwrap();
    let mut persons: Vec<&str> = needed.persons.iter().map(|person| person.id.as_str()).collect();
    persons.sort_unstable();
    assert_eq!(persons, ["dana", "dave"]);
    let ask = RequestApprovalRequest { principal, ..asking(&session.session_id) };
    let asked = gateway.request_approval(ask).await.unwrap().approval.unwrap();
    assert_eq!((&asked.operator, &asked.asked_by), (&session.operator, &Some(entity("Service", "gateway"))));

    let mut ledger = Ledger::of(&server).await;
    for excluded in ["olivia", "alice"] {
        neither_vote_counts(&server.person(excluded).await, &asked, denied("VOTER_EXCLUDED")).await;
    }
    unvoted(&gateway, &asked.approval_id).await;
    ledger.expect(&[("refusal", 4)]).await;
    for person in ["dana", "dave"] {
        vote(&server.person(person).await, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    }
}

#[tokio::test]
async fn nobody_acts_for_another_without_being_trusted_to() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let mut ledger = Ledger::of(&server).await;
    let bot = Some(entity("Agent", "etl-bot"));
    for caller in ["agent:deploy-bot", "service:warehouse-gateway", "service:ci", "alice", "wendy"] {
        let caller = server.person(caller).await;
        let decide = DecideRequest { principal: bot.clone(), mint: true, ..question(&session, &describe()) };
        assert_eq!(refused(caller.decide(decide).await), denied("ACT_FOR_DENIED"));
        let ask = RequestApprovalRequest { principal: bot.clone(), ..asking(&session) };
        assert_eq!(refused(caller.request_approval(ask).await), denied("ACT_FOR_DENIED"));
        assert_eq!(refused(caller.open_session(named()).await), denied("ACT_FOR_DENIED"));
    }
    ledger.expect(&[("refusal", 15)]).await;

    // The gateway is trusted with agents: not with services, persons, or agents that nobody knows.
    let gateway = server.person("service:gateway").await;
    for other in
        [entity("Service", "ci"), entity("Person", "dana"), entity("Agent", "nobody"), entity("Dataset", "docs")]
    {
        let request = OpenSessionRequest { principal: Some(other.clone()), ..opening() };
        assert_eq!(refused(gateway.open_session(request).await), denied("ACT_FOR_DENIED"), "{other:?}");
    }
    ledger.expect(&[("refusal", 4)]).await;
}

#[tokio::test]
async fn trust_in_a_gateway_ends_with_the_policy_that_gave_it() {
    let server = Server::dev().await;
    let gateway = server.person("service:gateway").await;
    let session = gateway.open_session(named()).await.unwrap().session.unwrap().session_id;
    let decide = || DecideRequest {
        principal: Some(entity("Agent", "etl-bot")),
        request_id: fresh_id(),
        ..question(&session, &describe())
    };
    assert_eq!(gateway.decide(decide()).await.unwrap().verdict(), Verdict::Allow);
    server.bundle().replace(
        "admin/service.cedar",
        "action in [Action::\"actFor\", Action::\"endSession\"]",
        "action == Action::\"endSession\"",
    );
    crate::approvals::shared::publish(&server).await;
    assert_eq!(refused(gateway.decide(decide()).await), denied("ACT_FOR_DENIED"));
}

#[tokio::test]
async fn a_session_takes_no_other_principal_operator_or_chain() {
    let server = Server::dev().await;
    let agent = server.client("agent:etl-bot", Some("olivia"), &["agent:chat-bot"]).await;
    let session = open(&agent).await;
    let mut ledger = Ledger::of(&server).await;
    for (subject, operator, via) in [
        ("agent:deploy-bot", Some("olivia"), &["agent:chat-bot"][..]),
        ("agent:etl-bot", Some("dana"), &["agent:chat-bot"]),
        ("agent:etl-bot", Some("olivia"), &["agent:ops-bot"]),
        ("agent:etl-bot", Some("olivia"), &["agent:chat-bot", "agent:ops-bot"]),
        ("olivia", None, &[]),
    ] {
        let other = server.client(subject, operator, via).await;
        let result = mint(&other, &session, &describe(), "").await;
        assert_eq!(refused(result), denied("SESSION_MISMATCH"), "{subject} for {operator:?} via {via:?}");
        assert_eq!(refused(other.request_approval(asking(&session)).await), denied("SESSION_MISMATCH"));
    }
    ledger.expect(&[("refusal", 10)]).await;
    mint(&agent, &session, &describe(), "").await.unwrap();
}

#[tokio::test]
async fn the_same_agent_for_another_operator_is_not_given_what_was_minted_for_the_first() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let request = DecideRequest { mint: true, ..question(&session, &describe()) };
    agent.decide(request.clone()).await.unwrap();
    // A request id is the caller's, and whom the caller acts for is part of who it is.
    let other = server.client("agent:etl-bot", Some("dana"), &[]).await;
    let result = other.decide(request).await;
    assert!(result.is_err(), "a token of olivia's session for whoever acts for dana: {result:?}");
}

#[tokio::test]
async fn a_gateway_presents_the_credential_of_whoever_acts() {
    let server = Server::dev().await;
    let gateway = server.person("service:gateway").await;
    let credential = server.token("agent:etl-bot", Some("olivia"), &["agent:chat-bot"]);
    let mut ledger = Ledger::of(&server).await;
    let request = OpenSessionRequest { principal_credential: credential.clone(), ..opening() };
    let session = gateway.open_session(request).await.unwrap().session.unwrap();
    assert_eq!(session.principal, Some(entity("Agent", "etl-bot")));
    assert_eq!(session.operator, Some(entity("Person", "olivia")), "its operator is the credential's");
    assert_eq!(session.chain, [entity("Agent", "chat-bot")]);
    let decide = |credential: &str| DecideRequest {
        principal_credential: credential.to_owned(),
        mint: true,
        request_id: fresh_id(),
        ..question(&session.session_id, &describe())
    };
    assert_eq!(gateway.decide(decide(&credential)).await.unwrap().verdict(), Verdict::Allow);
    ledger.expect(&[("session_opened", 1), ("minted", 1)]).await;

    // Presenting is no way around: not to another operator, not for a caller without trust, not with a bad credential.
    let other = server.token("agent:etl-bot", Some("dana"), &["agent:chat-bot"]);
    assert_eq!(refused(gateway.decide(decide(&other)).await), denied("SESSION_MISMATCH"));
    let untrusted = server.person("agent:deploy-bot").await;
    assert_eq!(refused(untrusted.decide(decide(&credential)).await), denied("ACT_FOR_DENIED"));
    let person = OpenSessionRequest { principal_credential: server.token("dana", None, &[]), ..opening() };
    assert_eq!(refused(gateway.open_session(person).await), denied("ACT_FOR_DENIED"));
    ledger.expect(&[("refusal", 3)]).await;
    for bad in ["x", &credential[..credential.len() - 2], &format!("{credential}A")] {
        assert_eq!(refused(gateway.decide(decide(bad)).await), invalid(), "{bad}");
    }
    let both = DecideRequest { principal: Some(entity("Agent", "etl-bot")), ..decide(&credential) };
    assert_eq!(refused(gateway.decide(both).await), invalid());
    // The agent itself goes on in the session that was opened for it.
    let agent = server.client_of(&credential).await;
    assert_eq!(flow::decide(&agent, &session.session_id, &describe()).await.unwrap().verdict(), Verdict::Allow);
}

#[tokio::test]
async fn an_operator_is_named_only_for_a_principal_that_is_named_and_is_a_known_person() {
    let server = Server::dev().await;
    let gateway = server.person("service:gateway").await;
    let agent = server.person("agent:etl-bot").await;
    let olivia = Some(entity("Person", "olivia"));
    let bot = Some(entity("Agent", "etl-bot"));
    // For oneself: nobody gives themselves another's authority.
    for own in [None, bot.clone()] {
        let request = OpenSessionRequest { operator: olivia.clone(), principal: own, ..opening() };
        assert_eq!(refused(agent.open_session(request).await), invalid());
    }
    for operator in [entity("Agent", "chat-bot"), entity("Person", "nobody"), entity("Group", "security")] {
        let request = OpenSessionRequest { operator: Some(operator.clone()), ..named() };
        // By the field, or because the policies do not let anybody act for such an operator.
        let (code, _) = refused(gateway.open_session(request).await);
        assert!([Code::PermissionDenied, Code::InvalidArgument].contains(&code), "{operator:?}: {code:?}");
    }
    let contradicted = OpenSessionRequest {
        operator: Some(entity("Person", "dana")),
        principal_credential: server.token("agent:etl-bot", Some("olivia"), &[]),
        ..opening()
    };
    let (code, _) = refused(gateway.open_session(contradicted).await);
    assert!([Code::PermissionDenied, Code::InvalidArgument].contains(&code), "{code:?}");
    let list = ListSessionsRequest::default();
    assert_eq!(server.person("aaron").await.list_sessions(list).await.unwrap().sessions, []);
}

#[tokio::test]
async fn the_operator_and_the_chain_stand_in_every_record_of_what_is_done_through_them() {
    let server = Server::dev().await;
    let agent = server.client("agent:etl-bot", Some("olivia"), &["agent:chat-bot", "kim"]).await;
    let session = open(&agent).await;
    mint(&agent, &session, &describe(), "").await.unwrap();
    let asked = flow::ask(&agent, &session, &export(5)).await.unwrap();
    let cancel = || CancelApprovalRequest { approval_id: asked.approval_id.clone(), request_id: fresh_id() };
    agent.cancel_approval(cancel()).await.unwrap();
    agent.cancel_approval(cancel()).await.unwrap_err();
    agent.end_session(EndSessionRequest { session_id: session, request_id: fresh_id() }).await.unwrap();
    let links =
        [("Agent", "chat-bot"), ("Person", "kim")].map(|(kind, id)| serde_json::json!({"type": kind, "id": id}));
    let records = server.audit_records().await;
    let of_agent: Vec<_> =
        records.iter().filter(|record| record.content["caller"]["entity"]["id"] == "etl-bot").collect();
    let kinds: std::collections::BTreeSet<&str> = of_agent.iter().map(|record| record.kind.as_str()).collect();
    let expected =
        ["approval_cancelled", "approval_requested", "decision", "refusal", "session_ended", "session_opened"];
    assert_eq!(kinds, expected.into());
    for record in of_agent {
        let caller = &record.content["caller"];
        assert_eq!((&caller["operator"]["id"], &caller["chain"]), (&"olivia".into(), &links[..].into()), "{record:?}");
        // What is decided, asked and opened has them too, whoever calls.
        for action in [&record.content["action"], &record.content["session"]["chain"]] {
            let text = action.as_str().map_or_else(|| action.to_string(), str::to_owned);
            assert!(action.is_null() || (text.contains("chat-bot") && text.contains("kim")), "{record:?}");
        }
    }
}

#[tokio::test]
async fn a_chain_that_comes_back_to_somebody_or_goes_through_nobody_is_refused() {
    let bundle = Bundle::example();
    crate::approvals::shared::account(&bundle, "olivia", "olivia.second");
    let server = Server::with_bundle(bundle).await;
    // Two accounts, and one person: only the directory knows that it is a loop.
    let looped = server.client("agent:etl-bot", Some("olivia"), &["agent:chat-bot", "olivia.second"]).await;
    assert_eq!(refused(looped.open_session(opening()).await), invalid());
    let itself = server.client("olivia.second", Some("olivia"), &[]).await;
    assert_eq!(refused(itself.open_session(opening()).await), invalid());
    let stranger = server.client("agent:etl-bot", Some("olivia"), &["agent:nobody"]).await;
    assert_eq!(refused(stranger.open_session(opening()).await), denied("PRINCIPAL_UNKNOWN"));
}
