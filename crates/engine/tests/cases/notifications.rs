//! What is told of approval requests: written with the change, and delivered by couriers.

mod delivery;
mod letters;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use countersign_core::Value;
use countersign_core::time::ManualClock;
use countersign_core::{Notification, NotificationKind};
use countersign_engine::{BackOff, Consent, Courier, Sink, SinkSettings, Undelivered};
use countersign_store::Prefix;
use countersign_store::fail::{FailPoint, Fault};
use countersign_store::outbox::QueuedRow;
use countersign_store::repository::{Repository, stored};
use futures::future::BoxFuture;

use crate::*;

use countersign_core::NotificationKind::{Asked, Cancelled, Decided, Expired, Redeemed, Void, Voted, Withdrawn};

/// A sink that is told everything, and whose waits are not random.
fn settings(name: &str) -> SinkSettings {
    SinkSettings {
        name: name.to_owned(),
        events: BTreeSet::from(NotificationKind::ALL),
        timeout: Duration::from_secs(60),
        back_off: BackOff { first: Duration::from_secs(1), longest: Duration::from_secs(600), jitter: Arc::new(|| 0) },
        attempts: 5,
        max_age: Duration::from_secs(86_400),
        backlog: 1_000,
        dead_letters: 100,
        dead_letter_age: Duration::from_secs(14 * 86_400),
    }
}

fn telling(sinks: Vec<SinkSettings>) -> Parts {
    Parts { sinks, ..parts() }
}

/// The bundle of the tests, whose admins also look after notifications.
fn told_files() -> BTreeMap<String, String> {
    let mut files = files();
    // What becomes of one question is not to keep another from being asked.
    let work = files.get_mut("policies/work.cedar").unwrap();
    *work = work.replace("@id(\"asks\")", "@id(\"asks\") @cooldown(\"0m\")");
    files.get_mut("admin/admin.cedar").unwrap().push_str(
        r#"@id("looks-after") permit (principal in Group::"admins", action in [Action::"readLog", Action::"manageNotifications"], resource);"#,
    );
    files
}

struct Told {
    clock: Arc<ManualClock>,
    world: World<MemoryKernel>,
}

impl std::ops::Deref for Told {
    type Target = World<MemoryKernel>;
    fn deref(&self) -> &Self::Target {
        &self.world
    }
}

impl Told {
    async fn new(sinks: Vec<SinkSettings>) -> Self {
        let clock = Arc::new(ManualClock::new(START));
        let kernel = Arc::new(MemoryKernel::new(FailPoint::default()));
        let world = World::at(kernel, Arc::clone(&clock), telling(sinks), told_files()).await;
        Self { clock, world }
    }

    /// What a new process finds.
    async fn restarted(self, sinks: Vec<SinkSettings>) -> Self {
        let kernel = Arc::new(self.kernel().restart());
        let engine = Engine::open(Arc::clone(&kernel), Box::new(Arc::clone(&self.clock)), telling(sinks)).await;
        let (clock, session) = (Arc::clone(&self.clock), self.world.session);
        let world = World { kernel, engine: Arc::new(engine.unwrap()), clock, session };
        Self { clock: self.clock, world }
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// Asks about an export that nobody asked about before.
    async fn ask_about(&self, note: &str) -> ApprovalId {
        let mut export = operation("export", "docs");
        export.input.insert("note".to_owned(), Value::String(note.to_owned()));
        self.ask_with(export).await.unwrap()
    }

    async fn queued(&self, sink: &str) -> Vec<Notification> {
        let page = self.kernel().scan(&Prefix::queue(self.engine.tenant(), sink), None, 1_000).await.unwrap();
        page.rows.iter().map(|(key, row)| stored::<QueuedRow>(key, row).unwrap().value.notification).collect()
    }

    async fn kinds(&self, sink: &str) -> Vec<NotificationKind> {
        self.queued(sink).await.iter().map(|told| told.kind).collect()
    }

    /// Lets the ends be told until so many requests are left whose end is not.
    async fn tell_ends(&self, left: usize) {
        let looking = async {
            let endings = Prefix::endings(self.engine.tenant());
            while self.kernel().scan(&endings, None, 1_000).await.unwrap().rows.len() > left {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            looked = tokio::time::timeout(Duration::from_secs(60), looking) => looked.unwrap(),
            // Two at once, which must not tell anything twice.
            ended = self.engine.tell_ends() => panic!("{ended:?}"),
            ended = self.engine.tell_ends() => panic!("{ended:?}"),
        }
    }

    /// What is delivered to a sink that takes everything.
    async fn deliver(&self, name: &str) -> Vec<Notification> {
        let sink = FakeSink::default();
        let mut courier = self.engine.courier(name, sink.sink()).unwrap();
        while courier.step().await.unwrap().is_some() {}
        sink.taken()
    }
}

type Answer = Box<dyn Fn(&Notification) -> bool + Send>;

/// A sink that remembers what it was given, and takes what the test says.
#[derive(Clone, Default)]
struct FakeSink(Arc<Shared>);

#[derive(Default)]
struct Shared {
    taken: Mutex<Vec<Notification>>,
    tried: Mutex<Vec<Notification>>,
    refuses: Mutex<Option<Answer>>,
    hangs: Mutex<Option<Answer>>,
}

impl std::fmt::Debug for FakeSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeSink")
    }
}

