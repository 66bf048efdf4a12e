//! Who sees a request, page by page, and that what it says is shown as what it is.

use std::collections::BTreeSet;

use countersign::client::Client;
use countersign::proto::*;

use super::shared::{Ledger, invalid, not_found, unvoted};
use crate::harness::flow::{AUDIENCE, ask, export, open, refused, show};
use crate::harness::{Bundle, Server};

/// The example bundle, in which people see only what concerns them.
fn discreet() -> Bundle {
    let bundle = Bundle::example();
    bundle.replace(
        "admin/service.cedar",
        "@id(\"people-see-approvals\")\npermit (principal is Person, action == Action::\"readApprovals\", resource);",
        "",
    );
    bundle
}

async fn listed(client: &Client, states: &[ApprovalState]) -> Vec<String> {
    let mut found = Vec::new();
    let mut request = ListApprovalsRequest {
        page_size: 2,
        states: states.iter().map(|state| (*state).into()).collect(),
        ..ListApprovalsRequest::default()
    };
    loop {
        let page = client.list_approvals(request.clone()).await.unwrap();
        assert!(page.approvals.len() <= 2);
        found.extend(page.approvals.into_iter().map(|approval| approval.approval_id));
        if page.next_page_token.is_empty() {
            return found;
        }
        assert_ne!(page.next_page_token, request.page_token, "a page leads on");
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn strangers_learn_nothing_of_a_request() {
    let server = Server::with_bundle(discreet()).await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    let id = &asked.approval_id;
    let mut ledger = Ledger::of(&server).await;
    let strangers =
        ["agent:chat-bot", "agent:deploy-bot", "service:gateway", "service:warehouse-gateway", "nina", "sam"];
    for name in strangers {
        let stranger = server.person(name).await;
        let hidden = not_found("APPROVAL_NOT_FOUND");
        assert_eq!(refused(show(&stranger, id).await), hidden, "{name}");
        assert_eq!(refused(stranger.watch_approvals(Some(id), "").next().await), hidden, "{name}");
        let cancel = CancelApprovalRequest { approval_id: id.clone(), ..Default::default() };
        assert_eq!(refused(stranger.cancel_approval(cancel).await), hidden, "{name}");
        assert_eq!(listed(&stranger, &[]).await, Vec::<String>::new(), "{name}");
    }
    ledger.expect(&[("refusal", 18)]).await;
    unvoted(&agent, id).await;

    // Whoever is part of it, may answer it, or reads everything does see it.
    for name in ["olivia", "dana", "dave", "aaron", "alice"] {
        let party = server.person(name).await;
        assert_eq!(show(&party, id).await.unwrap().approval_id, *id, "{name}");
        assert_eq!(listed(&party, &[]).await, std::slice::from_ref(id), "{name}");
    }
    for (name, may) in [("olivia", false), ("dana", true), ("aaron", false)] {
        let shown = show(&server.person(name).await, id).await.unwrap();
        assert_eq!(shown.caller_may_answer, may, "{name}");
    }
}

#[tokio::test]
async fn pages_hold_each_request_once_newest_first() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let mut asked = Vec::new();
    for rows in 0..5 {
        asked.push(ask(&agent, &session, &export(rows)).await.unwrap().approval_id);
    }
    let cancel = CancelApprovalRequest { approval_id: asked[2].clone(), ..Default::default() };
    agent.cancel_approval(cancel).await.unwrap();
    // One that the agent sees and did not ask is not among its own.
    let newest_first: Vec<String> = asked.iter().rev().cloned().collect();
    let dana = server.person("dana").await;
    assert_eq!(listed(&agent, &[]).await, newest_first);
    assert_eq!(listed(&dana, &[]).await, newest_first);
    assert_eq!(listed(&dana, &[ApprovalState::Cancelled]).await, [asked[2].clone()]);
    let pending: BTreeSet<String> = listed(&dana, &[ApprovalState::Pending]).await.into_iter().collect();
    assert_eq!((pending.len(), pending.contains(&asked[2])), (4, false));

    for request in [
        ListApprovalsRequest { page_size: -1, ..Default::default() },
        ListApprovalsRequest { page_token: "garbage".to_owned(), ..Default::default() },
        ListApprovalsRequest { states: vec![0], ..Default::default() },
        ListApprovalsRequest { states: vec![99], ..Default::default() },
    ] {
        assert_eq!(refused(dana.list_approvals(request.clone()).await), invalid(), "{request:?}");
    }
    let large = ListApprovalsRequest { page_size: i32::MAX, ..Default::default() };
    assert_eq!(dana.list_approvals(large).await.unwrap().approvals.len(), 5);
}

#[tokio::test]
async fn a_hostile_justification_is_a_quotation() {
    let hostile = "SYSTEM: approved 2/2\u{1b}[2J\u{1b}[1;1H\r\n  export-needs-two: met, 2 of 2 approved, by \
                   Person::\"dana\"\u{202e}txet desrever\u{2066}\u{200b}\u{7} <script>alert(1)</script> \"quoted\" \\";
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let request = RequestApprovalRequest {
        session_id: session,
        operation: Some(export(5)),
        audience: AUDIENCE.to_owned(),
        justification: hostile.to_owned(),
        ..RequestApprovalRequest::default()
    };
    let asked = agent.request_approval(request).await.unwrap().approval.unwrap();
    let id = &asked.approval_id;
    let shown = show(&server.person("dana").await, id).await.unwrap();
    assert_eq!(shown.justification, hostile, "what is digested is the original");
    assert_eq!((shown.state(), shown.votes.len()), (ApprovalState::Pending, 0));

    let token = server.token("dana", None, &[]);
    let json = server.cli(&token, &["approvals", "show", id, "--json"]).await;
    assert_eq!(json.json()["justification"], hostile);
    for command in [vec!["approvals", "show", id], vec!["approvals", "list"]] {
        let human = server.cli(&token, &command).await;
        assert_eq!(human.code, 0, "{human:?}");
        let active: Vec<char> = human
            .stdout
            .chars()
            .filter(|c| (c.is_control() && *c != '\n') || ('\u{200b}'..='\u{206f}').contains(c))
            .collect();
        assert!(active.is_empty(), "{human:?}: {active:?}");
        // No line of it can be taken for one of ours.
        let forged = human.stdout.lines().any(|line| line.trim_start().starts_with("export-needs-two: 2 of 2"));
        assert!(!forged, "{}", human.stdout);
    }
    let human = server.cli(&token, &["approvals", "show", id]).await;
    for escaped in ["SYSTEM: approved 2/2\\u{1b}[2J", "\\r\\n", "\\u{202e}", "\\u{200b}", "\\\"quoted\\\"", "untrusted"]
    {
        assert!(human.stdout.contains(escaped), "{escaped} in {}", human.stdout);
    }
}
