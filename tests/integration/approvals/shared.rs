//! What the tests of approvals, capabilities and sessions share: a ledger of what was recorded, edits of the bundle, and
//! the longer steps.

use std::collections::BTreeMap;
use std::future::Future;

use countersign::client::{Client, operation};
use countersign::proto::{Approval, ApprovalState, CapabilityState, ListCapabilitiesRequest, Operation, VoteVerdict};
use countersign_core::time::SystemClock;
use countersign_core::{Clock as _, Timestamp};
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::flow::{ask, refused, show, vote};
use crate::harness::{Bundle, PATIENCE, Server, flow};

/// A refusal with PERMISSION_DENIED.
pub fn denied(reason: &str) -> (Code, String) {
    (Code::PermissionDenied, reason.to_owned())
}

/// A refusal with FAILED_PRECONDITION.
pub fn failed(reason: &str) -> (Code, String) {
    (Code::FailedPrecondition, reason.to_owned())
}

/// A refusal with NOT_FOUND.
pub fn not_found(reason: &str) -> (Code, String) {
    (Code::NotFound, reason.to_owned())
}

/// A refusal with INVALID_ARGUMENT.
pub fn invalid() -> (Code, String) {
    (Code::InvalidArgument, "INVALID_FIELD".to_owned())
}

/// When a server's clock begins that is stopped and started again later. Half an hour ago, so that the credentials of the
/// test are good by the machine's clock as well, which is the one that credentials are held against.
pub fn half_an_hour_ago() -> Timestamp {
    Timestamp::from_millis(SystemClock::default().wall().millis() - 30 * 60 * 1_000)
}

/// Waits for something that must come, or says what did not.
pub async fn within<T>(what: &str, awaited: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, awaited).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

/// Counts what is recorded. A decision counts as `minted`, or under its verdict.
pub struct Ledger<'a> {
    server: &'a Server,
    seen: usize,
}

impl<'a> Ledger<'a> {
    /// From now on.
    pub async fn of(server: &'a Server) -> Self {
        Self { server, seen: server.audit_records().await.len() }
    }

    /// Exactly this was recorded since the last look: one record for each attempt, and nothing else. Under a flood,
    /// refusals are counted instead, and the counts are written a moment later.
    pub async fn expect(&mut self, expected: &[(&str, u64)]) {
        let expected: BTreeMap<String, u64> = expected.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect();
        let total: u64 = expected.values().sum();
        let looking = async {
            loop {
                let (seen, counts) = self.look().await;
                if counts.values().sum::<u64>() >= total {
                    return (seen, counts);
                }
            }
        };
        // Every record is durable before its reply; only the counts of a flood are awaited.
        let found = tokio::time::timeout(PATIENCE / 4, looking).await;
        let (seen, counts) = match found {
            Ok(found) => found,
            Err(_) => self.look().await,
        };
        assert_eq!(counts, expected, "recorded (left), expected (right)");
        self.seen = seen;
    }

    async fn look(&self) -> (usize, BTreeMap<String, u64>) {
        let records = self.server.audit_since(self.seen).await;
        let mut counts = BTreeMap::new();
        for record in &records {
            let (kind, count) = match record.kind.as_str() {
                "decision" if record.content.get("minted").is_some() => ("minted".to_owned(), 1),
                "decision" => (record.text("/verdict").to_owned(), 1),
                "refusals" => ("refusal".to_owned(), record.content["count"].as_u64().unwrap()),
                other => (other.to_owned(), 1),
            };
            *counts.entry(kind).or_default() += count;
        }
        (self.seen + records.len(), counts)
    }
}

impl Server {
    /// The agent of most tests, acting for olivia.
    pub async fn etl_bot(&self) -> Client {
        self.client(flow::AGENT, Some(flow::OPERATOR), &[]).await
    }

    /// The enforcement point of most tests.
    pub async fn warehouse(&self) -> Client {
        self.person(flow::REDEEMER).await
    }
}

fn entities(bundle: &Bundle, change: impl FnOnce(&mut Vec<Value>)) {
    bundle.change(|files| {
        let text = files.get_mut("entities.json").unwrap();
        let mut all: Vec<Value> = serde_json::from_str(text).unwrap();
        change(&mut all);
        *text = serde_json::to_string(&all).unwrap();
    });
}