impl FakeSink {
    fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(self.clone())
    }

    fn taken(&self) -> Vec<Notification> {
        self.0.taken.lock().unwrap().clone()
    }

    fn tried(&self) -> usize {
        self.0.tried.lock().unwrap().len()
    }

    fn refuse(&self, refuses: impl Fn(&Notification) -> bool + Send + 'static) {
        *self.0.refuses.lock().unwrap() = Some(Box::new(refuses));
    }

    fn hang(&self, hangs: impl Fn(&Notification) -> bool + Send + 'static) {
        *self.0.hangs.lock().unwrap() = Some(Box::new(hangs));
    }
}

impl Sink for FakeSink {
    fn deliver<'a>(&'a self, notification: &'a Notification) -> BoxFuture<'a, Result<(), Undelivered>> {
        Box::pin(async move {
            self.0.tried.lock().unwrap().push(notification.clone());
            let says = |answer: &Mutex<Option<Answer>>| {
                answer.lock().unwrap().as_ref().is_some_and(|answer| answer(notification))
            };
            if says(&self.0.hangs) {
                std::future::pending::<()>().await;
            }
            if says(&self.0.refuses) {
                return Err(Undelivered("answered 500".to_owned()));
            }
            self.0.taken.lock().unwrap().push(notification.clone());
            Ok(())
        })
    }
}

#[tokio::test]
async fn each_change_is_told_in_its_order_and_through_whom() {
    let told = Told::new(vec![settings("all")]).await;
    let approval = told.ask().await;
    told.vote("dana", approval).await.unwrap();
    let decision = told.decide("export", "docs", Some(approval)).await.unwrap();
    assert_eq!(told.kinds("all").await, [Asked, Voted, Decided], "minting changes no request");
    let redeem = Redeem { operation: operation("export", "docs"), ..told.redeem(&decision) };
    told.engine.redeem(&call("service:gate", "Redeem"), &redeem).await.unwrap();
    let all = told.queued("all").await;
    let through: Vec<_> =
        all.iter().map(|n| (n.kind, n.state.as_str(), n.by.as_ref().map(EntityRef::id), n.verdict)).collect();
    assert_eq!(
        through,
        [
            (Asked, "pending", Some("bot"), None),
            (Voted, "approved", Some("dana"), Some(Says::Approve)),
            (Decided, "approved", Some("dana"), None),
            (Redeemed, "redeemed", Some("gate"), None),
        ]
    );
    let ids: BTreeSet<_> = all.iter().map(|n| n.id).collect();
    assert_eq!(ids.len(), all.len());
    assert!(all.iter().all(|n| n.approval == Some(approval) && n.rules == ["asks"] && n.session == told.session));
}

