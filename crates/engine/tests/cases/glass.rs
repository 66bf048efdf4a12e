//! Broken glass: who breaks it, what that lifts, how often, who is told, and who reviews it.

mod reviewing;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::review::{GlassBudget, GlassError};
use countersign_core::{Notification, NotificationKind, ReviewId};
use countersign_engine::{BackOff, BreakGlass, Broken, Consent, NotAnswering, SinkSettings};
use countersign_store::Prefix;
use countersign_store::outbox::QueuedRow;
use countersign_store::repository::stored;

use crate::*;

const HOUR: Duration = Duration::from_secs(3_600);

/// One more rule asks about exports of personal data.
const MORE: &str = r#"
    @id("asks-security") forbid (principal, action == Action::"export", resource is Dataset)
    when { resource.classification == "pii" }
    unless { context has approval && context.approval.rules.contains("asks-security") };
"#;
const GLASS: &str = r#"
    @id("on-call") permit (principal in Group::"on-call", action == Action::"breakGlass", resource)
    when { context.operation == "export" && ["asks", "asks-security"].containsAll(context.rules) };
    @id("reviewers") permit (principal in Group::"reviewers", action == Action::"reviewBreakGlass", resource)
    when { context.rules.contains("asks") };
"#;

fn glass_files() -> BTreeMap<String, String> {
    let mut files = files();
    files.get_mut("policies/work.cedar").unwrap().push_str(MORE);
    files.get_mut("admin/admin.cedar").unwrap().push_str(GLASS);
    files
}

/// A world with nick, who is on call and has a session of his own, and with reviewers.
struct Scene {
    world: World<MemoryKernel>,
    own: SessionId,
}

impl std::ops::Deref for Scene {
    type Target = World<MemoryKernel>;
    fn deref(&self) -> &Self::Target {
        &self.world
    }
}

impl Scene {
    async fn new() -> Self {
        Self::with(parts()).await
    }

    async fn with(parts: Parts) -> Self {
        let world = World::with(Arc::new(MemoryKernel::default()), parts, glass_files()).await;
        let group = |id: &str| put(&format!("Group::\"{id}\""), json!({}));
        let all = [
            group("on-call"),
            group("reviewers"),
            person("nick", &["on-call", "owners"]),
            person("rita", &["reviewers"]),
            person("gina", &["reviewers"]),
            person("una", &[]),
            dataset("people", "pii"),
            dataset("hoard", "secret"),
        ];
        world.change("service:sync", &all).await.unwrap();
        let own = open_as(&world, &call("nick", "OpenSession"), None).await.unwrap();
        Self { world, own }
    }

    fn breaking(&self, name: &str, resource: &str) -> BreakGlass {
        BreakGlass {
            session: self.own,
            operation: operation(name, resource),
            audience: "gate".to_owned(),
            reason: "nobody answers".to_owned(),
            mint: true,
        }
    }

    async fn break_glass(&self, resource: &str) -> Result<Broken, Error> {
        self.break_as(&call("nick", "BreakGlass"), &self.breaking("export", resource)).await
    }

    async fn break_as(&self, call: &Call, ask: &BreakGlass) -> Result<Broken, Error> {
        self.engine.break_glass(call, ask).await.map(|broken| broken.answer)
    }

    async fn close(&self, who: &str, review: ReviewId) -> Result<(), Error> {
        self.engine.close_review(&call(who, "CloseReview"), review, "looked at").await.map(drop)
    }

    async fn redeem_it(&self, broken: &Broken, resource: &str) -> Result<(), Error> {
        let redeem = Redeem { operation: operation("export", resource), ..self.redeem(&broken.decision) };
        self.engine.redeem(&call("service:gate", "Redeem"), &redeem).await.map(drop)
    }

