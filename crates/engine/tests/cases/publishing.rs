//! Bundles become active, go, and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use countersign_core::time::ManualClock;
use countersign_core::{ApprovalId, Digest, EntityRef, SessionId, TenantId};
use countersign_engine::{
    Acting, Admission, Admitted, Ask, Consent, Engine, Error, OpenSession, Operation, Parts, Published, RevisionRule,
};
use countersign_policy::{Bundle, Source, publish_input};
use countersign_store::{Commit, Kernel, Key, MemoryKernel};
use serde_json::Value as Json;

use crate::{START, World, call, files, parts, source};

#[tokio::test]
async fn nothing_is_read_for_whoever_may_not_publish_and_once_for_whoever_may() {
    let world = World::new().await;
    let reads = AtomicUsize::new(0);
    let read = || async {
        reads.fetch_add(1, Ordering::Relaxed);
        Err(Error::BundleUnreadable("half written".to_owned()))
    };
    let denied = world.engine.publish(&call("olivia", "ReloadBundle"), read, Consent::default()).await;
    assert!(matches!(denied, Err(Error::AdministrationDenied { .. })), "{denied:?}");
    assert_eq!(reads.load(Ordering::Relaxed), 0);
    let refused = world.engine.publish(&call("adam", "ReloadBundle"), read, Consent::default()).await;
    assert!(matches!(refused, Err(Error::BundleUnreadable(_))), "{refused:?}");
    assert_eq!(reads.load(Ordering::Relaxed), 1);
}

/// The bundle of the tests with another revision, and so another digest.
fn revised(revision: u64) -> BTreeMap<String, String> {
    let mut files = files();
    let manifest = files["bundle.toml"].replace("revision = 1", &format!("revision = {revision}"));
    files.insert("bundle.toml".to_owned(), manifest);
    files
}

fn digest(revision: u64) -> Digest {
    source(revised(revision)).digest()
}

impl<K: Kernel> World<K> {
    async fn publish(&self, files: BTreeMap<String, String>, consent: Consent) -> Result<Published, Error> {
        let read = || async { Ok(source(files.clone())) };
        let published = self.engine.publish(&call("adam", "ReloadBundle"), read, consent).await;
        published.map(|published| published.answer)
    }

    async fn rollback(&self, who: &str, digest: Digest) -> Result<Published, Error> {
        let rolled_back = self.engine.rollback(&call(who, "RollbackBundle"), digest, Consent::default()).await;
        rolled_back.map(|rolled_back| rolled_back.answer)
    }

    fn revision(&self) -> u64 {
        self.engine.bundle_info().unwrap().revision
    }

    async fn history(&self) -> Vec<(u64, bool)> {
        let page = self.engine.bundles(&call("adam", "ListBundles"), None, 100).await.unwrap();
        assert_eq!(page.next, None);
        page.items.iter().map(|bundle| (bundle.revision, bundle.active)).collect()
    }

    /// A record, by how many there are from it to the last one.
    async fn record(&self, from_last: u64) -> Json {
        let tenant = TenantId::new("acme").unwrap();
        let size = self.kernel().log_size(&tenant).await.unwrap();
        let records = self.kernel().log_entries(&tenant, size - from_last, 1).await.unwrap();
        serde_json::from_slice(&records[0].1).unwrap()
    }

    async fn last_record(&self) -> Json {
        self.record(1).await
    }
}