#[tokio::test]
async fn every_way_to_end_is_told() {
    let told = Told::new(vec![settings("all")]).await;
    let ended = |id: ApprovalId| {
        let told = &told;
        async move {
            let all = told.queued("all").await;
            let of = all.into_iter().filter(|n| n.approval == Some(id));
            of.map(|n| (n.kind, n.state, n.cause.map(|cause| cause.word()))).collect::<Vec<_>>()
        }
    };
    let step = |kind, state: &str, cause| (kind, state.to_owned(), cause);

    let denied = told.ask_about("denied").await;
    told.say("dana", denied, Says::Deny, "no").await.unwrap();
    let expected = [step(Asked, "pending", None), step(Voted, "denied", None), step(Decided, "denied", None)];
    assert_eq!(ended(denied).await, expected);

    let late = told.ask_about("denied after the quorum").await;
    told.vote("dana", late).await.unwrap();
    told.say("dave", late, Says::Deny, "no").await.unwrap();
    assert_eq!(ended(late).await[3..], [step(Voted, "void", None), step(Void, "void", Some("denied"))]);

    let back = told.ask_about("taken back").await;
    told.vote("dana", back).await.unwrap();
    told.engine.withdraw(&call("dana", "WithdrawVote"), back).await.unwrap();
    assert_eq!(ended(back).await[3..], [step(Withdrawn, "void", None), step(Void, "void", Some("withdrawn"))]);

    let cancelled = told.ask_about("cancelled").await;
    told.engine.cancel(&call("agent:bot", "CancelApproval"), cancelled).await.unwrap();
    assert_eq!(ended(cancelled).await[1..], [step(Cancelled, "cancelled", None)]);

    // The voter loses the role, so the question is put anew, and the old one is void.
    let outdated = told.ask_about("put anew").await;
    told.vote("dana", outdated).await.unwrap();
    told.change("adam", &[person("dana", &[])]).await.unwrap();
    let anew = told.ask_about("put anew").await;
    assert_eq!(ended(outdated).await[3..], [step(Void, "void", Some("conditions_changed"))]);
    assert_eq!(ended(anew).await, [step(Asked, "pending", None)]);
}

#[tokio::test]
async fn what_was_refused_or_replayed_or_asked_again_is_not_told() {
    let told = Told::new(vec![settings("all")]).await;
    let approval = told.ask().await;
    assert_eq!(told.ask().await, approval);
    let shown = told.engine.changed_approval(&call("dana", "GetApproval"), approval).await.unwrap().approval.value;
    let ballot = Ballot {
        approval,
        verdict: Says::Approve,
        digest: shown.digest,
        view: shown.view,
        comment: String::new(),
        signed: None,
    };
    let cast = call("dana", "CastVote");
    told.engine.vote(&cast, &ballot).await.unwrap();
    assert!(told.engine.vote(&cast, &ballot).await.unwrap().replayed);
    for who in ["dana", "olivia", "agent:bot", "mallory"] {
        assert!(told.engine.vote(&call(who, "CastVote"), &ballot).await.is_err(), "{who}");
    }
    assert_eq!(told.kinds("all").await, [Asked, Voted, Decided]);
}

#[tokio::test]
async fn nothing_is_written_without_sinks_and_each_sink_has_what_it_wants() {
    let told = Told::new(Vec::new()).await;
    let approval = told.ask().await;
    told.vote("dana", approval).await.unwrap();
    let outbox = Prefix::kind(told.engine.tenant(), countersign_store::Kind::Outbox);
    assert_eq!(told.kernel().scan(&outbox, None, 10).await.unwrap().rows, []);

    let some = SinkSettings { events: BTreeSet::from([Decided, Asked]), ..settings("some") };
    let told = Told::new(vec![settings("all"), some]).await;
    let approval = told.ask().await;
    told.vote("dana", approval).await.unwrap();
    assert_eq!(told.kinds("all").await, [Asked, Voted, Decided]);
    assert_eq!(told.kinds("some").await, [Asked, Decided]);
    let ids = |told: Vec<Notification>| told.into_iter().map(|n| n.id).collect::<Vec<_>>();
    let (all, some) = (ids(told.queued("all").await), ids(told.queued("some").await));
    assert_eq!([all[0], all[2]], [some[0], some[1]], "one notification has one id");
}

#[tokio::test]
async fn a_change_and_what_is_told_of_it_are_one_commit() {
    for (fault, kept) in [
        (Fault::SyncFails, false),
        (Fault::CrashBefore, false),
        (Fault::SyncFailsButKept, true),
        (Fault::CrashAfter, true),
    ] {
        let told = Told::new(vec![settings("all")]).await;
        let approval = told.ask().await;
        told.kernel().fail_point().arm(fault);
        assert!(matches!(told.vote("dana", approval).await, Err(Error::OutcomeUnknown(_))), "{fault:?}");
        let told = told.restarted(vec![settings("all")]).await;
        let repo = Repository::new(Arc::clone(&told.world.kernel), told.engine.tenant().clone());
        let votes = repo.approval(approval).await.unwrap().unwrap().value.votes().len();
        let expected: &[NotificationKind] = if kept { &[Asked, Voted, Decided] } else { &[Asked] };
        assert_eq!((votes, told.kinds("all").await), (usize::from(kept), expected.to_vec()), "{fault:?}");
    }
}

