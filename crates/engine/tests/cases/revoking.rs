//! Revocation by every axis, what is told of it, and outcomes that nobody reported.

use std::time::Duration;

use countersign_core::Axis;
use countersign_core::approval::{ApprovalError, ApprovalState};
use countersign_core::capability::{CapabilityError, CapabilityState, Finding, Outcome};
use countersign_core::session::Session;
use countersign_engine::{Complete, Resolve, Told};
use futures::StreamExt as _;

use crate::*;

const REVOKING: &str = r#"
    @id("adam-stops") permit (principal == Person::"adam", action in [
        Action::"revoke", Action::"endSession", Action::"revokeAll", Action::"readRevocations", Action::"resolveOutcome"
    ], resource);
    @id("olivia-would-resolve") permit (principal == Person::"olivia", action == Action::"resolveOutcome", resource);
"#;

fn revoking() -> BTreeMap<String, String> {
    let mut files = files();
    files.insert("admin/revoking.cedar".to_owned(), REVOKING.to_owned());
    files
}

async fn world() -> World<MemoryKernel> {
    World::with(Arc::new(MemoryKernel::default()), parts(), revoking()).await
}

fn bot() -> EntityRef {
    entity("Agent::\"bot\"")
}

impl<K: Kernel> World<K> {
    async fn revoke_all(&self, who: &str, axis: &Axis) -> Result<u64, Error> {
        let call = call(who, "RevokeAll");
        self.engine.revoke_all(&call, axis, "it is wrong").await.map(|revoked| revoked.answer.sequence)
    }

    async fn spends(&self, decision: &Decision) -> Result<(), Error> {
        self.engine.redeem(&call("service:gate", "Redeem"), &self.redeem(decision)).await.map(drop)
    }

    async fn open_as(&self, call: &Call) -> SessionId {
        let opening = OpenSession {
            purpose: "x".to_owned(),
            ttl: None,
            acting: Acting::Caller,
            operator: None,
            ..OpenSession::default()
        };
        self.engine.open_session(call, &opening).await.unwrap().answer.value.id
    }

    async fn mints_in(&self, call: Call, session: SessionId) -> Result<Decision, Error> {
        let decide = Decide {
            session,
            operation: operation("query", "docs"),
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            approval: None,
            mint: true,
            entity_revision: None,
            holder: None,
            open: false,
        };
        self.engine.decide(&call, &decide).await.map(|decision| decision.answer)
    }

    async fn approved(&self) -> ApprovalId {
        let approval = self.ask().await;
        self.vote("dana", approval).await.unwrap();
        approval
    }

    async fn became(&self, approval: ApprovalId) -> ApprovalState {
        self.engine.approval(&call("dana", "GetApproval"), approval).await.unwrap().state
    }

    async fn session_now(&self) -> Session {
        self.engine.session(&call("agent:bot", "GetSession"), self.session).await.unwrap().value
    }
}

#[tokio::test]
async fn what_was_minted_before_is_dead_by_every_axis_and_what_is_decided_afterwards_is_not() {
    let found = world().await;
    let bundle = found.engine.active().unwrap().bundle.digest();
    for axis in [Axis::Principal(bot()), Axis::Everything, Axis::Bundle(bundle), Axis::Session(found.session)] {
        let mut world = world().await;
        let axis = if matches!(axis, Axis::Session(_)) { Axis::Session(world.session) } else { axis };
        let minted = world.decide("query", "docs", None).await.unwrap();
        world.revoke_all("adam", &axis).await.unwrap();
        let refused = world.spends(&minted).await;
        assert!(refused.is_err(), "{axis}: {refused:?}");
        let in_it = world.decide("query", "docs", None).await;
        if matches!(axis, Axis::Bundle(_)) {
            // Sessions are not of a bundle. At the same millisecond, and good.
            world.spends(&in_it.unwrap()).await.unwrap();
        } else {
            assert!(matches!(in_it, Err(Error::SessionOver(_))), "{axis}: {in_it:?}");
            assert!(world.session_now().await.require_open(START).is_err(), "{axis}");
        }
        world.session = world.open_as(&call("agent:bot", "OpenSession")).await;
        let again = world.decide("query", "docs", None).await.unwrap();
        world.spends(&again).await.unwrap();
        // The same once more ends that one, too.
        let last = world.decide("query", "docs", None).await.unwrap();
        let axis = if matches!(axis, Axis::Session(_)) { Axis::Session(world.session) } else { axis };
        world.revoke_all("adam", &axis).await.unwrap();
        assert!(world.spends(&last).await.is_err(), "{axis}");
    }
}

