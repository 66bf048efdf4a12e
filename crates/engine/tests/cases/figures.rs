//! Figures of how asking goes.

use std::sync::Arc;
use std::time::Duration;

use countersign_core::Value;
use countersign_core::figures::{Figures, Subject};
use countersign_core::time::ManualClock;

use crate::*;

const SECOND: Duration = Duration::from_secs(1);

/// With persons who may read every request.
fn with_readers() -> BTreeMap<String, String> {
    let mut files = files();
    let readers =
        "\n@id(\"readers\") permit (principal in Group::\"admins\", action == Action::\"readApprovals\", resource);\n";
    files.get_mut("admin/admin.cedar").unwrap().push_str(readers);
    files
}

async fn world() -> World<MemoryKernel> {
    World::with(Arc::new(MemoryKernel::default()), parts(), with_readers()).await
}

impl<K: Kernel> World<K> {
    async fn ask_for(&self, note: &str) -> ApprovalId {
        let mut operation = operation("export", "docs");
        operation.input.insert("note".to_owned(), Value::String(note.to_owned()));
        self.ask_with(operation).await.unwrap()
    }

    /// Is sent a request, as whoever looks at it is.
    async fn look(&self, who: &str, approval: ApprovalId) {
        let view = self.engine.approval(&call(who, "GetApproval"), approval).await.unwrap();
        self.engine.sent(&view);
    }

    async fn figures(&self, who: &str) -> Result<Vec<Figures>, Error> {
        self.engine.figures(&call(who, "GetApprovalFigures"), None, 100).await.map(|page| page.items)
    }

    async fn of(&self, subject: &Subject) -> Figures {
        let all = self.figures("adam").await.unwrap();
        all.into_iter().find(|figures| figures.subject == *subject).unwrap_or_else(|| Figures::new(subject.clone()))
    }
}

fn rule() -> Subject {
    Subject::Rule("asks".to_owned())
}

fn whom(id: &str) -> Subject {
    Subject::Person(EntityRef::new("Person", id).unwrap())
}

fn counts(of: &Figures) -> [u64; 6] {
    [of.asked, of.approved, of.denied, of.approvals, of.sighted, of.quick]
}

#[tokio::test]
async fn figures_tell_quick_approvals_from_considered_ones() {
    let world = world().await;
    let quick = world.ask_for("1").await;
    world.clock.advance(60 * SECOND);
    world.look("dana", quick).await;
    world.clock.advance(3 * SECOND);
    world.vote("dana", quick).await.unwrap();

    let considered = world.ask_for("2").await;
    world.look("dana", considered).await;
    world.clock.advance(SECOND);
    // Looking again does not make it new.
    world.look("dana", considered).await;
    world.clock.advance(9 * SECOND);
    world.vote("dana", considered).await.unwrap();

    // Who votes without having been sent it, by this process, was neither.
    let unseen = world.ask_for("3").await;
    world.vote("dave", unseen).await.unwrap();
    let denied = world.ask_for("4").await;
    world.look("dave", denied).await;
    world.say("dave", denied, Says::Deny, "no").await.unwrap();

    assert_eq!(counts(&world.of(&rule()).await), [4, 3, 1, 3, 2, 1]);
    assert_eq!(counts(&world.of(&whom("dana")).await), [4, 2, 0, 2, 2, 1]);
    assert_eq!(counts(&world.of(&whom("dave")).await), [4, 1, 1, 1, 0, 0]);
    assert_eq!(counts(&world.of(&whom("olivia")).await), [0; 6], "who cannot answer was not asked");
    let median = world.of(&whom("dana")).await.waits.median().unwrap();
    assert!(median.abs_diff(10 * SECOND) * 16 <= 10 * SECOND, "the lower of 10 s and 63 s, not {median:?}");
}

#[tokio::test]
async fn what_is_shared_or_taken_back_is_counted_once() {
    let world = world().await;
    let asked = world.ask().await;
    assert_eq!(world.ask().await, asked);
    world.vote("dana", asked).await.unwrap();
    assert_eq!(counts(&world.of(&rule()).await), [1, 1, 0, 1, 0, 0]);
    // Counting again counts nothing.
    assert_eq!(counts(&world.of(&rule()).await), [1, 1, 0, 1, 0, 0]);
    // An approved one that is denied after all counts as both.
    world.say("dave", asked, Says::Deny, "no").await.unwrap();
    assert_eq!(counts(&world.of(&rule()).await), [1, 1, 1, 1, 0, 0]);
    assert_eq!(counts(&world.of(&whom("dave")).await), [1, 0, 1, 0, 0, 0]);
}

#[tokio::test]
async fn what_was_put_before_a_start_is_not_known_to_be_seen_first() {
    let (kernel, clock) = (Arc::new(MemoryKernel::default()), Arc::new(ManualClock::new(START)));
    let world = World::at(Arc::clone(&kernel), Arc::clone(&clock), parts(), with_readers()).await;
    let asked = world.ask().await;
    world.look("dana", asked).await;
    clock.advance(60 * SECOND);
    let after = Engine::open(kernel, Box::new(clock), parts()).await.unwrap();
    let view = after.approval(&call("dana", "GetApproval"), asked).await.unwrap();
    after.sent(&view);
    let shown = view.approval.value;
    let ballot = Ballot {
        approval: asked,
        verdict: Says::Approve,
        digest: shown.digest,
        view: shown.view,
        comment: String::new(),
        signed: None,
    };
    after.vote(&call("dana", "CastVote"), &ballot).await.unwrap();
    let figures = after.figures(&call("dana", "GetApprovalFigures"), None, 10).await.unwrap().items;
    assert_eq!(counts(&figures[0]), [1, 1, 0, 1, 0, 0]);
}

#[tokio::test]
async fn a_person_sees_their_own_figures_and_readers_see_all() {
    let world = world().await;
    let asked = world.ask().await;
    world.vote("dana", asked).await.unwrap();
    let own = world.figures("dana").await.unwrap();
    assert_eq!(own.iter().map(|figures| &figures.subject).collect::<Vec<_>>(), [&whom("dana")]);
    assert_eq!(world.figures("olivia").await.unwrap(), []);
    let refused = world.figures("agent:bot").await;
    assert!(matches!(refused, Err(Error::AdministrationDenied { .. })), "{refused:?}");
    let all: Vec<Subject> = world.figures("adam").await.unwrap().into_iter().map(|figures| figures.subject).collect();
    assert_eq!(all, [rule(), whom("dana"), whom("dave")]);
    // Page by page.
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = world.engine.figures(&call("adam", "GetApprovalFigures"), after.as_ref(), 1).await.unwrap();
        paged.extend(page.items.into_iter().map(|figures| figures.subject));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(paged, all);
}

#[tokio::test]
async fn each_record_counts_once_however_many_persons_it_is_about_and_whoever_counts() {
    let world = world().await;
    let many: Vec<EntityChange> = (0..70).map(|n| person(&format!("p{n}"), &["owners"])).collect();
    for some in many.chunks(20) {
        world.change("service:sync", some).await.unwrap();
    }
    for note in ["1", "2", "3"] {
        world.ask_for(note).await;
    }
    let counting = (0..4).map(|_| {
        let engine = Arc::clone(&world.engine);
        tokio::spawn(async move { engine.count_figures().await })
    });
    for counted in futures::future::join_all(counting).await {
        counted.unwrap().unwrap();
    }
    let all = world.figures("adam").await.unwrap();
    assert_eq!(all.len(), 1 + 72);
    assert!(all.iter().all(|figures| counts(figures) == [3, 0, 0, 0, 0, 0]), "{all:?}");
}