#[tokio::test]
async fn a_rollback_takes_up_an_older_bundle_and_no_restart_undoes_it() {
    let kernel = Arc::new(MemoryKernel::default());
    let world = World::on(Arc::clone(&kernel)).await;
    world.publish(revised(2), Consent::default()).await.unwrap();
    world.publish(revised(3), Consent::default()).await.unwrap();
    assert!(matches!(world.rollback("olivia", digest(1)).await, Err(Error::AdministrationDenied { .. })));
    assert!(matches!(world.rollback("adam", digest(9)).await, Err(Error::BundleNotFound(_))));
    assert!(world.rollback("adam", digest(1)).await.unwrap().changed);
    assert_eq!(world.revision(), 1);
    let record = world.last_record().await;
    assert_eq!((&record["kind"], &record["rollback"]), (&"bundle_activated".into(), &true.into()), "{record}");
    assert_eq!(record["determining"], serde_json::json!(["admins"]));
    assert_eq!(record["replaces"], digest(3).to_string());
    assert!(!world.rollback("adam", digest(1)).await.unwrap().changed);

    // The bundle that was left still lies where the server reads at start, and so does the one before.
    let again = Engine::open(Arc::clone(&kernel), Box::new(ManualClock::new(START)), parts()).await.unwrap();
    for left in [2, 3] {
        let refused = again.activate(source(revised(left)), RevisionRule::NotLower).await;
        assert!(matches!(refused, Err(Error::BundleRolledBack { rolled_back: 3, .. })), "{left}: {refused:?}");
        let refused = world.publish(revised(left), Consent::default()).await;
        assert!(matches!(refused, Err(Error::BundleRolledBack { rolled_back: 3, .. })), "{left}: {refused:?}");
    }
    assert!(!again.activate(source(revised(1)), RevisionRule::NotLower).await.unwrap().changed);
    // By its digest it comes back, and what is newer than everything too.
    assert!(world.rollback("adam", digest(3)).await.unwrap().changed);
    assert!(world.rollback("adam", digest(2)).await.unwrap().changed);
    assert!(world.publish(revised(4), Consent::default()).await.unwrap().changed);
    assert_eq!(world.history().await.iter().filter(|(_, active)| *active).collect::<Vec<_>>(), [&(4, true)]);
    assert_eq!(world.history().await.len(), 4);
}

#[tokio::test]
async fn bundles_that_were_active_are_listed_page_by_page() {
    let world = World::new().await;
    for revision in 2..=7 {
        world.publish(revised(revision), Consent::default()).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = world.engine.bundles(&call("adam", "ListBundles"), after, 3).await.unwrap();
        assert!(page.items.len() <= 3);
        seen.extend(page.items.iter().map(|bundle| bundle.digest));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>(), (1..=7).map(digest).collect::<BTreeSet<_>>().iter().collect());
    let refused = world.engine.bundles(&call("agent:bot", "ListBundles"), None, 3).await;
    assert!(matches!(refused, Err(Error::AdministrationDenied { .. })), "{refused:?}");
}

#[tokio::test]
async fn what_an_interrupted_attempt_left_in_the_archive_is_written_over() {
    let kernel = Arc::new(MemoryKernel::default());
    let world = World::on(Arc::clone(&kernel)).await;
    // Scenarios are not in the digest: the same bundle with others has the same name in the archive.
    let tenant = TenantId::new("acme").unwrap();
    let left = Commit::new(tenant.clone()).create(Key::bundle_chunk(&tenant, &digest(2), 0), "{\"half\": \"a file");
    kernel.commit(left).await.unwrap();
    world.publish(revised(2), Consent::default()).await.unwrap();
    let again = Engine::open(kernel, Box::new(ManualClock::new(START)), parts()).await.unwrap();
    assert_eq!(again.bundle_info().unwrap().digest, digest(2));
}

#[tokio::test]
async fn what_was_only_about_to_become_active_is_in_no_archive() {
    let kernel = Arc::new(MemoryKernel::default());
    let world = World::on(Arc::clone(&kernel)).await;
    // As an attempt left it that was refused at its last step, or as the first release wrote it before that step.
    let tenant = TenantId::new("acme").unwrap();
    let files = serde_json::to_vec(&revised(2)).unwrap();
    let row = br#"\x01{"name":"test","revision":2,"chunks":1}"#.to_vec();
    let row = [&[1_u8], &row[4..]].concat();
    let left = Commit::new(tenant.clone())
        .create(Key::bundle_chunk(&tenant, &digest(2), 0), files)
        .create(Key::bundle(&tenant, &digest(2)), row);
    kernel.commit(left).await.unwrap();
    assert_eq!(world.history().await, [(1, true)]);
    assert!(matches!(world.rollback("adam", digest(2)).await, Err(Error::BundleNotFound(_))));
    assert!(world.publish(revised(2), Consent::default()).await.unwrap().changed);
    assert_eq!(world.history().await.len(), 2);
}