#[tokio::test]
async fn an_operator_takes_back_what_is_done_for_them_and_for_nobody_else() {
    let world = world().await;
    let mut bots = Vec::new();
    for operator in ["olivia", "dave"] {
        let session = world.open_as(&call_via(operator, &["agent:bot"], "OpenSession")).await;
        bots.push(world.mints_in(call_via(operator, &["agent:bot"], "Decide"), session).await.unwrap());
    }
    let own = world.decide("query", "docs", None).await.unwrap();
    let olivia = Axis::Operator(entity("Person::\"olivia\""));
    for stranger in ["dave", "agent:bot", "service:gate"] {
        let refused = world.revoke_all(stranger, &olivia).await;
        assert!(matches!(refused, Err(Error::AdministrationDenied { .. })), "{stranger}: {refused:?}");
    }
    world.revoke_all("olivia", &olivia).await.unwrap();
    assert!(matches!(world.spends(&bots[0]).await, Err(Error::SessionOver(_))));
    world.spends(&bots[1]).await.unwrap();
    world.spends(&own).await.unwrap();
}

#[tokio::test]
async fn an_approval_is_revoked_with_what_rests_on_it_pending_or_approved() {
    let world = world().await;
    let pending = world.ask().await;
    for stranger in ["dave", "service:gate"] {
        let refused = world.revoke_all(stranger, &Axis::Approval(pending)).await;
        assert!(matches!(refused, Err(Error::ApprovalNotFound)), "{stranger}: {refused:?}");
    }
    world.revoke_all("agent:bot", &Axis::Approval(pending)).await.unwrap();
    let late = world.vote("dana", pending).await;
    assert!(matches!(late, Err(Error::Approval(ApprovalError::State(_)))), "{late:?}");

    let approved = world.approved().await;
    let minted = world.decide("export", "docs", Some(approved)).await.unwrap();
    world.revoke_all("adam", &Axis::Approval(approved)).await.unwrap();
    let export = Redeem { operation: operation("export", "docs"), ..world.redeem(&minted) };
    let refused = world.engine.redeem(&call("service:gate", "Redeem"), &export).await;
    assert!(matches!(refused, Err(Error::ApprovalGone("void"))), "{refused:?}");
    assert!(world.decide("export", "docs", Some(approved)).await.is_err());
    let again = world.revoke_all("adam", &Axis::Approval(approved)).await;
    assert!(matches!(again, Err(Error::Approval(_))), "{again:?}");
}

#[tokio::test]
async fn what_a_bundle_asked_is_asked_anew_when_it_was_revoked() {
    let world = world().await;
    let (pending, bundle) = (world.ask().await, world.engine.active().unwrap().bundle.digest());
    world.revoke_all("adam", &Axis::Bundle(bundle)).await.unwrap();
    assert!(matches!(world.became(pending).await, ApprovalState::Void { .. }));
    assert!(world.vote("dana", pending).await.is_err());
    let anew = world.approved().await;
    assert_ne!(anew, pending);
    let allowed = world.decide("export", "docs", Some(anew)).await.unwrap();
    assert!(matches!(allowed.verdict, Verdict::Allow { .. }), "{allowed:?}");
    // Whoever looks after requests writes it down and tells people, once.
    world.engine.reconsider(pending).await.unwrap();
    let size = world.kernel().log_size(world.engine.tenant()).await.unwrap();
    world.engine.reconsider(pending).await.unwrap();
    assert_eq!(world.kernel().log_size(world.engine.tenant()).await.unwrap(), size);
    let unknown = world.revoke_all("adam", &Axis::Bundle(Digest::of(b"nothing"))).await;
    assert!(matches!(unknown, Err(Error::BundleNotFound(_))), "{unknown:?}");
}

#[tokio::test]
async fn questions_die_with_the_sessions_that_are_revoked() {
    let world = world().await;
    let approved = world.approved().await;
    world.revoke_all("adam", &Axis::Everything).await.unwrap();
    assert!(matches!(world.became(approved).await, ApprovalState::Void { .. }));
    assert!(world.decide("export", "docs", Some(approved)).await.is_err());
    let wanted = countersign_engine::Wanted::Live;
    let live = world.engine.live_approvals(&call("dana", "ListApprovals"), None, 10, wanted).await.unwrap();
    assert!(live.items.is_empty());
}

