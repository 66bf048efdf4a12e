//! What stays of what was done: labels and counters, and what others are shown and asked because of them.

mod chains;

use std::time::Duration;

use countersign_core::approval::{ApprovalError, ApprovalState, Changed, VoidCause};
use countersign_core::capability::Outcome;
use countersign_core::ledger::Standing;
use countersign_engine::{Complete, Seen};
use futures::StreamExt as _;

use crate::*;

const KEPT: &str = r#"
[labels]
pii = "30d"
[counters.exports]
operations = ["export"]
[counters.rows]
operations = ["bulk"]
sum = "rows"
"#;
const KEEPING: &str = r#"
    entity Dataset = { classification: String, labels?: Set<String> };
    action query, export, send, merge appliesTo { principal: [Agent, Person], resource: [Dataset] };
    action bulk appliesTo { principal: [Agent, Person], resource: [Dataset], context: { input: { rows: Long } } };
"#;
const POLICIES: &str = r#"
    @id("work") permit (principal, action, resource is Dataset);
    @id("budget") forbid (principal, action == Action::"export", resource) when { context.session.counters.exports >= 5 };
    @id("rows") forbid (principal, action == Action::"bulk", resource) when { context.session.counters.rows + context.input.rows > 100 };
    @id("clean-hands") forbid (principal, action == Action::"send", resource) when { context.session.labels.contains("pii") };
    @id("asks") forbid (principal, action == Action::"merge", resource)
    unless { context has approval && context.approval.rules.contains("asks") };
    @id("one-by-one") forbid (principal, action == Action::"merge", resource) when { context.session.unresolved > 0 };
"#;
const CLEANING: &str = r#"
    @id("owner-cleans") permit (principal == Person::"olivia", action == Action::"startClean", resource);
"#;

pub(crate) async fn world() -> World<MemoryKernel> {
    let mut files = files();
    for (path, more) in [("bundle.toml", KEPT), ("admin/admin.cedar", CLEANING)] {
        files.get_mut(path).unwrap().push_str(more);
    }
    files.insert("schema.cedarschema".to_owned(), KEEPING.to_owned());
    files.insert("policies/work.cedar".to_owned(), POLICIES.to_owned());
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    let labelled = json!({ "attrs": { "classification": "internal", "labels": ["pii"] } });
    let people = put("Dataset::\"people\"", labelled);
    world.change("service:sync", &[people, agent("aide", "olivia")]).await.unwrap();
    world
}

impl World<MemoryKernel> {
    /// Without a capability: what is allowed is done.
    pub(crate) async fn does(&self, who: (&str, &[&str]), session: SessionId, name: &str, resource: &str) -> Decision {
        self.tries(who, session, &operation(name, resource), false).await.unwrap()
    }

    pub(crate) async fn tries(
        &self,
        who: (&str, &[&str]),
        session: SessionId,
        operation: &Operation,
        mint: bool,
    ) -> Result<Decision, Error> {
        let decide = Decide {
            session,
            operation: operation.clone(),
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            approval: None,
            mint,
            entity_revision: None,
            holder: None,
            open: false,
        };
        self.engine.decide(&call_via(who.0, who.1, "Decide"), &decide).await.map(|decision| decision.answer)
    }

    async fn opens(&self, who: (&str, &[&str])) -> SessionId {
        let opening = OpenSession { purpose: "x".to_owned(), ..OpenSession::default() };
        self.engine.open_session(&call_via(who.0, who.1, "OpenSession"), &opening).await.unwrap().answer.value.id
    }

    async fn redeems(&self, name: &str, resource: &str, decision: &Decision) -> Result<(), Error> {
        let redeem = Redeem { operation: operation(name, resource), ..self.redeem(decision) };
        self.engine.redeem(&call("agent:bot", "Redeem"), &redeem).await.map(drop)
    }

    pub(crate) async fn standing(&self) -> Standing {
        let session = self.engine.session(&call("agent:bot", "GetSession"), self.session).await.unwrap();
        self.engine.standing(&session.value).await.unwrap().unwrap()
    }
}

const BOT: (&str, &[&str]) = ("agent:bot", &[]);

pub(crate) fn denied(decision: &Decision) -> bool {
    matches!(decision.verdict, Verdict::Deny { .. })
}

pub(crate) fn allowed(decision: &Decision) -> bool {
    matches!(decision.verdict, Verdict::Allow { .. })
}

