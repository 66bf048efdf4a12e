//! Groups and owners that a credential claims: whom they let do what, for how long, and for nobody else.

use std::collections::BTreeSet;
use std::time::Duration;

use countersign_core::approval::{ApprovalError, ApprovalState, Changed, Verdict as Says, VoidCause};
use countersign_core::restraint::RestraintError;
use countersign_engine::{Receipt, Wanted};
use countersign_policy::{Bundle, Entities, RecordedDecision, Replayed};
use futures::StreamExt as _;

use crate::*;

const MINUTE: Duration = Duration::from_secs(60);

/// The same call with a credential that says more, and expires.
fn claims(mut call: Call, groups: &[&str], owner: Option<&str>, lasts: Duration) -> Call {
    let groups = groups.iter().map(|id| EntityRef::new("Group", *id).unwrap()).collect();
    let claims = Claims { groups, owner: owner.map(|subject| format!("iss#{subject}")) };
    let expires_at = START.plus(lasts);
    let hash = Digest::of(format!("{:?} {claims:?} {expires_at:?}", call.credential.subject).as_bytes());
    call.credential = Arc::new(Credential { claims, expires_at, hash, ..(*call.credential).clone() });
    call
}

/// A call of somebody whose credential puts them into groups for five minutes from the start.
fn member(who: &str, groups: &[&str], rpc: &'static str) -> Call {
    claims(call(who, rpc), groups, None, 5 * MINUTE)
}

fn owned(owner: &str, rpc: &'static str) -> Call {
    claims(call("agent:bot", rpc), &[], Some(owner), 60 * MINUTE)
}

/// The usual world, with eve and frank, who are in no group, and with these policies.
async fn world(changed: &[(&str, &str, &str)]) -> World<MemoryKernel> {
    let mut files = files();
    for (path, from, to) in changed {
        let text = files[*path].replace(from, to);
        assert_ne!(text, files[*path], "{path}");
        files.insert((*path).to_owned(), text);
    }
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    world.change("service:sync", &[person("eve", &[]), person("frank", &[])]).await.unwrap();
    world
}

const TWO: (&str, &str, &str) = ("policies/work.cedar", "@id(\"asks\")", "@id(\"asks\") @quorum(\"2\")");
const READERS: (&str, &str, &str) = (
    "policies/work.cedar",
    "@id(\"work\") permit (principal, action, resource is Dataset);",
    "@id(\"work\") permit (principal in Group::\"readers\", action, resource is Dataset);",
);
const LOG: (&str, &str, &str) = (
    "admin/admin.cedar",
    "action in [Action::\"changeEntities\", Action::\"publish\"]",
    "action in [Action::\"changeEntities\", Action::\"publish\", Action::\"readLog\"]",
);

impl<K: Kernel> World<K> {
    async fn say_by(&self, call: Call, approval: ApprovalId, verdict: Says) -> Result<(), Error> {
        let shown = self.engine.changed_approval(&call, approval).await?.approval.value;
        let ballot =
            Ballot { approval, verdict, digest: shown.digest, view: shown.view, comment: String::new(), signed: None };
        self.engine.vote(&Call { rpc: "CastVote", ..call }, &ballot).await.map(drop)
    }

    async fn approve_by(&self, call: Call, approval: ApprovalId) -> Result<(), Error> {
        self.say_by(call, approval, Says::Approve).await
    }

    async fn open_by(&self, call: &Call, acting: Acting) -> Result<SessionId, Error> {
        let opening = OpenSession { purpose: "x".to_owned(), ttl: None, acting, ..OpenSession::default() };
        self.engine.open_session(call, &opening).await.map(|opened| opened.answer.value.id)
    }

    async fn state(&self, approval: ApprovalId) -> ApprovalState {
        self.engine.changed_approval(&call("dave", "GetApproval"), approval).await.unwrap().state
    }

    async fn redeem_export(&self, decision: &Decision) -> Result<Receipt, Error> {
        let redeem = Redeem { operation: operation("export", "docs"), ..self.redeem(decision) };
        self.engine.redeem(&call("service:gate", "Redeem"), &redeem).await.map(|receipt| receipt.answer)
    }

