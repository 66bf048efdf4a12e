//! Pre-approvals: people approve the same operation on the same resource beforehand, so often and for so long, and nothing
//! else.

use countersign::client::{Client, ClientError, operation};
use countersign::proto::*;
use futures::future::join_all;
use serde_json::json;
use tonic::Code;

use super::shared::{Ledger, capabilities, denied, failed, invalid, join, leave, not_found, publish, void};
use crate::harness::flow::{ballot, fields, open, redeem, refused, show, spending, vote};
use crate::harness::{Server, fresh_id};

const POINT: &str = "prod";
const RULE: &str = "production-change-needs-sre";

/// A change of production on so many hosts: up to 50 one SRE answers, beyond it takes two.
fn change(hosts: i64) -> Operation {
    on("checkout", hosts)
}

fn on(system: &str, hosts: i64) -> Operation {
    let input = json!({"key": "timeout", "value": "5s", "blast_radius": hosts});
    operation("change_config", ("System", system), input, json!({})).unwrap()
}

fn within(uses: u32, seconds: i64) -> PreApprovalBounds {
    PreApprovalBounds { uses, duration: Some(prost_types::Duration { seconds, nanos: 0 }) }
}

fn asking(session: &str, operation: &Operation, bounds: PreApprovalBounds) -> RequestApprovalRequest {
    RequestApprovalRequest {
        session_id: session.to_owned(),
        operation: Some(operation.clone()),
        audience: POINT.to_owned(),
        justification: "incident 4711".to_owned(),
        pre_approval: Some(bounds),
        ..RequestApprovalRequest::default()
    }
}

async fn ask(
    agent: &Client,
    session: &str,
    operation: &Operation,
    bounds: PreApprovalBounds,
) -> Result<Approval, ClientError> {
    Ok(agent.request_approval(asking(session, operation, bounds)).await?.approval.unwrap())
}

fn question(session: &str, operation: &Operation, approval: &str, mint: bool) -> DecideRequest {
    DecideRequest {
        session_id: session.to_owned(),
        operation: Some(operation.clone()),
        audience: POINT.to_owned(),
        approval_id: approval.to_owned(),
        mint,
        request_id: fresh_id(),
        ..DecideRequest::default()
    }
}

/// A pre-approval that an SRE has given.
struct Given {
    server: Server,
    agent: Client,
    session: String,
    approval: Approval,
}

async fn given(uses: u32) -> Given {
    let server = Server::dev().await;
    let agent = server.person("agent:ops-bot").await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &change(5), within(uses, 1_800)).await.unwrap();
    let approval = vote(&server.person("nick").await, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(approval.state(), ApprovalState::Approved);
    Given { server, agent, session, approval }
}

impl Given {
    async fn decide(&self, operation: &Operation, mint: bool) -> Result<DecideResponse, ClientError> {
        self.agent.decide(question(&self.session, operation, &self.approval.approval_id, mint)).await
    }

    async fn must_mint(&self, operation: &Operation) -> MintedCapability {
        let answer = self.decide(operation, true).await.unwrap();
        assert_eq!(answer.verdict(), Verdict::Allow, "{answer:?}");
        answer.capability.unwrap()
    }

    async fn redeem(&self, token: &str, operation: &Operation) -> Result<RedeemResponse, ClientError> {
        let request = RedeemRequest { audience: POINT.to_owned(), ..spending(token, operation) };
        self.agent.redeem(request).await
    }

    async fn now(&self) -> Approval {
        show(&self.agent, &self.approval.approval_id).await.unwrap()
    }

    async fn charged(&self) -> u32 {
        self.now().await.pre_approval.unwrap().charged
    }