#[tokio::test]
async fn a_rollback_from_the_highest_revision_keeps_nothing_new_out() {
    let highest = (1 << 53) - 1;
    let world = World::new().await;
    world.publish(revised(highest), Consent::default()).await.unwrap();
    world.rollback("adam", digest(1)).await.unwrap();
    assert!(matches!(world.publish(revised(highest), Consent::default()).await, Err(Error::BundleRolledBack { .. })));
    assert!(world.publish(revised(2), Consent::default()).await.unwrap().changed);
    assert!(matches!(world.publish(revised(highest), Consent::default()).await, Err(Error::BundleRolledBack { .. })));
    assert!(Bundle::load(source(revised(highest + 1))).is_err(), "no client could write it");
}

/// Takes what is signed by enough, as far as it is told who signed.
#[derive(Debug, Default)]
struct Signed(Mutex<BTreeMap<String, Vec<String>>>);

impl Admission for Signed {
    fn admit(&self, bundle: &Bundle) -> Result<Admitted, String> {
        let signed = self.0.lock().unwrap().get(&bundle.digest().to_string()).cloned();
        let signed_by = signed.ok_or_else(|| "nobody has signed it".to_owned())?;
        Ok(Admitted { signed_by, proved: Vec::new() })
    }
}

impl Signed {
    fn sign(&self, files: &BTreeMap<String, String>, who: &[&str]) {
        let signers = who.iter().map(|who| (*who).to_owned()).collect();
        self.0.lock().unwrap().insert(source(files.clone()).digest().to_string(), signers);
    }

    fn forget(&self) {
        self.0.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn what_is_not_admitted_changes_nothing_and_a_rollback_is_judged_again() {
    let signed = Arc::new(Signed::default());
    signed.sign(&files(), &["alice"]);
    let admission = Arc::clone(&signed) as Arc<dyn Admission>;
    let world = World::with(Arc::new(MemoryKernel::default()), Parts { admission, ..parts() }, files()).await;
    let refused = world.publish(revised(2), Consent::default()).await;
    assert!(matches!(&refused, Err(Error::BundleNotAdmitted(why)) if why == "nobody has signed it"), "{refused:?}");
    assert_eq!((world.revision(), world.history().await.len()), (1, 1), "not even archived");
    signed.sign(&revised(2), &["alice", "bob"]);
    world.publish(revised(2), Consent::default()).await.unwrap();
    assert_eq!(world.last_record().await["signed_by"], serde_json::json!(["alice", "bob"]));
    // Who is not trusted any more does not come back by a rollback.
    signed.forget();
    assert!(matches!(world.rollback("adam", digest(1)).await, Err(Error::BundleNotAdmitted(_))));
    assert_eq!(world.revision(), 2);
}

#[tokio::test]
async fn signatures_that_came_later_are_kept_for_the_way_back() {
    let signed = Arc::new(Signed::default());
    signed.sign(&files(), &[]);
    let admission = Arc::clone(&signed) as Arc<dyn Admission>;
    let kernel = Arc::new(MemoryKernel::default());
    let world = World::with(Arc::clone(&kernel), Parts { admission, ..parts() }, files()).await;
    let mut later = files();
    later.insert("bundle.sig".to_owned(), "signed by alice".to_owned());
    signed.sign(&files(), &["alice"]);
    assert!(!world.publish(later.clone(), Consent::default()).await.unwrap().changed);
    let record = world.last_record().await;
    assert_eq!((&record["kind"], &record["signed_by"]), (&"bundle_signed".into(), &serde_json::json!(["alice"])));
    let kept = kernel.get(&Key::bundle(&TenantId::new("acme").unwrap(), &digest(1))).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&kept.value).contains("signed by alice"));
    // Once more is nothing new.
    world.publish(later, Consent::default()).await.unwrap();
    assert_eq!(world.last_record().await, record);
}

#[tokio::test]
async fn nobody_proves_for_whoever_has_no_approval() {
    let signed = Arc::new(Signed::default());
    signed.sign(&governed(2), &[]);
    let admission = Arc::clone(&signed) as Arc<dyn Admission>;
    let world = World::with(Arc::new(MemoryKernel::default()), Parts { admission, ..parts() }, governed(2)).await;
    // It would not be admitted, and that is not what is answered: it was not even looked at.
    assert!(matches!(world.publish(governed(3), Consent::default()).await, Err(Error::PublishAsks(_))));
}

const PUBLISHING: &str = r#"
    action publish_bundle appliesTo {
        principal: [Person], resource: [Tenant], context: { input: { bundle: String, revision: Long, rollback: Bool } }
    };