fn entity<'a>(all: &'a mut [Value], kind: &str, id: &str) -> &'a mut Value {
    let uid = json!({"type": kind, "id": id});
    all.iter_mut().find(|entity| entity["uid"] == uid).unwrap_or_else(|| panic!("no {kind} {id}"))
}

/// Makes a person a member of a group.
pub fn join(bundle: &Bundle, person: &str, group: &str) {
    entities(bundle, |all| {
        let parents = entity(all, "Person", person)["parents"].as_array_mut().unwrap();
        parents.push(json!({"type": "Group", "id": group}));
    });
}

/// Takes a person out of a group.
pub fn leave(bundle: &Bundle, person: &str, group: &str) {
    entities(bundle, |all| {
        let parents = entity(all, "Person", person)["parents"].as_array_mut().unwrap();
        parents.retain(|parent| parent["id"] != group);
    });
}

/// Makes a person the owner of something.
pub fn own(bundle: &Bundle, kind: &str, id: &str, person: &str) {
    entities(bundle, |all| {
        entity(all, kind, id)["attrs"]["owner"] = json!({"__entity": {"type": "Person", "id": person}});
    });
}

/// Gives a person one more account of the development issuer.
pub fn account(bundle: &Bundle, person: &str, account: &str) {
    let account = format!("{}#{account}", countersign::config::DEV_ISSUER);
    entities(bundle, |all| {
        let accounts = entity(all, "Person", person)["attrs"]["accounts"].as_array_mut().unwrap();
        accounts.push(account.into());
    });
}

/// The server takes the bundle as it is now.
pub async fn publish(server: &Server) {
    let reloaded = flow::reload(&server.person("alice").await).await.unwrap();
    assert!(reloaded.changed);
}

/// Waits until a request is void, and says why it is.
pub async fn void(client: &Client, approval: &str) -> String {
    let mut watch = client.watch_approvals(Some(approval), "");
    loop {
        let now = watch.next().await.unwrap();
        if now.state() == ApprovalState::Void {
            return now.state_detail;
        }
    }
}

/// An export of customer data to somebody else's bucket: needs two data owners, and security.
pub fn export_abroad(rows: i64) -> Operation {
    let input = json!({"rows": rows, "destination": "s3://partner"});
    operation("export", ("Dataset", "customers"), input, json!({})).unwrap()
}

/// A routine query: ALLOW.
pub fn query() -> Operation {
    let input = json!({"statement": "select count(*) from telemetry"});
    operation("query", ("Dataset", "telemetry"), input, json!({})).unwrap()
}

/// A privileged role: needs one of security.
pub fn admin_role(grantee: &str) -> Operation {
    let input = json!({"grantee": format!("Person::\"{grantee}\""), "expires_in": "1h"});
    operation("grant_role", ("Role", "admin"), input, json!({})).unwrap()
}

/// Asks, and has dana and dave approve.
pub async fn approved(server: &Server, agent: &Client, session: &str, operation: &Operation) -> Approval {
    let asked = ask(agent, session, operation).await.unwrap();
    for person in ["dana", "dave"] {
        vote(&server.person(person).await, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    }
    let approval = show(agent, &asked.approval_id).await.unwrap();
    assert_eq!(approval.state(), ApprovalState::Approved);
    approval
}

/// The states of all capabilities of a session, newest first.
pub async fn capabilities(client: &Client, session: &str) -> Vec<CapabilityState> {
    let request = ListCapabilitiesRequest { session_id: session.to_owned(), page_size: 200, ..Default::default() };
    client.list_capabilities(request).await.unwrap().capabilities.iter().map(|c| c.state()).collect()
}

/// Nobody's vote stands, and the request waits as before.
pub async fn unvoted(client: &Client, approval: &str) {
    let now = show(client, approval).await.unwrap();
    assert_eq!((now.state(), now.votes.len()), (ApprovalState::Pending, 0), "{now:?}");
}

/// Approves and denies as somebody, and both are refused alike.
pub async fn neither_vote_counts(voter: &Client, shown: &Approval, refusal: (Code, String)) {
    for verdict in [VoteVerdict::Approve, VoteVerdict::Deny] {
        let result = voter.cast_vote(flow::ballot(shown, verdict)).await;
        assert_eq!(refused(result), refusal, "{verdict:?}");
    }
}