    /// Neither a capability that was minted before nor a new decision is worth anything.
    async fn is_over(&self, minted: &MintedCapability, operation: &Operation) {
        assert_eq!(refused(self.decide(operation, true).await), failed("APPROVAL_STATE"));
        assert_eq!(refused(self.redeem(&minted.token, operation).await), denied("CAPABILITY_REVOKED"));
        assert_eq!(self.charged().await, 1, "what was used before stays used, and nothing more is");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_approval_is_good_for_its_uses_and_not_one_more() {
    let given = given(3).await;
    let mut ledger = Ledger::of(&given.server).await;
    // Every one with another input; more are minted than there are uses, and all are redeemed at once, twice each.
    let changes: Vec<Operation> = (1..=8).map(change).collect();
    let minted = join_all(changes.iter().map(|change| given.must_mint(change))).await;
    assert_eq!(given.charged().await, 0, "minting charges nothing");
    ledger.expect(&[("minted", 8)]).await;
    let attempts = changes.iter().zip(&minted).chain(changes.iter().zip(&minted));
    let spent = join_all(attempts.map(|(change, minted)| given.redeem(&minted.token, change))).await;
    let (spent, others): (Vec<_>, Vec<_>) = spent.into_iter().partition(Result::is_ok);
    assert_eq!((spent.len(), others.len()), (3, 13));
    for other in others {
        let (code, reason) = refused(other);
        assert_eq!(code, Code::FailedPrecondition);
        assert!(["APPROVAL_STATE", "ALREADY_REDEEMED"].contains(&reason.as_str()), "{reason}");
    }
    ledger.expect(&[("redeem", 3), ("refusal", 13)]).await;
    let states = capabilities(&given.agent, &given.session).await;
    assert_eq!(states.iter().filter(|state| **state == CapabilityState::Redeemed).count(), 3, "{states:?}");

    let now = given.now().await;
    let pre = now.pre_approval.clone().unwrap();
    assert_eq!((now.state(), pre.charged), (ApprovalState::Redeemed, 3));
    assert_eq!(pre.last_uses.iter().map(|used| used.number).collect::<Vec<_>>(), [1, 2, 3]);
    let redeemed: Vec<String> = spent.into_iter().map(|receipt| receipt.unwrap().capability_id).collect();
    assert!(pre.last_uses.iter().all(|used| redeemed.contains(&used.capability_id) && used.decision_id.is_empty()));
    let again = given.decide(&change(9), false).await;
    assert!(again.as_ref().unwrap_err().to_string().contains("all 3 uses of the pre-approval are charged"));
    assert_eq!(refused(again), failed("APPROVAL_STATE"));

    // Each use stands in the log, with its number.
    let records = given.server.audit_records().await;
    let uses: Vec<u64> = records
        .iter()
        .filter(|record| record.kind == "redeem")
        .map(|record| record.content["pre_approval"]["use"].as_u64().unwrap())
        .collect();
    assert_eq!(uses, [1, 2, 3]);
    let asked = records.iter().find(|record| record.kind == "approval_requested").unwrap();
    assert_eq!(asked.content["pre_approval"], json!({"uses": 3, "seconds": 1_800}));
    assert!(!asked.text("/action").contains("blast_radius"), "no input is asked about");
}

#[tokio::test]
async fn an_allow_without_a_capability_charges_a_use() {
    let given = given(2).await;
    let first = given.decide(&change(1), false).await.unwrap();
    assert_eq!((first.verdict(), given.charged().await), (Verdict::Allow, 1));
    assert_eq!(given.now().await.pre_approval.unwrap().last_uses[0].decision_id, first.decision_id);
    // The same attempt once more is the same use.
    let request = question(&given.session, &change(2), &given.approval.approval_id, false);
    for replayed in [false, true] {
        let answer = given.agent.decide(request.clone()).await.unwrap();
        assert_eq!((answer.verdict(), answer.replayed), (Verdict::Allow, replayed));
    }
    assert_eq!(given.now().await.state(), ApprovalState::Redeemed);
    assert_eq!(refused(given.decide(&change(3), false).await), failed("APPROVAL_STATE"));
}

#[tokio::test]
async fn a_rule_that_offers_none_cannot_be_pre_approved() {
    let server = Server::dev().await;
    let agent = server.person("agent:ops-bot").await;
    let session = open(&agent).await;
    let mut ledger = Ledger::of(&server).await;
    let wide = ask(&agent, &session, &change(51), within(2, 60)).await;
    assert!(wide.as_ref().unwrap_err().to_string().contains("wide-change-needs-two-sres"));
    assert_eq!(refused(wide), failed("NOTHING_TO_ASK"));
    let staging = ask(&agent, &session, &on("checkout-staging", 5), within(2, 60)).await;
    assert_eq!(refused(staging), failed("NOTHING_TO_ASK"), "nobody is asked about it");
    ledger.expect(&[("refusal", 2)]).await;
    // Which rules offer it, and what, is told with the answer that people are needed.
    for (hosts, offered) in [(5, Some(within(5, 1_800))), (51, None)] {
        let answer = agent.decide(question(&session, &change(hosts), "", false)).await.unwrap();
        assert_eq!(answer.needed_approval.unwrap().rules[0].pre_approval, offered);
    }
}

#[tokio::test]
async fn bounds_beyond_the_rules_are_refused() {
    let server = Server::dev().await;
    let agent = server.person("agent:ops-bot").await;
    let session = open(&agent).await;
    for (bounds, field) in [
        (within(6, 1_800), "pre_approval.uses"),
        (within(5, 1_801), "pre_approval.duration"),
        (within(0, 60), "pre_approval"),
        (within(5, 0), "pre_approval"),
        (within(5, -1), "pre_approval.duration"),
        (PreApprovalBounds { uses: 5, duration: None }, "pre_approval.duration"),
        (
            PreApprovalBounds { uses: 5, duration: Some(prost_types::Duration { seconds: 60, nanos: 1 }) },
            "pre_approval.duration",
        ),
    ] {
        let answer = ask(&agent, &session, &change(5), bounds).await;
        assert_eq!(fields(&answer), [field], "{bounds:?}");
        assert_eq!(refused(answer), invalid());
    }
    // Nor does one outlive its session.
    let short = OpenSessionRequest {
        purpose: "a test".to_owned(),
        ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        ..OpenSessionRequest::default()
    };
    let short = agent.open_session(short).await.unwrap().session.unwrap().session_id;
    let answer = ask(&agent, &short, &change(5), within(5, 1_800)).await;
    assert_eq!(fields(&answer), ["pre_approval.duration"]);
    assert_eq!(refused(answer), invalid());
    ask(&agent, &short, &change(5), within(5, 300)).await.unwrap();
}

#[tokio::test]
async fn an_input_on_which_another_rule_asks_is_not_covered() {
    let given = given(3).await;
    let mut ledger = Ledger::of(&given.server).await;
    let wide = given.decide(&change(51), true).await.unwrap();
    assert_eq!((wide.verdict(), wide.capability), (Verdict::NeedsApproval, None));
    assert_eq!(wide.needed_approval.unwrap().rules[0].rule_id, "wide-change-needs-two-sres");
    ledger.expect(&[("NEEDS_APPROVAL", 1)]).await;
    assert_eq!(given.charged().await, 0);
    let narrow = given.must_mint(&change(50)).await;
    // What is redeemed is what was minted, whatever else is covered.
    assert_eq!(refused(given.redeem(&narrow.token, &change(49)).await), denied("CAPABILITY_MISMATCH"));
    given.redeem(&narrow.token, &change(50)).await.unwrap();
}

#[tokio::test]
async fn another_session_or_resource_is_not_covered() {
    let given = given(3).await;
    given.server.bundle().change(|files| {
        let text = files.get_mut("entities.json").unwrap();
        *text = text.replace(
            "{\"uid\": {\"type\": \"System\", \"id\": \"checkout\"}",
            "{\"uid\": {\"type\": \"System\", \"id\": \"billing\"}, \"attrs\": {\"stage\": \"production\"}, \"parents\": []},\n  \
             {\"uid\": {\"type\": \"System\", \"id\": \"checkout\"}",
        );
    });
    publish(&given.server).await;
    let mismatch = denied("APPROVAL_MISMATCH");
    assert_eq!(refused(given.decide(&on("billing", 5), true).await), mismatch);
    let command = json!({"argv": ["rm", "-rf", "/"]});
    let command = operation("run_command", ("System", "checkout"), command, json!({})).unwrap();
    assert_eq!(refused(given.decide(&command, true).await), mismatch);
    let id = &given.approval.approval_id;
    let elsewhere = DecideRequest { audience: "vault".into(), ..question(&given.session, &change(5), id, true) };
    assert_eq!(refused(given.agent.decide(elsewhere).await), mismatch);
    let other = open(&given.agent).await;
    assert_eq!(refused(given.agent.decide(question(&other, &change(5), id, true)).await), mismatch);
    // Somebody else, whose session it is not, and in a session of their own.
    let alice = given.server.person("alice").await;
    let theirs = alice.decide(question(&given.session, &change(5), id, true)).await;
    assert_eq!(refused(theirs), denied("SESSION_MISMATCH"));
    let own = open(&alice).await;
    assert_eq!(refused(alice.decide(question(&own, &change(5), id, true)).await), mismatch);
    assert_eq!(given.charged().await, 0);
    given.must_mint(&change(5)).await;
}

#[tokio::test]
async fn a_withdrawn_vote_ends_a_pre_approval() {
    let given = given(3).await;
    assert_eq!(given.decide(&change(1), false).await.unwrap().verdict(), Verdict::Allow);
    let minted = given.must_mint(&change(2)).await;
    let id = given.approval.approval_id.clone();
    let withdraw = WithdrawVoteRequest { approval_id: id, ..WithdrawVoteRequest::default() };
    let after = given.server.person("nick").await.withdraw_vote(withdraw).await.unwrap().approval.unwrap();
    assert_eq!(after.state(), ApprovalState::Void);
    given.is_over(&minted, &change(2)).await;
}

#[tokio::test]
async fn a_pre_approval_is_ended_by_its_parties_and_whom_policy_lets_revoke_and_by_nobody_else() {
    let cancel = |id: &str| CancelApprovalRequest { approval_id: id.to_owned(), ..CancelApprovalRequest::default() };
    // Its principal, its owner, and somebody of security, as the example's `revoke` policies have it.
    for who in ["agent:ops-bot", "nina", "sam"] {
        let given = given(3).await;
        assert_eq!(given.decide(&change(1), false).await.unwrap().verdict(), Verdict::Allow);
        let minted = given.must_mint(&change(2)).await;
        let id = &given.approval.approval_id;
        for other in ["agent:etl-bot", "dana"] {
            let answer = given.server.person(other).await.cancel_approval(cancel(id)).await;
            assert_eq!(refused(answer), not_found("APPROVAL_NOT_FOUND"), "{other}");
        }
        // Whoever may end it finds it.
        let client = given.server.person(who).await;
        let approved =
            ListApprovalsRequest { states: vec![ApprovalState::Approved.into()], ..ListApprovalsRequest::default() };
        let listed = client.list_approvals(approved).await.unwrap().approvals;
        assert_eq!(listed.iter().map(|listed| &listed.approval_id).collect::<Vec<_>>(), [id], "{who}");
        let after = client.cancel_approval(cancel(id)).await.unwrap().approval.unwrap();
        assert_eq!(after.state(), ApprovalState::Cancelled, "{who}");
        given.is_over(&minted, &change(2)).await;
    }
}

#[tokio::test]
async fn a_voter_who_lost_the_role_and_a_rule_that_offers_no_more_make_it_void() {
    let edits: [fn(&Given); 3] = [
        |given| {
            // Two could still answer what takes two.
            join(given.server.bundle(), "dana", "sre");
            leave(given.server.bundle(), "nick", "on-call");
        },
        |given| {
            let (from, to) = ("@pre_approval(\"5 uses, 30m\")\n", "");
            given.server.bundle().replace("policies/production.cedar", from, to);
        },
        |given| {
            let (from, to) = ("5 uses, 30m", "2 uses, 30m");
            given.server.bundle().replace("policies/production.cedar", from, to);
        },
    ];
    for edit in edits {
        let given = given(3).await;
        assert_eq!(given.decide(&change(1), false).await.unwrap().verdict(), Verdict::Allow);
        let minted = given.must_mint(&change(2)).await;
        edit(&given);
        publish(&given.server).await;
        void(&given.agent, &given.approval.approval_id).await;
        given.is_over(&minted, &change(2)).await;
    }
}

#[tokio::test]
async fn what_voters_are_shown_names_the_bounds() {
    let server = Server::dev().await;
    let agent = server.person("agent:ops-bot").await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &change(5), within(3, 1_200)).await.unwrap();
    // The same bounds are the same question, whatever the input was; others are another.
    let again = agent.request_approval(asking(&session, &change(7), within(3, 1_200))).await.unwrap();
    assert_eq!((again.approval.unwrap().approval_id, again.shared), (asked.approval_id.clone(), true));
    let wider = ask(&agent, &session, &change(5), within(4, 1_200)).await.unwrap();
    assert_ne!((&wider.approval_id, &wider.digest), (&asked.approval_id, &asked.digest));

    let pre = asked.pre_approval.clone().unwrap();
    assert_eq!((pre.bounds, pre.charged, pre.last_uses.len()), (Some(within(3, 1_200)), 0, 0));
    assert_eq!(asked.rules[0].pre_approval, Some(within(5, 1_800)));
    let text: serde_json::Value = serde_json::from_str(&asked.canonical_action).unwrap();
    assert_eq!((&text["kind"], &text["uses"], &text["seconds"]), (&json!("pre_approval"), &json!(3), &json!(1_200)));
    assert_eq!(text["rules"], json!([RULE]));
    assert!(text.get("input").is_none() && !asked.canonical_action.contains("timeout"));

    // The owner of the agent, who is an SRE, is excluded as from any question.
    let nina = server.person("nina").await;
    assert_eq!(refused(nina.cast_vote(ballot(&asked, VoteVerdict::Approve)).await), denied("VOTER_EXCLUDED"));
    let nick = server.token("nick", None, &[]);
    let shown = server.cli(&nick, &["approvals", "show", &asked.approval_id]).await;
    for words in ["PRE-APPROVAL", "up to 3 uses", "ANY input", "for 20m once it is approved", "0 of 3", RULE] {
        assert!(shown.stdout.contains(words), "{words}: {shown:?}");
    }
    let listed = server.cli(&nick, &["approvals", "list", "--pending"]).await;
    assert!(listed.stdout.contains("PRE-APPROVAL of any input, 0 of 3 used"), "{listed:?}");
    let voted = server.cli(&nick, &["approvals", "approve", &asked.approval_id, "--yes", "--json"]).await;
    assert_eq!(voted.json()["pre_approval"]["bounds"], json!({"uses": 3, "seconds": 1_200}), "{voted:?}");

    // The agent's own command line.
    let bot = server.token("agent:ops-bot", None, &[]);
    let input = "{\"key\":\"timeout\",\"value\":\"5s\",\"blast_radius\":5}";
    let ask = ["approvals", "request", "change_config", "System::checkout", "--audience", POINT, "--input", input];
    let rest = ["--session", &session, "--justification", "why", "--json", "--pre-approve-uses", "5"];
    let args: Vec<&str> = ask.iter().chain(&rest).copied().collect();
    assert_eq!(server.cli(&bot, &args).await.code, 2, "both bounds, or none");
    let whole: Vec<&str> = args.into_iter().chain(["--pre-approve-for", "30m"]).collect();
    let asked = server.cli(&bot, &whole).await;
    assert_eq!(asked.json()["approval"]["pre_approval"]["bounds"], json!({"uses": 5, "seconds": 1_800}), "{asked:?}");
}

#[tokio::test]
async fn a_pre_approval_dies_with_its_session() {
    let given = given(3).await;
    let minted = given.must_mint(&change(2)).await;
    crate::harness::flow::end(&given.agent, &given.session).await.unwrap();
    assert_eq!(given.now().await.state(), ApprovalState::Void);
    assert_eq!(refused(given.redeem(&minted.token, &change(2)).await), denied("SESSION_OVER"));
    assert_eq!(refused(redeem(&given.agent, &minted.token, &change(2)).await).0, Code::PermissionDenied);
    assert_eq!(given.charged().await, 0);
}