#[tokio::test]
async fn the_fifth_of_five_is_redeemed_and_the_sixth_is_not_decided() {
    let world = world().await;
    let mut minted = Vec::new();
    for _ in 0..5 {
        minted.push(world.decide("export", "docs", None).await.unwrap());
    }
    assert!(denied(&world.decide("export", "docs", None).await.unwrap()));
    for decision in &minted {
        world.redeems("export", "docs", decision).await.unwrap();
    }
    assert_eq!(world.standing().await.counters["exports"], 5);
    assert!(denied(&world.does(BOT, world.session, "export", "docs").await));
}

#[tokio::test]
async fn however_many_ask_at_once_a_budget_is_spent_once() {
    let world = Arc::new(world().await);
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.decide("export", "docs", None).await })
        })
        .collect();
    let mut granted = 0;
    for asked in asked {
        // They take turns: none of them starts over until it gives up.
        granted += usize::from(allowed(&asked.await.unwrap().unwrap()));
    }
    assert_eq!((granted, world.standing().await.counters["exports"]), (5, 5));
}

#[tokio::test]
async fn what_nobody_redeemed_frees_its_budget_when_it_expires() {
    let world = world().await;
    for _ in 0..5 {
        world.decide("export", "docs", None).await.unwrap();
    }
    world.clock.advance(Limits::default().token_ttl);
    assert!(allowed(&world.decide("export", "docs", None).await.unwrap()));
}

#[tokio::test]
async fn what_was_read_follows_into_the_next_session() {
    let world = world().await;
    assert!(allowed(&world.does(BOT, world.session, "send", "docs").await));
    assert!(allowed(&world.does(BOT, world.session, "query", "people").await));
    assert!(denied(&world.does(BOT, world.session, "send", "docs").await));
    let next = world.opens(BOT).await;
    assert!(denied(&world.does(BOT, next, "send", "docs").await));
    // Somebody else has read nothing.
    let aide = ("agent:aide", &[][..]);
    let other = world.opens(aide).await;
    assert!(allowed(&world.does(aide, other, "send", "docs").await));
    world.clock.advance(Duration::from_secs(30 * 86_400 - 1));
    let later = world.opens(BOT).await;
    assert!(denied(&world.does(BOT, later, "send", "docs").await));
    // At most a sixteenth longer.
    world.clock.advance(Duration::from_secs(2 * 86_400));
    let later = world.opens(BOT).await;
    assert!(allowed(&world.does(BOT, later, "send", "docs").await));
}

#[tokio::test]
async fn what_was_read_follows_the_operator_to_other_agents_and_through_whoever_handed_it_on() {
    let world = world().await;
    // The aide acts for olivia, through the bot.
    let (both, aide) = (("olivia", &["agent:aide", "agent:bot"][..]), ("olivia", &["agent:aide"][..]));
    let session = world.opens(both).await;
    assert!(allowed(&world.does(both, session, "query", "people").await));
    for (who, why) in
        [(aide, "the operator"), (BOT, "the link between them"), (("agent:aide", &[][..]), "the principal")]
    {
        let next = world.opens(who).await;
        assert!(denied(&world.does(who, next, "send", "docs").await), "{why}");
    }
    let (dana, hers) = (("dana", &[][..]), world.opens(("dana", &[])).await);
    assert!(allowed(&world.does(dana, hers, "send", "docs").await));
}

#[tokio::test]
async fn a_capability_of_before_is_judged_by_the_labels_of_now() {
    let world = world().await;
    let decision = world.decide("send", "docs", None).await.unwrap();
    world.does(BOT, world.session, "query", "people").await;
    assert!(matches!(world.redeems("send", "docs", &decision).await, Err(Error::PolicyDenied(_))));
}

#[tokio::test]
async fn a_session_starts_clean_only_if_a_policy_says_so_and_counts_what_was_left_since() {
    let world = world().await;
    world.does(BOT, world.session, "query", "people").await;
    let clean = |acting| OpenSession { purpose: "x".to_owned(), clean: true, acting, ..OpenSession::default() };
    let own = world.engine.open_session(&call("agent:bot", "OpenSession"), &clean(Acting::Caller)).await;
    assert!(matches!(own, Err(Error::AdministrationDenied { action: "startClean", .. })), "{own:?}");
    let bot = Acting::Named(entity("Agent::\"bot\""));
    world.clock.advance(Duration::from_secs(1));
    let opened = world.engine.open_session(&call("olivia", "OpenSession"), &clean(bot)).await.unwrap();
    let session = opened.answer.value.id;
    assert!(allowed(&world.does(BOT, session, "send", "docs").await));
    world.clock.advance(Duration::from_secs(1));
    // What another session reads now, this one may know of.
    world.does(BOT, world.session, "query", "people").await;
    assert!(denied(&world.does(BOT, session, "send", "docs").await));
}