#[tokio::test]
async fn an_end_by_time_is_told_once_also_after_a_restart() {
    let told = Told::new(vec![settings("all")]).await;
    let (first, second) = (told.ask_about("one").await, told.ask_about("two").await);
    told.vote("dana", second).await.unwrap();
    let expires = told.queued("all").await[0].expires_at.unwrap();
    told.tell_ends(2).await;
    assert_eq!(told.kinds("all").await, [Asked, Asked, Voted, Decided], "nothing is over yet");
    told.pass(86_400);
    let told = told.restarted(vec![settings("all")]).await;
    told.tell_ends(0).await;
    let told = told.restarted(vec![settings("all")]).await;
    told.tell_ends(0).await;
    let all = told.queued("all").await;
    let last = |id| all.iter().filter(|n| n.approval == Some(id)).map(|n| (n.kind, n.state.as_str())).next_back();
    assert_eq!((last(first), last(second)), (Some((Expired, "expired")), Some((Expired, "expired"))));
    assert_eq!(all.iter().filter(|n| n.kind == Expired).count(), 2);
    let expired = all.iter().find(|n| n.kind == Expired).unwrap();
    assert_eq!(
        (expired.at, expired.by.clone()),
        (expires, None),
        "it tells when it happened, not when that was noticed"
    );
}

#[tokio::test]
async fn requests_that_die_with_their_session_are_told_of() {
    let told = Told::new(vec![settings("all")]).await;
    let approval = told.ask().await;
    let ending = async {
        told.engine.end_session(&call("agent:bot", "EndSession"), told.session).await.unwrap();
        told.tell_ends(0).await;
    };
    // One that watches while it happens, and others that come later.
    tokio::select! {
        () = ending => {}
        ended = told.engine.tell_ends() => panic!("{ended:?}"),
    }
    let all = told.queued("all").await;
    let last = all.last().unwrap();
    assert_eq!((last.kind, last.approval, last.cause.unwrap().word()), (Void, Some(approval), "session_over"));
    assert_eq!(all.len(), 2);
}

#[tokio::test]
async fn an_end_that_a_commit_told_is_not_told_again() {
    let told = Told::new(vec![settings("all")]).await;
    let approval = told.ask().await;
    told.say("dana", approval, Says::Deny, "no").await.unwrap();
    told.pass(86_400);
    told.tell_ends(0).await;
    assert_eq!(told.kinds("all").await, [Asked, Voted, Decided]);
}

#[tokio::test]
async fn an_approval_that_an_allow_spends_is_told_as_redeemed() {
    let told = Told::new(vec![settings("all")]).await;
    let approval = told.ask().await;
    told.vote("dana", approval).await.unwrap();
    let decide = Decide {
        session: told.session,
        operation: operation("export", "docs"),
        audience: "gate".to_owned(),
        acting: Acting::Caller,
        approval: Some(approval),
        mint: false,
        holder: None,
        open: false,
        entity_revision: None,
    };
    told.engine.decide(&call("agent:bot", "Decide"), &decide).await.unwrap();
    assert_eq!(told.kinds("all").await, [Asked, Voted, Decided, Redeemed]);
}

#[tokio::test]
async fn another_bundle_tells_nothing_by_itself() {
    let told = Told::new(vec![settings("all")]).await;
    let approval = told.ask().await;
    let mut next = told_files();
    let manifest = next["bundle.toml"].replace("revision = 1", "revision = 2");
    next.insert("bundle.toml".to_owned(), manifest);
    let read = || async { Ok(source(next.clone())) };
    told.engine.publish(&call("adam", "ReloadBundle"), read, Consent::default()).await.unwrap();
    assert_eq!(told.kinds("all").await, [Asked]);
    told.vote("dave", approval).await.unwrap();
    assert_eq!(told.kinds("all").await, [Asked, Voted, Decided]);
}