#[tokio::test]
async fn whoever_watches_a_question_is_told_when_it_is_cut_off() {
    for of_the_bundle in [false, true] {
        let world = world().await;
        let asked = world.ask().await;
        let watch = Arc::clone(&world.engine).watch_approvals(call("dana", "WatchApprovals"), Some(asked), None);
        let mut watch = Box::pin(watch);
        assert_eq!(watch.next().await.unwrap().unwrap().view.state, ApprovalState::Pending);
        let bundle = world.engine.active().unwrap().bundle.digest();
        let axis = if of_the_bundle { Axis::Bundle(bundle) } else { Axis::Operator(entity("Person::\"olivia\"")) };
        // What is done for olivia is not this; what the bot does is.
        if !of_the_bundle {
            world.revoke_all("adam", &axis).await.unwrap();
            assert_eq!(world.became(asked).await, ApprovalState::Pending);
        }
        let axis = if of_the_bundle { axis } else { Axis::Principal(bot()) };
        // Whoever looks after live requests tells.
        let looking = Arc::clone(&world.engine);
        let looking = tokio::spawn(async move { looking.follow_conditions().await });
        world.revoke_all("adam", &axis).await.unwrap();
        let told = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("to be told");
        assert!(matches!(told.unwrap().unwrap().view.state, ApprovalState::Void { .. }), "{axis}");
        looking.abort();
    }
}

#[tokio::test]
async fn wide_axes_are_denied_by_default_and_ones_own_needs_no_permission_but_not_without_end() {
    let world = world().await;
    let bundle = world.engine.active().unwrap().bundle.digest();
    for who in ["dana", "olivia", "agent:bot", "service:sync"] {
        for axis in [Axis::Everything, Axis::Bundle(bundle), Axis::Principal(entity("Service::\"gate\""))] {
            let refused = world.revoke_all(who, &axis).await;
            assert!(matches!(refused, Err(Error::AdministrationDenied { .. })), "{who}: {axis}: {refused:?}");
        }
    }
    // Acting for somebody, an agent does not take away what it does for others.
    let other = call_via("dave", &["agent:bot"], "RevokeAll");
    let refused = world.engine.revoke_all(&other, &Axis::Principal(bot()), "x").await;
    assert!(matches!(refused, Err(Error::AdministrationDenied { .. })), "{refused:?}");
    for _ in 0..6 {
        world.revoke_all("agent:bot", &Axis::Principal(bot())).await.unwrap();
    }
    let often = world.revoke_all("agent:bot", &Axis::Principal(bot())).await;
    assert!(matches!(often, Err(Error::LimitReached(_))), "{often:?}");
    world.revoke_all("adam", &Axis::Principal(bot())).await.unwrap();
    let bad = world.revoke_all("adam", &Axis::Principal(entity("Dataset::\"docs\""))).await;
    assert!(matches!(bad, Err(Error::InvalidField { .. })), "{bad:?}");
}

#[tokio::test]
async fn a_revocation_is_answered_again_under_its_request_id_and_reaches_no_further() {
    let mut world = world().await;
    let call_once = call("adam", "RevokeAll");
    let first = world.engine.revoke_all(&call_once, &Axis::Everything, "x").await.unwrap();
    world.session = world.open_as(&call("agent:bot", "OpenSession")).await;
    let minted = world.decide("query", "docs", None).await.unwrap();
    let second = world.engine.revoke_all(&call_once, &Axis::Everything, "x").await.unwrap();
    assert_eq!((first.replayed, second.replayed), (false, true));
    assert_eq!(first.answer, second.answer);
    world.spends(&minted).await.unwrap();
}