#[tokio::test]
async fn an_outcome_that_nobody_reported_holds_the_next_action_back() {
    let world = world().await;
    let approval = world.ask_with(operation("merge", "docs")).await.unwrap();
    world.vote("dana", approval).await.unwrap();
    let running = world.decide("query", "docs", None).await.unwrap();
    world.redeems("query", "docs", &running).await.unwrap();
    assert_eq!(world.standing().await.unresolved, 1);
    assert!(denied(&world.decide("merge", "docs", Some(approval)).await.unwrap()));
    let report = Complete { capability: minted(&running), outcome: Outcome::Succeeded, result: None };
    world.engine.complete(&call("agent:bot", "Complete"), report).await.unwrap();
    assert!(allowed(&world.decide("merge", "docs", Some(approval)).await.unwrap()));
}

#[tokio::test]
async fn a_budget_that_is_full_for_now_ends_no_question() {
    let world = world().await;
    let approval = world.ask_with(operation("merge", "docs")).await.unwrap();
    world.vote("dana", approval).await.unwrap();
    let running = world.decide("query", "docs", None).await.unwrap();
    let follow = async {
        world.redeems("query", "docs", &running).await.unwrap();
        // Nothing may be merged now, and whoever looks at the request again finds it as good as it was.
        assert!(denied(&world.decide("merge", "docs", Some(approval)).await.unwrap()));
        for _ in 0..3 {
            assert!(matches!(world.engine.reconsider(approval).await, Ok(countersign_engine::Reconsidered::Good(_))));
        }
        let report = Complete { capability: minted(&running), outcome: Outcome::Succeeded, result: None };
        world.engine.complete(&call("agent:bot", "Complete"), report).await.unwrap();
        assert!(allowed(&world.decide("merge", "docs", Some(approval)).await.unwrap()));
    };
    tokio::select! {
        () = follow => {}
        ended = world.engine.follow_conditions() => panic!("{ended:?}"),
    }
}

#[tokio::test]
async fn a_capability_that_is_revoked_frees_its_budget() {
    let world = world().await;
    let mut last = None;
    for _ in 0..5 {
        last = Some(world.decide("export", "docs", None).await.unwrap());
    }
    assert!(denied(&world.decide("export", "docs", None).await.unwrap()));
    world.engine.revoke(&call("agent:bot", "Revoke"), minted(&last.unwrap()), "not needed").await.unwrap();
    assert!(allowed(&world.decide("export", "docs", None).await.unwrap()));
}

#[tokio::test]
async fn a_stored_entity_has_no_label_that_is_not_declared() {
    let world = world().await;
    let odd = put("Dataset::\"odd\"", json!({ "attrs": { "classification": "x", "labels": ["piii"] } }));
    let refused = world.change("service:sync", &[odd]).await.unwrap_err();
    assert!(refused.to_string().contains("`piii` is not declared"), "{refused}");
}

#[tokio::test]
async fn a_question_is_void_when_the_session_has_labels_that_nobody_was_shown() {
    for approved in [false, true] {
        let world = world().await;
        let approval = world.ask_with(operation("merge", "docs")).await.unwrap();
        if approved {
            world.vote("dana", approval).await.unwrap();
        }
        world.does(BOT, world.session, "query", "people").await;
        // Nobody has followed that yet, and it counts for nothing all the same.
        let stale = world.vote("dave", approval).await;
        let stale = stale.is_err_and(|error| matches!(error, Error::Approval(ApprovalError::StaleView)));
        assert!(stale, "approved: {approved}");
        let again = world.decide("merge", "docs", Some(approval)).await.unwrap();
        assert!(matches!(again.verdict, Verdict::NeedsApproval { .. }), "{again:?}");
        let engine = Arc::clone(&world.engine);
        let mut waiting = Box::pin(engine.watch_approvals(call("agent:bot", "WatchApprovals"), Some(approval), None));
        let labels = VoidCause::ConditionsChanged { changed: Some(Changed::Labels) };
        let void = ApprovalState::Void { why: labels };
        let told = async { while waiting.next().await.unwrap().unwrap().view.state != void {} };
        tokio::select! {
            () = told => {}
            ended = world.engine.follow_conditions() => panic!("{ended:?}"),
        }
    }
}