"#;
const FOUR_EYES: &str = r#"
    @id("publishing") permit (principal, action == Action::"publish_bundle", resource);
    @id("four-eyes") forbid (principal, action == Action::"publish_bundle", resource)
    unless { context has approval && context.approval.rules.contains("four-eyes") };
    @id("no-thirteenth") forbid (principal, action == Action::"publish_bundle", resource)
    when { context.input.revision == 13 };
"#;

/// A bundle under which publishing is an action that somebody else approves.
fn governed(revision: u64) -> BTreeMap<String, String> {
    let mut files = revised(revision);
    let add = |files: &mut BTreeMap<String, String>, name: &str, text: &str| {
        files.entry(name.to_owned()).or_default().push_str(text);
    };
    add(&mut files, "bundle.toml", "publish_operation = \"publish_bundle\"\n");
    add(&mut files, "schema.cedarschema", PUBLISHING);
    add(&mut files, "policies/publishing.cedar", FOUR_EYES);
    let mut entities: Vec<Json> = serde_json::from_str(&files["entities.json"]).unwrap();
    let mut point = entities[2].clone();
    point["uid"]["id"] = "countersign".into();
    entities.push(point);
    files.insert("entities.json".to_owned(), Json::from(entities).to_string());
    files
}

fn publishing(files: &BTreeMap<String, String>, revision: u64, rollback: bool) -> Operation {
    Operation {
        name: "publish_bundle".to_owned(),
        resource: EntityRef::parse("Tenant::\"acme\"").unwrap(),
        input: publish_input(source(files.clone()).digest(), revision, rollback),
        environment: Default::default(),
    }
}

impl<K: Kernel> World<K> {
    async fn session_of(&self, who: &str) -> SessionId {
        let opening =
            OpenSession { purpose: "x".to_owned(), ttl: None, acting: Acting::Caller, ..OpenSession::default() };
        self.engine.open_session(&call(who, "OpenSession"), &opening).await.unwrap().answer.value.id
    }

    async fn ask_to_publish(&self, session: SessionId, operation: Operation) -> Result<ApprovalId, Error> {
        let ask = Ask {
            session,
            operation,
            audience: "countersign".to_owned(),
            acting: Acting::Caller,
            justification: "Quarterly review".to_owned(),
        };
        self.engine.ask(&call("adam", "RequestApproval"), &ask).await.map(|asked| asked.answer.0)
    }
}

#[tokio::test]
async fn publishing_waits_for_people_where_the_active_bundle_says_so() {
    let world = World::new().await;
    world.publish(governed(2), Consent::default()).await.unwrap();
    let next = governed(3);

    let alone = world.publish(next.clone(), Consent::default()).await;
    let Err(asks @ Error::PublishAsks(_)) = alone else { panic!("{alone:?}") };
    let said = asks.to_string();
    assert!(said.contains("`publish_bundle`") && said.contains("Tenant::\"acme\""), "{said}");
    assert!(said.contains(&source(next.clone()).digest().to_string()), "{said}");
    // Nor does whoever can write where the server reads get around it.
    assert!(matches!(
        world.engine.activate(source(next.clone()), RevisionRule::NotLower).await,
        Err(Error::PublishAsks(_))
    ));
    assert!(matches!(world.rollback("adam", digest(1)).await, Err(Error::PublishAsks(_))));

    let session = world.session_of("adam").await;
    let with = |approval| Consent { session: Some(session), approval };
    assert!(matches!(world.publish(next.clone(), with(None)).await, Err(Error::PublishAsks(_))));
    let approval = world.ask_to_publish(session, publishing(&next, 3, false)).await.unwrap();
    assert!(matches!(world.publish(next.clone(), with(Some(approval))).await, Err(Error::PublishAsks(_))));
    assert!(world.vote("adam", approval).await.is_err(), "whoever publishes does not approve it");
    world.vote("dana", approval).await.unwrap();
    // It is for this very bundle, and for publishing it.
    let other = world.publish(governed(4), with(Some(approval))).await;
    assert!(matches!(other, Err(Error::ApprovalMismatch)), "{other:?}");
    assert_eq!(world.revision(), 2);
    assert!(world.publish(next, with(Some(approval))).await.unwrap().changed);
    assert_eq!(world.revision(), 3);
    let record = world.last_record().await;
    assert_eq!(record["kind"], "bundle_activated");
    let decision = record["decision"].as_str().unwrap();
    let spent = world.record(2).await;
    assert_eq!((&spent["kind"], &spent["verdict"]), (&"decision".into(), &"ALLOW".into()), "{spent}");
    assert_eq!(
        (spent["decision"].as_str(), spent["approval"].as_str()),
        (Some(decision), Some(&*approval.to_string()))
    );
    // Once.
    let back = world.ask_to_publish(session, publishing(&governed(2), 2, true)).await.unwrap();
    world.vote("dana", back).await.unwrap();
    let target = source(governed(2)).digest();
    let call = || call("adam", "RollbackBundle");
    assert!(world.engine.rollback(&call(), target, with(Some(approval))).await.is_err());
    assert!(world.engine.rollback(&call(), target, with(Some(back))).await.unwrap().answer.changed);
    assert!(world.publish(governed(5), with(Some(back))).await.is_err());
    // What a rule forbids that nobody can lift, stays forbidden.
    let denied = world.publish(governed(13), with(None)).await;
    assert!(matches!(&denied, Err(Error::PublishDenied(by)) if by.contains(&"no-thirteenth".to_owned())), "{denied:?}");
}