#[tokio::test]
async fn revocations_outlive_a_restart_and_a_new_bundle() {
    let kernel = Arc::new(MemoryKernel::default());
    let world = World::with(Arc::clone(&kernel), parts(), revoking()).await;
    let minted = world.decide("query", "docs", None).await.unwrap();
    world.revoke_all("adam", &Axis::Principal(bot())).await.unwrap();
    let mut next = revoking();
    let manifest = next.get_mut("bundle.toml").unwrap();
    *manifest = manifest.replace("revision = 1", "revision = 2");
    world.engine.activate(source(next), RevisionRule::NotLower).await.unwrap();
    assert!(world.spends(&minted).await.is_err());
    let again = Engine::open(kernel, Box::new(Arc::clone(&world.clock)), parts()).await.unwrap();
    let refused = again.redeem(&call("service:gate", "Redeem"), &world.redeem(&minted)).await;
    assert!(matches!(refused, Err(Error::SessionOver(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_redeem_commits_after_a_revocation_by_any_axis_is_acknowledged() {
    for round in 0..12 {
        let world = Arc::new(world().await);
        let mut decisions = Vec::new();
        for _ in 0..40 {
            decisions.push(world.decide("query", "docs", None).await.unwrap());
        }
        let axis = match round % 4 {
            0 => Axis::Principal(bot()),
            1 => Axis::Everything,
            2 => Axis::Bundle(world.engine.active().unwrap().bundle.digest()),
            _ => Axis::Session(world.session),
        };
        let last = decisions.pop().unwrap();
        let racing = decisions.into_iter().map(|decision| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.spends(&decision).await.is_ok() })
        });
        let racing: Vec<_> = racing.collect();
        tokio::task::yield_now().await;
        world.revoke_all("adam", &axis).await.unwrap();
        assert!(world.spends(&last).await.is_err(), "{axis}");
        let mut redeemed = 0;
        for race in racing {
            redeemed += usize::from(race.await.unwrap());
        }
        let records = world.kernel().log_entries(world.engine.tenant(), 0, 1_000).await.unwrap();
        let kinds: Vec<String> = records
            .iter()
            .map(|(_, bytes)| serde_json::from_slice::<Json>(bytes).unwrap()["kind"].as_str().unwrap().to_owned())
            .collect();
        let revoked = kinds.iter().position(|kind| kind == "revocation").unwrap();
        assert!(!kinds[revoked..].iter().any(|kind| kind == "redeem"), "{axis}: {kinds:?}");
        assert_eq!(kinds.iter().filter(|kind| *kind == "redeem").count(), redeemed, "{axis}");
    }
}

async fn next(stream: &mut (impl futures::Stream<Item = Result<Told, Error>> + Unpin)) -> Told {
    let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
    next.expect("a message").expect("a stream").unwrap()
}

/// The next revocation, whatever signs of life there are.
async fn tiding(stream: &mut (impl futures::Stream<Item = Result<Told, Error>> + Unpin)) -> (Axis, Told) {
    loop {
        let told = next(stream).await;
        if let Some(tiding) = &told.tiding {
            return (tiding.revocation.axis.clone(), told);
        }
    }
}

#[tokio::test]
async fn every_revocation_is_told_in_order_and_again_from_where_a_watch_was() {
    let kernel = Arc::new(MemoryKernel::default());
    let world = World::with(Arc::clone(&kernel), parts(), revoking()).await;
    let watch = |world: &World<MemoryKernel>, resume| {
        Box::pin(Arc::clone(&world.engine).watch_revocations(call("adam", "WatchRevocations"), resume))
    };
    let before = world.decide("query", "docs", None).await.unwrap();
    world.engine.revoke(&call("agent:bot", "Revoke"), minted(&before), "before").await.unwrap();
    let mut stream = watch(&world, None);
    let begin = next(&mut stream).await;
    assert_eq!(begin.tiding, None, "from now on");

    let minted_now = world.decide("query", "docs", None).await.unwrap();
    world.engine.revoke(&call("agent:bot", "Revoke"), minted(&minted_now), "now").await.unwrap();
    let approved = world.approved().await;
    let at = world.revoke_all("adam", &Axis::Approval(approved)).await.unwrap();
    world.engine.end_session(&call("agent:bot", "EndSession"), world.session).await.unwrap();
    let everything = world.revoke_all("adam", &Axis::Everything).await.unwrap();
    let expected = [
        Axis::Capability(minted(&minted_now)),
        Axis::Approval(approved),
        Axis::Session(world.session),
        Axis::Everything,
    ];
    let mut tokens = vec![begin.resume];
    for (number, axis) in expected.iter().enumerate() {
        let (found, told) = tiding(&mut stream).await;
        assert_eq!(found, *axis);
        let sequence = told.tiding.as_ref().unwrap().sequence;
        assert!(told.complete_through < sequence, "another of the same commit may follow");
        match number {
            1 => assert_eq!(sequence, at),
            3 => assert_eq!(sequence, everything),
            _ => {}
        }
        tokens.push(told.resume);
    }
    // Soon after it is said that this was all.
    let confirmed = next(&mut stream).await;
    assert_eq!((confirmed.tiding, confirmed.complete_through), (None, everything));
    drop(stream);

    for (number, token) in tokens.into_iter().enumerate() {
        let text = token.to_string();
        let mut resumed = watch(&world, Some(text.parse().unwrap()));
        // The last that was told comes again: nobody said that it was all of its commit.
        let (found, _) = tiding(&mut resumed).await;
        assert_eq!(found, expected[number.saturating_sub(1)]);
    }
    // A new process continues.
    let engine = Arc::new(Engine::open(kernel, Box::new(Arc::clone(&world.clock)), parts()).await.unwrap());
    let mut resumed = Box::pin(engine.watch_revocations(call("adam", "WatchRevocations"), Some(begin.resume)));
    assert_eq!(tiding(&mut resumed).await.0, expected[0]);
}

#[tokio::test]
async fn whoever_comes_back_too_late_starts_over_and_strangers_are_told_nothing() {
    let world = world().await;
    let watch = |who: &str, resume| {
        Box::pin(Arc::clone(&world.engine).watch_revocations(call(who, "WatchRevocations"), resume))
    };
    let stranger = watch("dana", None).next().await.unwrap();
    assert!(matches!(stranger, Err(Error::AdministrationDenied { .. })), "{stranger:?}");
    let token = next(&mut watch("adam", None)).await.resume;
    world.revoke_all("adam", &Axis::Everything).await.unwrap();
    world.clock.advance(Duration::from_secs(3_599));
    assert_eq!(tiding(&mut watch("adam", Some(token))).await.0, Axis::Everything);
    assert_eq!(world.engine.tidy_revocations().await.unwrap(), 0);
    world.clock.advance(Duration::from_secs(1));
    let late = watch("adam", Some(token)).next().await.unwrap();
    assert!(matches!(late, Err(Error::RevocationsMissed)), "{late:?}");
    let other_life = token.to_string().replacen('1', "2", 1).parse().unwrap();
    let other = watch("adam", Some(other_life)).next().await.unwrap();
    assert!(matches!(other, Err(Error::RevocationsMissed)), "{other:?}");
    // What is told goes after a while; what was revoked stays so.
    world.clock.advance(Duration::from_secs(60));
    assert_eq!(world.engine.tidy_revocations().await.unwrap(), 1);
    assert!(matches!(world.decide("query", "docs", None).await, Err(Error::SessionOver(_))));
}

/// A watcher that is behind comes back as of when it was told last, and not as of when it was told.
#[tokio::test]
async fn whoever_is_told_late_comes_back_no_later_than_what_is_kept() {
    let world = world().await;
    let watch =
        |resume| Box::pin(Arc::clone(&world.engine).watch_revocations(call("adam", "WatchRevocations"), resume));
    let begin = next(&mut watch(None)).await.resume;
    world.revoke_all("adam", &Axis::Principal(bot())).await.unwrap();
    let revoked_at = world.engine.now().unwrap();
    world.clock.advance(Duration::from_secs(10 * 60));
    world.revoke_all("adam", &Axis::Everything).await.unwrap();
    world.clock.advance(Duration::from_secs(10 * 60));
    let mut behind = watch(Some(begin));
    let (_, told) = tiding(&mut behind).await;
    let told_at = |told: &Told| told.resume.to_string().rsplit('.').next().unwrap().parse::<i64>().unwrap();
    assert_eq!(told_at(&told), revoked_at.millis());
    assert_eq!(tiding(&mut behind).await.0, Axis::Everything);
    let caught_up = next(&mut behind).await;
    assert_eq!(told_at(&caught_up), world.engine.now().unwrap().millis());
}

impl<K: Kernel> World<K> {
    async fn unresolved(&self, who: &str) -> Vec<(TokenId, bool)> {
        let page = self.engine.unresolved(&call(who, "ListUnresolvedOutcomes"), None, 50).await.unwrap();
        page.items.iter().map(|item| (item.capability.value.grant.id, item.may_resolve)).collect()
    }

    async fn resolve(&self, who: &str, capability: TokenId) -> Result<(), Error> {
        let resolve = Resolve { capability, finding: Finding::NeverRan, note: "looked".to_owned() };
        self.engine.resolve(&call(who, "ResolveOutcome"), &resolve).await.map(drop)
    }

    async fn completes(&self, capability: TokenId) -> Result<(), Error> {
        let report = Complete { capability, outcome: Outcome::Succeeded, result: None };
        self.engine.complete(&call("service:gate", "Complete"), report).await.map(drop)
    }
}

#[tokio::test]
async fn an_outcome_that_nobody_reported_is_listed_and_resolved_by_somebody_who_does_not_stand_behind_it() {
    let world = world().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let decision = world.decide("query", "docs", None).await.unwrap();
        world.spends(&decision).await.unwrap();
        ids.push(minted(&decision));
        world.clock.advance(Duration::from_secs(1));
    }
    world.completes(ids[0]).await.unwrap();
    let early = world.resolve("adam", ids[1]).await;
    assert!(matches!(early, Err(Error::Capability(CapabilityError::StillRunning))), "{early:?}");
    assert_eq!(world.unresolved("adam").await, []);

    world.clock.advance(Duration::from_secs(898));
    assert_eq!(world.unresolved("adam").await, [(ids[1], true), (ids[2], true)], "those that are due");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(world.unresolved("agent:bot").await, [(ids[1], false), (ids[2], false), (ids[3], false)]);
    assert_eq!(world.unresolved("dana").await, []);
    assert_eq!(world.unresolved("olivia").await, [], "whoever owns the agent may not, and is no part of it");
    let page = world.engine.unresolved(&call("adam", "ListUnresolvedOutcomes"), None, 2).await.unwrap();
    let rest = world.engine.unresolved(&call("adam", "ListUnresolvedOutcomes"), page.next, 2).await.unwrap();
    assert_eq!(rest.items[0].capability.value.grant.id, ids[3]);
    assert!(rest.next.is_none());

    let own = world.resolve("olivia", ids[1]).await;
    assert!(matches!(own, Err(Error::Capability(CapabilityError::OwnOutcome(_)))), "{own:?}");
    let stranger = world.resolve("dana", ids[1]).await;
    assert!(matches!(stranger, Err(Error::AdministrationDenied { .. })), "{stranger:?}");
    let agent = world.resolve("agent:bot", ids[1]).await;
    assert!(matches!(agent, Err(Error::NotAPerson(_))), "{agent:?}");
    world.resolve("adam", ids[1]).await.unwrap();
    let resolved = world.engine.peek(ids[1]).await.unwrap().value;
    assert_eq!(resolved.state(world.engine.now().unwrap()), CapabilityState::Resolved(Finding::NeverRan));
    let late = world.completes(ids[1]).await;
    assert!(matches!(late, Err(Error::Capability(CapabilityError::AlreadyResolved(_)))), "{late:?}");
    // A late truth is taken as long as nobody resolved it.
    world.completes(ids[2]).await.unwrap();
    let told = world.resolve("adam", ids[2]).await;
    assert!(matches!(told, Err(Error::Capability(CapabilityError::AlreadyCompleted))), "{told:?}");
    assert_eq!(world.unresolved("adam").await, [(ids[3], true)]);
}

/// A session is kept for days after its deadline, and an unknown outcome for a month.
#[tokio::test]
async fn an_outcome_is_resolved_when_its_session_is_long_gone_and_by_nobody_who_stood_behind_it() {
    let world = world().await;
    let decision = world.decide("query", "docs", None).await.unwrap();
    world.spends(&decision).await.unwrap();
    let id = minted(&decision);
    world.clock.advance(Duration::from_secs(5 * 24 * 60 * 60));
    while world.engine.tidy().await.unwrap() > 0 {}
    let session = world.engine.session(&call("agent:bot", "GetSession"), world.session).await;
    assert!(matches!(session, Err(Error::SessionNotFound)), "{session:?}");
    // The owner is another one by now. Who was answerable when it ran still is.
    world.change("service:sync", &[person("sue", &["admins"]), agent("bot", "sue")]).await.unwrap();
    assert_eq!(world.unresolved("adam").await, [(id, true)]);
    for who in ["olivia", "sue"] {
        let own = world.resolve(who, id).await;
        assert!(matches!(own, Err(Error::Capability(CapabilityError::OwnOutcome(_)))), "{who}: {own:?}");
    }
    world.resolve("adam", id).await.unwrap();
}