    async fn publish(&self, revision: u32, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        let mut files = glass_files();
        change(&mut files);
        let manifest = files.get_mut("bundle.toml").unwrap();
        *manifest = manifest.replace("revision = 1", &format!("revision = {revision}"));
        let read = || async { Ok(source(files.clone())) };
        self.engine.publish(&call("adam", "ReloadBundle"), read, Consent::default()).await.unwrap();
    }

    async fn told(&self) -> Vec<Notification> {
        let page = self.kernel().scan(&Prefix::queue(self.engine.tenant(), "all"), None, 1_000).await.unwrap();
        page.rows.iter().map(|(key, row)| stored::<QueuedRow>(key, row).unwrap().value.notification).collect()
    }

    /// The records that were written, the newest last.
    async fn records(&self) -> Vec<Json> {
        let size = self.kernel().log_size(self.engine.tenant()).await.unwrap();
        let mut records = Vec::new();
        while (records.len() as u64) < size {
            let page = self.kernel().log_entries(self.engine.tenant(), records.len() as u64, 512).await.unwrap();
            records.extend(page.iter().map(|(_, bytes)| serde_json::from_slice::<Json>(bytes).unwrap()));
        }
        records
    }
}

async fn open_as(
    world: &World<MemoryKernel>,
    call: &Call,
    named: Option<(&str, Option<&str>)>,
) -> Result<SessionId, Error> {
    let acting = named.map_or(Acting::Caller, |(who, _)| Acting::Named(entity(who)));
    let operator = named.and_then(|(_, operator)| operator).map(entity);
    let opening = OpenSession { purpose: "x".to_owned(), ttl: None, acting, operator, ..OpenSession::default() };
    world.engine.open_session(call, &opening).await.map(|session| session.answer.value.id)
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> GlassError {
    let Err(Error::Glass(error)) = result else { panic!("{result:?}") };
    error
}

fn names(persons: impl IntoIterator<Item = EntityRef>) -> Vec<String> {
    persons.into_iter().map(|person| person.id().to_owned()).collect()
}

#[tokio::test]
async fn what_asks_people_is_lifted_on_record_and_redeemed_once() {
    let scene = Scene::new().await;
    let broken = scene.break_glass("people").await.unwrap();
    let review = broken.review.unwrap();
    assert_eq!(
        (broken.decision.word(), &*broken.decision.determining),
        ("ALLOW", &["asks", "asks-security"].map(str::to_owned)[..])
    );
    let record = scene.records().await.pop().unwrap();
    assert_eq!((&record["kind"], &record["verdict"]), (&json!("decision"), &json!("ALLOW")));
    let glass = &record["glass_broken"];
    assert_eq!((&glass["review"], &glass["person"]["id"]), (&json!(review), &json!("nick")));
    assert_eq!((&glass["reason"], &glass["rules"]), (&json!("nobody answers"), &json!(["asks", "asks-security"])));
    assert_eq!((&glass["determining"], &record["minted"]["review"]), (&json!(["on-call"]), &json!(review)));
    assert!(record["approval"].is_null() && record["context"]["approval"].is_null());

    let shown = scene.engine.review(&call("rita", "GetReview"), review).await.unwrap();
    assert!(shown.may_close && shown.review.value.closing().is_none());
    assert_eq!(shown.review.value.capability, Some(minted(&broken.decision)));
    assert_eq!((shown.action.operation.as_str(), shown.action.resource.id()), ("export", "people"));
    // For exactly this, and once.
    assert!(matches!(scene.redeem_it(&broken, "docs").await, Err(Error::Token(_))));
    scene.redeem_it(&broken, "people").await.unwrap();
    let record = scene.records().await.pop().unwrap();
    assert_eq!((&record["kind"], &record["review"]), (&json!("redeem"), &json!(review)));
    assert!(matches!(scene.redeem_it(&broken, "people").await, Err(Error::Capability(_))));
}

#[tokio::test]
async fn a_credential_with_act_breaks_no_glass() {
    let scene = Scene::new().await;
    let ask = scene.breaking("export", "docs");
    let credentials: [(&str, &[&str]); 4] =
        [("nick", &["agent:bot"]), ("nick", &["service:gate"]), ("nick", &["dana"]), ("agent:bot", &[])];
    for (who, via) in credentials {
        let refused = scene.break_as(&call_via(who, via, "BreakGlass"), &ask).await;
        assert!(matches!(refused, Err(Error::NotAPerson(_))), "{who} {via:?}: {refused:?}");
    }
    // Nor does a person in whose session they act for another, whoever opened it.
    let gate = call("service:gate", "OpenSession");
    let session = open_as(&scene, &gate, Some(("Person::\"nick\"", Some("Person::\"olivia\"")))).await.unwrap();
    let refused = scene.break_as(&call("nick", "BreakGlass"), &BreakGlass { session, ..ask.clone() }).await;
    assert!(matches!(refused, Err(Error::SessionMismatch("operator"))), "{refused:?}");
    // Nor anybody in the session of another.
    let refused = scene.break_as(&call("dana", "BreakGlass"), &ask).await;
    assert!(matches!(refused, Err(Error::SessionMismatch("principal"))), "{refused:?}");
    assert!(scene.records().await.iter().all(|record| record["glass_broken"].is_null()));
    scene.break_as(&call("nick", "BreakGlass"), &ask).await.unwrap();
}

#[tokio::test]
async fn an_everyday_credential_breaks_no_glass_and_reviews_nothing() {
    let scene = Scene::new().await;
    let with = |call: Call, answers| {
        let credential = Credential { answers, ..(*call.credential).clone() };
        Call { credential: Arc::new(credential), ..call }
    };
    for wrong in [NotAnswering::NotTrusted, NotAnswering::Audience, NotAnswering::Stale, NotAnswering::Weak] {
        let broken =
            scene.break_as(&with(call("nick", "BreakGlass"), Err(wrong)), &scene.breaking("export", "docs")).await;
        assert!(matches!(broken, Err(Error::NotAnswering(why)) if why == wrong), "{broken:?}");
    }
    let review = scene.break_glass("docs").await.unwrap().review.unwrap();
    let stale = with(call("rita", "CloseReview"), Err(NotAnswering::Stale));
    let closed = scene.engine.close_review(&stale, review, "x").await;
    assert!(matches!(closed, Err(Error::NotAnswering(NotAnswering::Stale))), "{closed:?}");
}

#[tokio::test]
async fn a_final_forbid_is_not_lifted_by_breaking_glass() {
    let scene = Scene::new().await;
    for (resource, determining) in [("hoard", "secret"), ("not there", "secret")] {
        let answer = scene.break_glass(resource).await.unwrap();
        assert_eq!((answer.decision.word(), answer.review), ("DENY", None), "{resource}");
        assert!(answer.decision.token.is_none() && answer.decision.determining.contains(&determining.to_owned()));
        let record = scene.records().await.pop().unwrap();
        assert_eq!((&record["verdict"], &record["glass_broken"]), (&json!("DENY"), &Json::Null));
    }
    // The same call once more is answered the same.
    let (call, ask) = (call("nick", "BreakGlass"), scene.breaking("export", "hoard"));
    let first = scene.engine.break_glass(&call, &ask).await.unwrap().answer;
    let again = scene.engine.break_glass(&call, &ask).await.unwrap();
    assert_eq!((again.replayed, again.answer.decision.id), (true, first.decision.id));
    // Nothing was broken, so nothing blocks.
    scene.break_glass("docs").await.unwrap();
}

#[tokio::test]
async fn what_is_allowed_anyway_breaks_no_glass() {
    let scene = Scene::new().await;
    let ask = scene.breaking("query", "docs");
    assert_eq!(refused(scene.break_as(&call("nick", "BreakGlass"), &ask).await), GlassError::Unneeded);
}

#[tokio::test]
async fn only_whom_the_policies_permit_for_exactly_these_rules() {
    let scene = Scene::new().await;
    let own = open_as(&scene, &call("dana", "OpenSession"), None).await.unwrap();
    let ask = BreakGlass { session: own, ..scene.breaking("export", "docs") };
    let denied = |result: Result<Broken, Error>| {
        assert!(matches!(result, Err(Error::AdministrationDenied { action: "breakGlass", .. })), "{result:?}");
    };
    denied(scene.break_as(&call("dana", "BreakGlass"), &ask).await);
    scene
        .publish(2, |files| {
            let admin = files.get_mut("admin/admin.cedar").unwrap();
            *admin = admin.replace("[\"asks\", \"asks-security\"]", "[\"asks\"]");
        })
        .await;
    denied(scene.break_glass("people").await);
    scene.break_glass("docs").await.unwrap();
}

#[tokio::test]
async fn an_open_review_blocks_the_next_break_glass() {
    let scene = Scene::new().await;
    scene.change("service:sync", &[person("nora", &["on-call"])]).await.unwrap();
    let review = scene.break_glass("docs").await.unwrap().review.unwrap();
    let open = || GlassError::ReviewOpen { person: entity("Person::\"nick\""), review };
    assert_eq!(refused(scene.break_glass("people").await), open());
    scene.clock.advance(HOUR / 2);
    assert_eq!(refused(scene.break_glass("people").await), open());
    // Another person's glass is another one.
    let session = open_as(&scene, &call("nora", "OpenSession"), None).await.unwrap();
    let ask = BreakGlass { session, ..scene.breaking("export", "docs") };
    scene.break_as(&call("nora", "BreakGlass"), &ask).await.unwrap();
    scene.close("rita", review).await.unwrap();
    scene.break_glass("people").await.unwrap();
}

#[tokio::test]
async fn broken_glass_is_bounded_in_rate() {
    let glass = GlassBudget { times: 2, within: HOUR };
    let scene = Scene::with(Parts { limits: Limits { glass, ..Limits::default() }, ..parts() }).await;
    for _time in 0..2 {
        let review = scene.break_glass("docs").await.unwrap().review.unwrap();
        // However quickly the reviews are closed.
        scene.close("rita", review).await.unwrap();
        scene.clock.advance(Duration::from_secs(60));
    }
    let GlassError::TooOften { times: 2, again_in, .. } = refused(scene.break_glass("docs").await) else { panic!() };
    assert_eq!(again_in, HOUR - Duration::from_secs(120));
    scene.clock.advance(again_in - Duration::from_millis(1));
    assert!(matches!(refused(scene.break_glass("docs").await), GlassError::TooOften { .. }));
    scene.clock.advance(Duration::from_millis(1));
    let own = open_as(&scene, &call("nick", "OpenSession"), None).await.unwrap();
    let ask = BreakGlass { session: own, ..scene.breaking("export", "docs") };
    scene.break_as(&call("nick", "BreakGlass"), &ask).await.unwrap();
}

#[tokio::test]
async fn of_many_at_once_one_breaks_the_glass() {
    let scene = Scene::new().await;
    let calls: Vec<Call> = (0..16).map(|_| call("nick", "BreakGlass")).collect();
    let ask = scene.breaking("export", "docs");
    let all = futures::future::join_all(calls.iter().map(|call| scene.break_as(call, &ask))).await;
    let broken = all.iter().filter(|result| result.is_ok()).count();
    assert_eq!(broken, 1);
    for result in all.into_iter().filter(Result::is_err) {
        assert!(matches!(refused(result), GlassError::ReviewOpen { .. }));
    }
}

#[tokio::test]
async fn the_same_call_once_more_breaks_no_glass_again() {
    let scene = Scene::new().await;
    let (call, ask) = (call("nick", "BreakGlass"), scene.breaking("export", "docs"));
    let first = scene.engine.break_glass(&call, &ask).await.unwrap();
    let again = scene.engine.break_glass(&call, &ask).await.unwrap();
    assert!(!first.replayed && again.replayed);
    assert_eq!(
        (first.answer.review, minted(&first.answer.decision)),
        (again.answer.review, minted(&again.answer.decision))
    );
    let token = |broken: &Broken| broken.decision.token.as_ref().unwrap().expose().to_owned();
    assert_eq!(token(&first.answer), token(&again.answer));
}

#[tokio::test]
async fn without_a_capability_the_answer_is_the_authority_and_is_reviewed_too() {
    let scene = Scene::new().await;
    let ask = BreakGlass { mint: false, ..scene.breaking("export", "docs") };
    let broken = scene.break_as(&call("nick", "BreakGlass"), &ask).await.unwrap();
    assert_eq!(broken.decision.verdict, Verdict::Allow { capability: None });
    let review = broken.review.unwrap();
    assert!(matches!(refused(scene.break_glass("docs").await), GlassError::ReviewOpen { .. }));
    scene.close("rita", review).await.unwrap();
}

#[tokio::test]
async fn every_approver_passed_over_is_told() {
    let settings = SinkSettings {
        name: "all".to_owned(),
        events: BTreeSet::from(NotificationKind::ALL),
        timeout: HOUR,
        back_off: BackOff { first: HOUR, longest: HOUR, jitter: Arc::new(|| 0) },
        attempts: 5,
        max_age: HOUR,
        backlog: 1_000,
        dead_letters: 100,
        dead_letter_age: HOUR,
    };
    let scene = Scene::with(Parts { sinks: vec![settings], ..parts() }).await;
    // More than are ever named as those who may answer a question.
    let more: Vec<EntityChange> = (0..150).map(|n| person(&format!("p{n:03}"), &["owners"])).collect();
    for some in more.chunks(25) {
        scene.change("service:sync", some).await.unwrap();
    }
    let review = scene.break_glass("docs").await.unwrap().review.unwrap();
    let told = scene.told().await;
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((told.kind, told.review, told.approval), (NotificationKind::GlassBroken, Some(review), None));
    assert_eq!((told.state.as_str(), told.by.as_ref().unwrap().id(), told.more_passed_over), ("open", "nick", false));
    let mut expected: Vec<String> = (0..150).map(|n| format!("p{n:03}")).collect();
    expected.splice(0..0, ["dana".to_owned(), "dave".to_owned()]);
    assert_eq!(names(told.passed_over.iter().cloned()), expected, "nick himself could answer, but not for himself");
    let text = serde_json::to_string(told).unwrap();
    assert!(!text.contains("nobody answers") && !text.contains("export"), "nobody's words: {text}");

    scene.close("rita", review).await.unwrap();
    let told = scene.told().await;
    let kinds: Vec<_> = told.iter().map(|told| (told.kind, told.state.as_str())).collect();
    assert_eq!(kinds, [(NotificationKind::GlassBroken, "open"), (NotificationKind::ReviewClosed, "closed")]);
    assert_eq!(told[1].by.as_ref().unwrap().id(), "rita");
}

#[tokio::test]
async fn the_capability_dies_when_the_policy_stops_permitting_break_glass() {
    let denied = |result: Result<(), Error>| assert!(matches!(result, Err(Error::PolicyDenied(_))), "{result:?}");
    let scene = Scene::new().await;
    let broken = scene.break_glass("docs").await.unwrap();
    scene
        .publish(2, |files| {
            let admin = files.get_mut("admin/admin.cedar").unwrap();
            *admin = admin.replace("context.operation == \"export\"", "context.operation == \"query\"");
        })
        .await;
    denied(scene.redeem_it(&broken, "docs").await);
    // Also if nothing asks any more: it was given to who may break the glass, and to nobody else.
    scene
        .publish(3, |files| {
            let admin = files.get_mut("admin/admin.cedar").unwrap();
            *admin = admin.replace("context.operation == \"export\"", "context.operation == \"query\"");
            let work = files.get_mut("policies/work.cedar").unwrap();
            *work = work.replace("@id(\"asks\") forbid (principal,", "@id(\"asks\") forbid (principal is Agent,");
        })
        .await;
    denied(scene.redeem_it(&broken, "docs").await);
    scene.publish(4, |_| {}).await;
    scene.change("service:sync", &[person("nick", &["owners"])]).await.unwrap();
    denied(scene.redeem_it(&broken, "docs").await);
    scene.change("service:sync", &[person("nick", &["on-call"])]).await.unwrap();
    scene.redeem_it(&broken, "docs").await.unwrap();
}

#[tokio::test]
async fn only_rules_that_were_lifted_stay_lifted() {
    let scene = Scene::new().await;
    let broken = scene.break_glass("docs").await.unwrap();
    // Another rule asks by now. It could be lifted; it was not.
    scene.change("service:sync", &[dataset("docs", "pii")]).await.unwrap();
    let redeemed = scene.redeem_it(&broken, "docs").await;
    assert!(matches!(redeemed, Err(Error::PolicyDenied(_))), "{redeemed:?}");
    scene.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
    let redeemed = scene.redeem_it(&broken, "docs").await;
    assert!(matches!(redeemed, Err(Error::PolicyDenied(_))), "{redeemed:?}");
    scene.change("service:sync", &[dataset("docs", "public")]).await.unwrap();
    scene.redeem_it(&broken, "docs").await.unwrap();
}

#[tokio::test]
async fn the_capability_dies_with_its_session_its_time_and_its_revocation() {
    let scene = Scene::new().await;
    let broken = scene.break_glass("docs").await.unwrap();
    scene.engine.end_session(&call("nick", "EndSession"), scene.own).await.unwrap();
    let over = scene.redeem_it(&broken, "docs").await;
    assert!(matches!(over, Err(Error::SessionOver(_))), "{over:?}");

    let scene = Scene::new().await;
    let broken = scene.break_glass("docs").await.unwrap();
    scene.clock.advance(Duration::from_secs(300));
    let expired = scene.redeem_it(&broken, "docs").await;
    assert!(matches!(expired, Err(Error::Token(_))), "{expired:?}");

    let scene = Scene::new().await;
    let broken = scene.break_glass("docs").await.unwrap();
    scene.engine.revoke(&call("nick", "Revoke"), minted(&broken.decision), "a mistake").await.unwrap();
    let revoked = scene.redeem_it(&broken, "docs").await;
    assert!(matches!(revoked, Err(Error::Capability(_))), "{revoked:?}");
}

#[tokio::test]
async fn a_reason_is_asked_for() {
    let scene = Scene::new().await;
    for reason in ["", " \t\u{3000}", &"x".repeat(2_001)] {
        let ask = BreakGlass { reason: reason.to_owned(), ..scene.breaking("export", "docs") };
        let refused = scene.break_as(&call("nick", "BreakGlass"), &ask).await;
        assert!(matches!(refused, Err(Error::InvalidField { ref field, .. }) if field == "reason"), "{refused:?}");
    }
    let ask = BreakGlass { reason: "\u{1}".repeat(2_000), ..scene.breaking("export", "docs") };
    scene.break_as(&call("nick", "BreakGlass"), &ask).await.unwrap();
    let nameless = Call { request: None, ..call("nick", "BreakGlass") };
    let refused = scene.break_as(&nameless, &ask).await;
    assert!(matches!(refused, Err(Error::InvalidField { ref field, .. }) if field == "request_id"), "{refused:?}");
}

#[tokio::test]
async fn no_input_is_so_large_that_a_review_has_no_room_for_its_end() {
    let scene = Scene::new().await;
    let mut ask = scene.breaking("export", "docs");
    let note = countersign_core::Value::String("\"".repeat(14_000));
    ask.operation.input.insert("note".to_owned(), note);
    let refused = scene.break_as(&call("nick", "BreakGlass"), &ask).await;
    assert!(matches!(refused, Err(Error::InvalidField { ref field, .. }) if field == "operation"), "{refused:?}");
}