    /// The records of a kind, for adam.
    async fn log(&self, kind: &str) -> Vec<Json> {
        let (records, _) = self.engine.records(&call("adam", "ListRecords"), 0, 1_000).await.unwrap();
        let all = records.into_iter().map(|(_, bytes)| serde_json::from_slice::<Json>(&bytes).unwrap());
        all.filter(|record| record["kind"] == kind).collect()
    }
}

fn not_eligible(result: Result<(), Error>) {
    assert!(matches!(result, Err(Error::Approval(ApprovalError::NotEligible(_)))), "{result:?}");
}

fn excluded(result: Result<(), Error>) {
    assert!(matches!(result, Err(Error::Approval(ApprovalError::Excluded(_)))), "{result:?}");
}

fn void_for_votes() -> ApprovalState {
    ApprovalState::Void { why: VoidCause::ConditionsChanged { changed: Some(Changed::Votes) } }
}

#[tokio::test]
async fn a_group_from_a_claim_lets_its_bearer_answer() {
    let world = world(&[LOG]).await;
    let approval = world.ask().await;
    not_eligible(world.approve_by(call("eve", "CastVote"), approval).await);
    let eve = member("eve", &["owners"], "GetApproval");
    let shown = world.engine.approval(&eve, approval).await.unwrap();
    assert!(shown.may_answer);
    // Whom a credential will put into a group, nobody knows before.
    assert_eq!(shown.answerers, [entity("Person::\"dana\""), entity("Person::\"dave\"")]);
    assert_eq!(world.engine.approvals(&eve, None, 10).await.unwrap().items.len(), 1);
    world.approve_by(eve, approval).await.unwrap();
    assert_eq!(world.state(approval).await, ApprovalState::Approved);
    let decision = world.decide("export", "docs", Some(approval)).await.unwrap();
    world.redeem_export(&decision).await.unwrap();
    let owners = json!([{ "type": "Group", "id": "owners" }]);
    let [vote] = &world.log("vote").await[..] else { panic!("one vote") };
    assert_eq!(vote["caller"]["claimed"], json!({ "groups": owners, "until": START.plus(5 * MINUTE).millis() }));
}