#[tokio::test]
async fn whoever_follows_requests_learns_of_labels_that_come_while_one_waits() {
    let world = world().await;
    let approval = world.ask_with(operation("merge", "docs")).await.unwrap();
    let engine = Arc::clone(&world.engine);
    let mut waiting = Box::pin(engine.watch_approvals(call("agent:bot", "WatchApprovals"), Some(approval), None));
    let told = async {
        let Some(Ok(Seen { view, .. })) = waiting.next().await else { panic!("nothing is told") };
        assert_eq!(view.state, ApprovalState::Pending);
        world.does(BOT, world.session, "query", "people").await;
        waiting.next().await.unwrap().unwrap().view.state
    };
    tokio::select! {
        state = told => assert_eq!(state.word(), "void"),
        ended = world.engine.follow_conditions() => panic!("{ended:?}"),
    }
    // Asked again, people see them.
    let again = world.ask_with(operation("merge", "docs")).await.unwrap();
    let shown = world.engine.changed_approval(&call("dana", "GetApproval"), again).await.unwrap().approval.value;
    assert_eq!(shown.labels, ["pii".to_owned()].into());
    world.vote("dana", again).await.unwrap();
    assert!(allowed(&world.decide("merge", "docs", Some(again)).await.unwrap()));
}

#[tokio::test]
async fn the_labels_of_what_is_asked_about_are_no_news_to_whoever_answered() {
    let world = world().await;
    let approval = world.ask_with(operation("merge", "people")).await.unwrap();
    world.vote("dana", approval).await.unwrap();
    world.does(BOT, world.session, "query", "people").await;
    assert!(allowed(&world.decide("merge", "people", Some(approval)).await.unwrap()));
}

#[tokio::test]
async fn every_asker_is_heard_and_whoever_voted_before_is_asked_again() {
    let world = world().await;
    let approval = world.ask_with(operation("merge", "docs")).await.unwrap();
    let shown = || async {
        world.engine.changed_approval(&call("dana", "GetApproval"), approval).await.unwrap().approval.value
    };
    let first = shown().await;
    let ask = |justification: &str| Ask {
        session: world.session,
        operation: operation("merge", "docs"),
        audience: "gate".to_owned(),
        acting: Acting::Named(entity("Agent::\"bot\"")),
        justification: justification.to_owned(),
    };
    let joined = world.engine.ask(&call("service:gate", "RequestApproval"), &ask("the gate says so")).await.unwrap();
    assert_eq!(joined.answer, (approval, true));
    let second = shown().await;
    assert_eq!(second.also_asked().len(), 1);
    assert_eq!(second.also_asked()[0].justification, "the gate says so");
    assert_ne!(first.view, second.view);
    // What was shown before is not what is asked now.
    let ballot = Ballot {
        approval,
        verdict: Says::Approve,
        digest: first.digest,
        view: first.view,
        comment: String::new(),
        signed: None,
    };
    let stale = world.engine.vote(&call("dana", "CastVote"), &ballot).await;
    assert!(matches!(stale, Err(Error::Approval(ApprovalError::StaleView))), "{stale:?}");
    // Nobody is heard twice.
    world.engine.ask(&call("service:gate", "RequestApproval"), &ask("the gate insists")).await.unwrap();
    world.ask_with(operation("merge", "docs")).await.unwrap();
    assert_eq!(shown().await.view, second.view);
    world.vote("dana", approval).await.unwrap();
    assert!(allowed(&world.decide("merge", "docs", Some(approval)).await.unwrap()));
}

#[tokio::test]
async fn what_says_nothing_any_more_is_tidied_away() {
    let world = world().await;
    world.does(BOT, world.session, "export", "people").await;
    let ledgers = || async {
        let prefix = countersign_store::Prefix::kind(&TenantId::new("acme").unwrap(), countersign_store::Kind::Ledger);
        world.kernel().scan(&prefix, None, 100).await.unwrap().rows.len()
    };
    assert_eq!(ledgers().await, 2);
    world.clock.advance(Duration::from_secs(3_600));
    world.engine.tidy().await.unwrap();
    assert_eq!(ledgers().await, 1);
    world.clock.advance(Duration::from_secs(32 * 86_400));
    world.engine.tidy().await.unwrap();
    assert_eq!(ledgers().await, 0);
}
