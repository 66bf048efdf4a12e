//! What was approved under one bundle is decided under the one that is active.

use countersign::client::Client;
use countersign::proto::*;

use super::shared::{Ledger, approved, capabilities, denied, failed, leave, publish, unvoted, void};
use crate::harness::Server;
use crate::harness::flow::{ask, export, mint, must_mint, open, redeem, refused, show, vote};

/// An approved request of a new session, and a capability minted for it.
struct Prepared {
    server: Server,
    agent: Client,
    session: String,
    approval: Approval,
    minted: MintedCapability,
}

async fn prepare() -> Prepared {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let approval = approved(&server, &agent, &session, &export(5)).await;
    let minted = must_mint(&agent, &session, &export(5), &approval.approval_id).await;
    Prepared { server, agent, session, approval, minted }
}

impl Prepared {
    /// After the bundle was changed: the approval is void at once and says why, and neither it nor the capability is worth
    /// anything.
    async fn yields(&self, verdict: Verdict, because: &str) {
        publish(&self.server).await;
        let id = &self.approval.approval_id;
        assert!(void(&self.agent, id).await.contains(because));
        let mut ledger = Ledger::of(&self.server).await;
        let again = mint(&self.agent, &self.session, &export(5), id).await;
        assert_eq!(refused(again), failed("APPROVAL_STATE"));
        let anew = mint(&self.agent, &self.session, &export(5), "").await.unwrap();
        assert_eq!((anew.verdict(), anew.capability), (verdict, None));
        let spent = redeem(&self.server.warehouse().await, &self.minted.token, &export(5)).await;
        assert_eq!(refused(spent), denied("CAPABILITY_REVOKED"));
        ledger.expect(&[(if verdict == Verdict::Deny { "DENY" } else { "NEEDS_APPROVAL" }, 1), ("refusal", 2)]).await;
        assert_eq!(capabilities(&self.agent, &self.session).await, [CapabilityState::Minted], "unspent, and no second");
    }
}

#[tokio::test]
async fn a_raised_quorum_asks_again() {
    let prepared = prepare().await;
    prepared.server.bundle().replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"3\")");
    prepared.yields(Verdict::NeedsApproval, "ask another question").await;
}

#[tokio::test]
async fn a_rule_that_was_added_asks_its_own_people() {
    let prepared = prepare().await;
    prepared.server.bundle().change(|files| {
        files.insert(
            "policies/more.cedar".to_owned(),
            "@id(\"export-needs-security\")\nforbid (principal, action == Action::\"export\", resource is Dataset)\n\
             unless { context has approval && context.approval.rules.contains(\"export-needs-security\") };\n"
                .to_owned(),
        );
        files.insert(
            "approve/more.cedar".to_owned(),
            "@id(\"security-answers-every-export\")\n\
             permit (principal in Group::\"security\", action == Action::\"approve\", resource is Dataset)\n\
             when { context.rule == \"export-needs-security\" };\n"
                .to_owned(),
        );
    });
    prepared.yields(Verdict::NeedsApproval, "ask another question").await;
}

#[tokio::test]
async fn a_rule_that_became_final_denies() {
    let prepared = prepare().await;
    prepared.server.bundle().replace(
        "entities.json",
        "{\"classification\": \"pii\", \"exportable\": true}",
        "{\"classification\": \"pii\", \"exportable\": false}",
    );
    prepared.yields(Verdict::Deny, "deny the action").await;
}

#[tokio::test]
async fn a_voter_who_lost_the_role_no_longer_counts() {
    let prepared = prepare().await;
    leave(prepared.server.bundle(), "dana", "data-owners");
    prepared.yields(Verdict::NeedsApproval, "lost the role").await;
}

#[tokio::test]
async fn a_principal_that_lost_its_permit_is_denied() {
    let prepared = prepare().await;
    prepared.server.bundle().replace("policies/exports.cedar", "Group::\"data-readers\"", "Group::\"deployers\"");
    prepared.yields(Verdict::Deny, "deny the action").await;
}

#[tokio::test]
async fn a_voter_who_lost_the_role_before_the_quorum_does_not_help_to_meet_it() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    vote(&server.person("dana").await, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    leave(server.bundle(), "dana", "data-owners");
    publish(&server).await;
    let mut ledger = Ledger::of(&server).await;
    let after = vote(&server.person("dave").await, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(after.state(), ApprovalState::Pending);
    let counted: Vec<&str> = after.rules[0].persons.iter().map(|person| person.id.as_str()).collect();
    assert_eq!(counted, ["dave"]);
    let early = mint(&agent, &session, &export(5), &asked.approval_id).await.unwrap();
    assert_eq!(early.verdict(), Verdict::NeedsApproval);
    ledger.expect(&[("vote", 1), ("NEEDS_APPROVAL", 1)]).await;
}

#[tokio::test]
async fn a_question_that_the_policies_ask_otherwise_now_is_put_anew() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let old = ask(&agent, &session, &export(5)).await.unwrap();
    vote(&server.person("dana").await, &old.approval_id, VoteVerdict::Approve).await.unwrap();
    server.bundle().replace("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"3\")");
    publish(&server).await;
    assert!(void(&agent, &old.approval_id).await.contains("ask another question"));
    let mut ledger = Ledger::of(&server).await;
    let new = ask(&agent, &session, &export(5)).await.unwrap();
    assert_ne!(new.approval_id, old.approval_id);
    assert_eq!(show(&agent, &old.approval_id).await.unwrap().state(), ApprovalState::Void);
    unvoted(&agent, &new.approval_id).await;
    ledger.expect(&[("approval_requested", 1)]).await;
}