#[tokio::test]
async fn a_vote_by_a_claimed_group_counts_no_longer_than_its_credential() {
    let world = world(&[]).await;
    let approval = world.ask().await;
    world.approve_by(member("eve", &["owners"], "CastVote"), approval).await.unwrap();
    world.clock.advance(5 * MINUTE - Duration::from_millis(1));
    let in_time = world.decide("export", "docs", Some(approval)).await.unwrap();
    minted(&in_time);
    world.clock.advance(Duration::from_millis(1));
    let refused = world.redeem_export(&in_time).await;
    assert!(matches!(refused, Err(Error::PolicyDenied(_))), "{refused:?}");
    let late = world.decide("export", "docs", Some(approval)).await.unwrap();
    assert!(matches!(late.verdict, Verdict::NeedsApproval { .. }), "{late:?}");
    world.engine.reconsider(approval).await.unwrap();
    assert_eq!(world.state(approval).await, void_for_votes());
    // Asked again, a newer credential answers.
    let again = world.ask().await;
    assert_ne!(again, approval);
    world.approve_by(claims(call("eve", "CastVote"), &["owners"], None, 60 * MINUTE), again).await.unwrap();
    world.redeem_export(&world.decide("export", "docs", Some(again)).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn whoever_waits_learns_at_once_that_a_credential_which_approved_has_expired() {
    let world = world(&[]).await;
    let approval = world.ask().await;
    let soon = Duration::from_millis(80);
    world.approve_by(claims(call("eve", "CastVote"), &["owners"], None, soon), approval).await.unwrap();
    let engine = Arc::clone(&world.engine);
    let mut waiting = Box::pin(engine.watch_approvals(call("agent:bot", "WatchApprovals"), Some(approval), None));
    assert_eq!(waiting.next().await.unwrap().unwrap().view.state, ApprovalState::Approved);
    let following = async {
        tokio::task::yield_now().await;
        world.clock.advance(soon);
        while waiting.next().await.unwrap().unwrap().view.state != void_for_votes() {}
    };
    tokio::select! {
        () = following => {}
        ended = world.engine.follow_conditions() => panic!("{ended:?}"),
    }
}

#[tokio::test]
async fn a_vote_whose_credential_expired_is_cast_again_and_counts_once() {
    let world = world(&[TWO]).await;
    let approval = world.ask().await;
    let eve = || member("eve", &["owners"], "CastVote");
    world.approve_by(eve(), approval).await.unwrap();
    let twice = world.approve_by(eve(), approval).await;
    assert!(matches!(twice, Err(Error::Approval(ApprovalError::AlreadyVoted(_)))), "{twice:?}");
    world.clock.advance(5 * MINUTE);
    // Though dana approves too, it is only she who counts by now.
    world.vote("dana", approval).await.unwrap();
    assert_eq!(world.state(approval).await, ApprovalState::Pending);
    not_eligible(world.approve_by(eve(), approval).await);
    world.approve_by(claims(call("eve", "CastVote"), &["owners"], None, 60 * MINUTE), approval).await.unwrap();
    assert_eq!(world.state(approval).await, ApprovalState::Approved);
    minted(&world.decide("export", "docs", Some(approval)).await.unwrap());
}

#[tokio::test]
async fn who_is_in_the_group_by_the_directory_too_counts_beyond_the_credential() {
    let world = world(&[]).await;
    let approval = world.ask().await;
    world.approve_by(member("dana", &["owners"], "CastVote"), approval).await.unwrap();
    world.clock.advance(6 * MINUTE);
    minted(&world.decide("export", "docs", Some(approval)).await.unwrap());
}

#[tokio::test]
async fn directory_membership_is_live() {
    let world = world(&[]).await;
    let approval = world.ask().await;
    world.vote("dana", approval).await.unwrap();
    let verdict = async || world.decide("export", "docs", Some(approval)).await.unwrap().verdict;
    assert!(matches!(verdict().await, Verdict::Allow { .. }));
    world.change("service:sync", &[person("dana", &[])]).await.unwrap();
    assert!(matches!(verdict().await, Verdict::NeedsApproval { .. }));
    // That the credential says so now is nothing to the vote of then.
    let dana = world.engine.approval(&member("dana", &["owners"], "GetApproval"), approval).await.unwrap();
    assert!(dana.may_answer);
    assert!(matches!(verdict().await, Verdict::NeedsApproval { .. }));
}

#[tokio::test]
async fn a_claimed_group_is_nobody_elses() {
    let world = world(&[TWO]).await;
    let approval = world.ask().await;
    world.approve_by(member("eve", &["owners"], "CastVote"), approval).await.unwrap();
    not_eligible(world.approve_by(call("frank", "CastVote"), approval).await);
    // Not even the same person's, by another credential, and not an agent's who acts for them.
    let plain = world.engine.approval(&call("eve", "GetApproval"), approval).await.unwrap();
    assert!(!plain.may_answer);
    world.change("service:sync", &[agent("helper", "frank")]).await.unwrap();
    let helper = claims(call_via("eve", &["agent:helper"], "CastVote"), &["owners"], None, 5 * MINUTE);
    let refused = world.approve_by(helper, approval).await;
    assert!(matches!(refused, Err(Error::NotAPerson(_))), "{refused:?}");
    let group = entity("Group::\"owners\"");
    assert_eq!(world.state(approval).await, ApprovalState::Pending, "{group} has one claimant, who counts once");
}

#[tokio::test]
async fn what_is_found_by_a_claimed_group_is_found_with_that_credential_alone() {
    let world = world(&[]).await;
    let approval = world.ask().await;
    let found = async |call: Call| {
        let page = world.engine.live_approvals(&call, None, 10, Wanted::Pending).await.unwrap();
        page.items.iter().map(|item| (item.approval.value.id, item.may_answer)).collect::<Vec<_>>()
    };
    for _again in 0..2 {
        assert_eq!(found(call("eve", "ListApprovals")).await, []);
        assert_eq!(found(member("eve", &["owners"], "ListApprovals")).await, [(approval, true)]);
        assert_eq!(found(member("frank", &["admins"], "ListApprovals")).await, []);
    }
    world.clock.advance(5 * MINUTE);
    assert_eq!(found(member("eve", &["owners"], "ListApprovals")).await, []);
}

#[tokio::test]
async fn a_claimed_group_that_nobody_knows_is_none() {
    let world = world(&[("approve/approve.cedar", "owners\"", "ghosts\"")]).await;
    let approval = world.ask().await;
    let eve = || member("eve", &["ghosts"], "CastVote");
    not_eligible(world.approve_by(eve(), approval).await);
    world.change("service:sync", &[put("Group::\"ghosts\"", json!({}))]).await.unwrap();
    world.approve_by(eve(), approval).await.unwrap();
    minted(&world.decide("export", "docs", Some(approval)).await.unwrap());
    // It is gone again, and with it what rested on it.
    world.change("service:sync", &[gone("Group::\"ghosts\"")]).await.unwrap();
    let decision = world.decide("export", "docs", Some(approval)).await.unwrap();
    assert!(matches!(decision.verdict, Verdict::NeedsApproval { .. }), "{decision:?}");
}

#[tokio::test]
async fn what_is_above_a_claimed_group_is_claimed_with_it() {
    let world = world(&[]).await;
    let owners = json!([{ "type": "Group", "id": "owners" }]);
    world.change("service:sync", &[put("Group::\"on-call\"", json!({ "parents": owners }))]).await.unwrap();
    let approval = world.ask().await;
    world.approve_by(member("eve", &["on-call"], "CastVote"), approval).await.unwrap();
    assert_eq!(world.state(approval).await, ApprovalState::Approved);
}

#[tokio::test]
async fn the_groups_of_a_session_are_those_of_its_principals_own_credential() {
    let mut world = world(&[READERS, LOG]).await;
    world.change("service:sync", &[put("Group::\"readers\"", json!({}))]).await.unwrap();
    let query = async |world: &World<_>| world.decide("query", "docs", None).await.unwrap();
    assert!(matches!(query(&world).await.verdict, Verdict::Deny { .. }), "the session was opened without");
    let bot = member("agent:bot", &["readers"], "OpenSession");
    // Whom a gateway only names has none, whatever the gateway has.
    let named = Acting::Named(entity("Agent::\"bot\""));
    world.session = world.open_by(&member("service:gate", &["readers"], "OpenSession"), named).await.unwrap();
    assert!(matches!(query(&world).await.verdict, Verdict::Deny { .. }));
    // Presented, it is as good as the bearer's own call.
    for (caller, acting) in
        [(bot.clone(), Acting::Caller), (call("service:gate", "OpenSession"), Acting::Credential(bot.credential))]
    {
        world.session = world.open_by(&caller, acting).await.unwrap();
        let decision = query(&world).await;
        minted(&decision);
        world.engine.redeem(&call("service:gate", "Redeem"), &world.redeem(&decision)).await.unwrap();
    }
    world.clock.advance(4 * MINUTE);
    let unspent = query(&world).await;
    let opened = world.log("session_opened").await;
    assert_eq!(opened.last().unwrap()["session"]["claimed"]["until"], START.plus(5 * MINUTE).millis());
    world.clock.advance(MINUTE);
    assert!(matches!(query(&world).await.verdict, Verdict::Deny { .. }));
    let refused = world.engine.redeem(&call("service:gate", "Redeem"), &world.redeem(&unspent)).await;
    assert!(matches!(refused, Err(Error::PolicyDenied(_))), "{refused:?}");
}

#[tokio::test]
async fn a_record_says_which_claimed_groups_decided_and_is_decided_again_with_them() {
    let mut world = world(&[READERS, LOG]).await;
    world.change("service:sync", &[put("Group::\"readers\"", json!({}))]).await.unwrap();
    world.session = world.open_by(&member("agent:bot", &["readers"], "OpenSession"), Acting::Caller).await.unwrap();
    minted(&world.decide("query", "docs", None).await.unwrap());
    world.clock.advance(5 * MINUTE);
    world.decide("query", "docs", None).await.unwrap();
    let [with, without] = &world.log("decision").await[..] else { panic!("two decisions") };
    assert_eq!(with["context"]["claimed"], json!([{ "type": "Group", "id": "readers" }]));
    assert_eq!(without["context"].get("claimed"), None);

    let mut changed = files();
    changed.insert("policies/work.cedar".to_owned(), WORK.replace(READERS.1, READERS.2));
    let bundle = Bundle::load(source(changed)).unwrap();
    let mut entities = Entities::default();
    let all = [agent("bot", "olivia"), dataset("docs", "public"), put("Group::\"readers\"", json!({}))];
    for EntityChange { entity, data, .. } in all {
        entities.insert(bundle.check_entity(&entity, &data.unwrap()).unwrap(), 1);
    }
    for record in [with, without] {
        let recorded = RecordedDecision::read(record.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!(bundle.with(&entities, None).replay(&recorded), Replayed::Same, "{record}");
    }
}

#[tokio::test]
async fn a_claimed_group_permits_administration_while_it_lasts_and_binds_its_bearer() {
    let world = world(&[LOG]).await;
    let admin = || member("eve", &["admins"], "ChangeEntities");
    let change =
        async |call: Call, change: EntityChange| world.engine.change_entities(&call, &[change]).await.map(drop);
    let denied = |result| assert!(matches!(result, Err(Error::AdministrationDenied { .. })), "{result:?}");
    denied(change(call("eve", "ChangeEntities"), dataset("logs", "public")).await);
    change(admin(), dataset("logs", "public")).await.unwrap();
    world.engine.records(&member("eve", &["admins"], "ListRecords"), 0, 1).await.unwrap();
    // It is a group of theirs, however they came to be in it.
    let own = change(admin(), put("Group::\"admins\"", json!({}))).await;
    assert!(matches!(own, Err(Error::OwnEntity(_))), "{own:?}");
    change(admin(), put("Group::\"owners\"", json!({}))).await.unwrap();
    world.clock.advance(5 * MINUTE);
    denied(change(admin(), dataset("logs", "secret")).await);
}

#[tokio::test]
async fn the_owner_named_by_a_claim_cannot_approve() {
    let mut world = world(&[LOG]).await;
    world.session = world.open_by(&owned("dana", "OpenSession"), Acting::Caller).await.unwrap();
    // Asked by a credential that does not say so any more: the session remembers.
    let approval = world.ask().await;
    excluded(world.vote("dana", approval).await);
    excluded(world.approve_by(call("olivia", "CastVote"), approval).await);
    world.vote("dave", approval).await.unwrap();
    world.redeem_export(&world.decide("export", "docs", Some(approval)).await.unwrap()).await.unwrap();
    let opened = world.log("session_opened").await;
    let dana = json!({ "type": "Person", "id": "dana" });
    let last = opened.last().unwrap();
    assert_eq!((&last["caller"]["owner"], &last["session"]["owner"]), (&dana, &dana));
}

#[tokio::test]
async fn an_owner_who_is_claimed_when_something_is_asked_or_decided_counts_there() {
    let world = world(&[]).await;
    let ask = Ask {
        session: world.session,
        operation: operation("export", "docs"),
        audience: "gate".to_owned(),
        acting: Acting::Caller,
        justification: "because".to_owned(),
    };
    // The session was opened without. Presented by the gate, it says the same as at the wire.
    let presented = Ask { acting: Acting::Credential(owned("dana", "x").credential), ..ask.clone() };
    let (approval, _) = world.engine.ask(&call("service:gate", "RequestApproval"), &presented).await.unwrap().answer;
    excluded(world.vote("dana", approval).await);
    world.vote("dave", approval).await.unwrap();
    let decide = Decide {
        session: world.session,
        operation: operation("export", "docs"),
        audience: "gate".to_owned(),
        acting: Acting::Caller,
        approval: Some(approval),
        mint: true,
        holder: None,
        open: false,
        entity_revision: None,
    };
    // By now another one is answerable, whose vote counts for nothing then.
    let decision = world.engine.decide(&owned("dave", "Decide"), &decide).await.unwrap().answer;
    assert!(matches!(decision.verdict, Verdict::NeedsApproval { .. }), "{decision:?}");
}

#[tokio::test]
async fn an_owner_that_nobody_knows_refuses_the_credential() {
    let world = world(&[]).await;
    for nobody in ["mallory", "Dana", "dana "] {
        let refused = world.open_by(&owned(nobody, "OpenSession"), Acting::Caller).await;
        assert!(matches!(refused, Err(Error::OwnerUnknown(_))), "{refused:?}");
        let presented = Acting::Credential(owned(nobody, "x").credential);
        let refused = world.open_by(&call("service:gate", "OpenSession"), presented).await;
        assert!(matches!(refused, Err(Error::OwnerUnknown(_))), "{refused:?}");
    }
    // A person answers for themselves.
    let eve = claims(call("eve", "GetSession"), &[], Some("mallory"), MINUTE);
    assert!(world.engine.require_known(&eve).is_ok());
    // Whoever takes the account from its person takes the credential with it.
    let owned = owned("dana", "GetSession");
    assert!(world.engine.require_known(&owned).is_ok());
    world.change("service:sync", &[gone("Person::\"dana\"")]).await.unwrap();
    assert!(matches!(world.engine.require_known(&owned), Err(Error::OwnerUnknown(_))));
}

#[tokio::test]
async fn a_service_does_not_change_the_owner_that_its_credential_names() {
    let world = world(&[]).await;
    let sync = claims(call("service:sync", "ChangeEntities"), &[], Some("dana"), 60 * MINUTE);
    let refused = world.engine.change_entities(&sync, &[person("dana", &["owners", "admins"])]).await;
    assert!(matches!(refused, Err(Error::OwnEntity(_))), "{refused:?}");
}

#[tokio::test]
async fn a_lift_by_a_claimed_group_counts_while_its_credential_lasts() {
    let world = world(&[("policies/work.cedar", "@id(\"asks\")", "@id(\"asks\") @cooldown(\"1h\")")]).await;
    let approval = world.ask().await;
    world.say_by(member("eve", &["owners"], "CastVote"), approval, Says::Deny).await.unwrap();
    let lift = async |call: Call| world.engine.lift(&call, approval).await.map(drop);
    let frank = |lasts| claims(call("frank", "LiftCoolDown"), &["owners"], None, lasts);
    lift(frank(5 * MINUTE)).await.unwrap();
    world.clock.advance(5 * MINUTE);
    lift(call("dave", "LiftCoolDown")).await.unwrap();
    let cooling = world.ask_with(operation("export", "docs")).await;
    assert!(matches!(cooling, Err(Error::Restraint(RestraintError::CoolingDown(..)))), "{cooling:?}");
    lift(frank(60 * MINUTE)).await.unwrap();
    assert_ne!(world.ask().await, approval);
}

#[tokio::test]
async fn what_a_credential_claims_is_not_kept_for_a_deny() {
    let world = world(&[]).await;
    let approval = world.ask().await;
    world.say_by(member("eve", &["owners"], "CastVote"), approval, Says::Deny).await.unwrap();
    let shown = world.engine.changed_approval(&call("dave", "GetApproval"), approval).await.unwrap();
    let votes: BTreeSet<bool> = shown.approval.value.votes().iter().map(|vote| vote.claimed.is_none()).collect();
    assert_eq!(votes, BTreeSet::from([true]));
    world.clock.advance(5 * MINUTE);
    assert!(matches!(world.state(approval).await, ApprovalState::Denied { .. }), "a no is a no");
}