#[tokio::test]
async fn publishing_is_never_pre_approved() {
    let mut files = governed(2);
    let offering = FOUR_EYES.replace("@id(\"four-eyes\")", "@id(\"four-eyes\") @pre_approval(\"9 uses, 1h\")");
    files.insert("policies/publishing.cedar".to_owned(), offering);
    let world = World::new().await;
    world.publish(files, Consent::default()).await.unwrap();
    let ask = Ask {
        session: world.session_of("adam").await,
        operation: publishing(&governed(3), 3, false),
        audience: "countersign".to_owned(),
        acting: Acting::Caller,
        justification: "Quarterly review".to_owned(),
    };
    let bounds = countersign_core::pre_approval::Bounds { uses: 2, seconds: 60 };
    let refused = world.engine.pre_approve(&call("adam", "RequestApproval"), &ask, bounds).await;
    assert!(matches!(refused, Err(Error::NotPreApprovable(_))), "{refused:?}");
}

#[tokio::test]
async fn whoever_signed_a_bundle_does_not_approve_it() {
    let signed = Arc::new(Signed::default());
    signed.sign(&governed(2), &["dana"]);
    signed.sign(&governed(3), &["dana"]);
    let admission = Arc::clone(&signed) as Arc<dyn Admission>;
    let world = World::with(Arc::new(MemoryKernel::default()), Parts { admission, ..parts() }, governed(2)).await;
    let session = world.session_of("adam").await;
    let approval = world.ask_to_publish(session, publishing(&governed(3), 3, false)).await.unwrap();
    world.vote("dana", approval).await.unwrap();
    let with = |approval| Consent { session: Some(session), approval: Some(approval) };
    let refused = world.publish(governed(3), with(approval)).await;
    let Err(refused @ Error::PublishAsks(_)) = refused else { panic!("{refused:?}") };
    assert!(refused.to_string().contains("Person::\"dana\" signed the bundle"), "{refused}");
    signed.sign(&governed(3), &["erin"]);
    assert!(world.publish(governed(3), with(approval)).await.unwrap().changed);
}

#[test]
fn an_operation_that_publishing_cannot_be_is_found_before() {
    let mut files = governed(2);
    let schema = files["schema.cedarschema"].replace("rollback: Bool", "rollback: String");
    files.insert("schema.cedarschema".to_owned(), schema);
    let refused = Bundle::load(source(files)).unwrap_err().to_string();
    assert!(refused.contains("`publish_bundle` is no operation that publishing can be"), "{refused}");
    let mut alone = governed(2);
    alone.insert("entities.json".to_owned(), crate::files()["entities.json"].clone());
    let refused = Bundle::load(source(alone)).unwrap_err().to_string();
    assert!(refused.contains("needs the entity `EnforcementPoint::\"countersign\"`"), "{refused}");
    let mut missing = governed(2);
    let manifest = missing["bundle.toml"].replace("\"publish_bundle\"", "\"publish\"");
    missing.insert("bundle.toml".to_owned(), manifest);
    assert!(Bundle::load(Source::from_files(missing).unwrap()).is_err());
}
