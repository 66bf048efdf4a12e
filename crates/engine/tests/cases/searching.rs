//! Searches of the log: what the index finds is what is there.

use std::collections::BTreeSet;

use countersign_core::time::ManualClock;
use countersign_engine::{Field, Question, entity_value};
use countersign_store::Commit;
use countersign_store::questions::SEGMENT;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::*;

async fn world() -> World<MemoryKernel> {
    let mut files = files();
    let log = "\n@id(\"log\") permit (principal in Group::\"admins\", action == Action::\"readLog\", resource);\n";
    files.get_mut("admin/admin.cedar").unwrap().push_str(log);
    World::with(Arc::new(MemoryKernel::default()), parts(), files).await
}

/// A record as the naive search knows it.
#[derive(Debug, Clone)]
struct Written {
    at: Timestamp,
    values: BTreeSet<(Field, String)>,
}

const KINDS: [&str; 3] = ["decision", "redeem", "vote"];
const VERDICTS: [&str; 3] = ["ALLOW", "DENY", "approve"];

/// The record with this number: some values are everywhere, some in one stretch only, some once.
fn record(number: u64) -> (Written, String) {
    // Neighbours are not alike, and their times are not in order.
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let pick = |of: &[&'static str], by: u64| of[usize::try_from((mixed / by) % of.len() as u64).unwrap()];
    let (kind, verdict) = (pick(&KINDS, 1), pick(&VERDICTS, 7));
    let stretch = number / 700;
    let principal = if mixed.is_multiple_of(5) { format!("rare{stretch}") } else { "bot".to_owned() };
    let at = Timestamp::from_millis(START.millis() + i64::try_from(number * 10 + mixed % 300).unwrap());
    let capability = format!("cap_{}", number / 3);
    let action = json!({ "principal": { "type": "Agent", "id": principal }, "operation": "export" });
    let text = json!({
        "v": 1, "at": at, "kind": kind, "verdict": verdict, "capability": capability, "action": action.to_string(),
    });
    let values = [
        (Field::Kind, kind.to_owned()),
        (Field::Verdict, verdict.to_owned()),
        (Field::Capability, capability),
        (Field::Operation, "export".to_owned()),
        (Field::Principal, entity_value(&EntityRef::new("Agent", principal).unwrap())),
    ];
    (Written { at, values: values.into() }, text.to_string())
}

impl World<MemoryKernel> {
    /// Fills the log up to this size; what stands in it from its beginning on that is not of [`record`] is `None`.
    async fn fill(&self, size: u64, known: &mut Vec<Option<Written>>) {
        let tenant = self.engine.tenant().clone();
        known.resize(usize::try_from(self.kernel().log_size(&tenant).await.unwrap()).unwrap(), None);
        let mut next = known.len() as u64;
        while next < size {
            let end = size.min(next + 50);
            let commit = (next..end).fold(Commit::new(tenant.clone()), |commit, number| {
                let (written, text) = record(number);
                known.push(Some(written));
                commit.record(text)
            });
            self.kernel().commit(commit).await.unwrap();
            next = end;
        }
    }

    /// Drops the records before one, which are then known to nobody.
    async fn drop_before(&self, minimum: u64, known: &mut [Option<Written>]) {
        let commit = Commit::new(self.engine.tenant().clone()).record("{}").prune(minimum);
        self.kernel().commit(commit).await.unwrap();
        known[..usize::try_from(minimum).unwrap()].fill(None);
    }

    /// All that is found, page by page, and over how many pages.
    async fn searched(&self, question: &Question, limit: usize) -> (Vec<u64>, usize) {
        let (mut all, mut place, mut pages) = (Vec::new(), None, 0);
        loop {
            let answers = self.engine.search(&call("adam", "SearchRecords"), question, place, limit).await.unwrap();
            assert!(answers.records.len() <= limit);
            all.extend(answers.records.into_iter().map(|(index, _)| index));
            pages += 1;
            place = answers.next;
            if place.is_none() {
                return (all, pages);
            }
        }
    }
}

fn naive(known: &[Option<Written>], question: &Question) -> Vec<u64> {
    let wanted = |written: &Written| {
        question.values.iter().all(|value| written.values.contains(value))
            && question.from.is_none_or(|from| written.at >= from)
            && question.until.is_none_or(|until| written.at < until)
    };
    let found =
        (0_u64..).zip(known).filter(|(_, written)| written.as_ref().is_some_and(wanted)).map(|(index, _)| index);
    let mut found: Vec<u64> = found.collect();
    if !question.oldest_first {
        found.reverse();
    }
    found
}

fn questions(size: u64) -> impl Strategy<Value = (Question, usize)> {
    // Every question names the operation, which nothing else in the log has.
    let values = (
        proptest::option::of(0..4_usize),
        proptest::option::of(0..3_usize),
        proptest::option::weighted(0.3, 0..size),
        proptest::option::of(0..9_u64),
    );
    let times = (proptest::option::weighted(0.3, 0..size), proptest::option::weighted(0.3, 0..size));
    (values, times, any::<bool>(), prop_oneof![Just(1_000_usize), 40..200_usize]).prop_map(
        |((kind, verdict, number, rare), (from, until), oldest_first, limit)| {
            let at = |number: u64| Timestamp::from_millis(START.millis() + i64::try_from(number * 10).unwrap());
            let principal = rare.map(|rare| if rare == 0 { "bot".to_owned() } else { format!("rare{rare}") });
            let values = [
                Some((Field::Operation, "export".to_owned())),
                kind.map(|kind| (Field::Kind, KINDS.get(kind).unwrap_or(&"revoke").to_string())),
                verdict.map(|verdict| (Field::Verdict, VERDICTS[verdict].to_owned())),
                number.map(|number| (Field::Capability, format!("cap_{}", number / 3))),
                principal.map(|id| (Field::Principal, entity_value(&EntityRef::new("Agent", id).unwrap()))),
            ];
            let values = values.into_iter().flatten().collect();
            (Question { values, from: from.map(at), until: until.map(at), oldest_first }, limit)
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_index_finds_is_what_reading_all_of_the_log_finds() {
    let world = world().await;
    let mut known = Vec::new();
    // Nothing indexed; segments indexed and a part of one that is not; more of that; all of it; and with ever less that is kept.
    let stages = [
        (2_000, false, 0),
        (2_900, true, 0),
        (3_400, false, 0),
        (SEGMENT * 4, true, 0),
        (SEGMENT * 5, false, SEGMENT),
        (SEGMENT * 6 + 7, true, SEGMENT * 3),
    ];
    for (size, index, minimum) in stages {
        world.fill(size, &mut known).await;
        if minimum > 0 {
            world.drop_before(minimum, &mut known).await;
        }
        if index {
            world.engine.index_log(false).await.unwrap();
        }
        let runtime = tokio::runtime::Handle::current();
        let (world, known) = (&world, &known);
        tokio::task::block_in_place(|| {
            let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
            let outcome = runner.run(&questions(size), |(question, limit)| {
                let (found, _) = runtime.block_on(world.searched(&question, limit));
                prop_assert_eq!(found, naive(known, &question));
                Ok(())
            });
            outcome.unwrap();
        });
    }
}

#[tokio::test]
async fn the_log_is_found_whole_when_nothing_is_asked_for() {
    let world = world().await;
    let mut known = Vec::new();
    world.fill(SEGMENT + 300, &mut known).await;
    for indexed in [false, true] {
        if indexed {
            world.engine.index_log(false).await.unwrap();
        }
        let size = world.kernel().log_size(world.engine.tenant()).await.unwrap();
        let all = Question { oldest_first: true, ..Question::default() };
        assert_eq!(world.searched(&all, 1_000).await.0, (0..size).collect::<Vec<_>>());
        let back = world.searched(&Question::default(), 777).await.0;
        assert_eq!(back, (0..size).rev().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_index_that_is_made_anew_begins_with_what_is_kept() {
    let world = world().await;
    let mut known = Vec::new();
    world.fill(SEGMENT * 3 + 40, &mut known).await;
    world.drop_before(SEGMENT * 2, &mut known).await;
    let question = Question { values: vec![(Field::Operation, "export".to_owned())], ..Question::default() };
    for _ in 0..2 {
        let answers = world.engine.search(&call("adam", "SearchRecords"), &question, None, 1_000).await.unwrap();
        assert_eq!(answers.minimum_index, SEGMENT * 2);
        assert_eq!(world.searched(&question, 1_000).await.0, naive(&known, &question));
        world.engine.index_log(false).await.unwrap();
    }
}

#[tokio::test]
async fn a_page_that_takes_long_ends_early_and_the_next_goes_on() {
    let world = world().await;
    let mut known = Vec::new();
    world.fill(SEGMENT * 6, &mut known).await;
    // Nothing is indexed, and what is asked for stands at the far end.
    let question = Question { values: vec![(Field::Capability, "cap_100".to_owned())], ..Question::default() };
    let (found, pages) = world.searched(&question, 10).await;
    assert_eq!(found, [302, 301, 300]);
    assert!(pages > 1, "{pages}");
    world.engine.index_log(false).await.unwrap();
    assert_eq!(world.searched(&question, 10).await, (found, 1));
}

#[tokio::test]
async fn many_who_index_at_once_write_one_index() {
    let world = world().await;
    let mut known = Vec::new();
    world.fill(SEGMENT * 2 + 5, &mut known).await;
    let indexing = (0..4).map(|_| {
        let engine = Arc::clone(&world.engine);
        tokio::spawn(async move { engine.index_log(false).await })
    });
    for indexed in futures::future::join_all(indexing).await {
        indexed.unwrap().unwrap();
    }
    let question = Question { values: vec![(Field::Verdict, "DENY".to_owned())], ..Question::default() };
    let operation = Question { values: vec![(Field::Operation, "export".to_owned())], ..Question::default() };
    assert_eq!(world.searched(&operation, 1_000).await.0, naive(&known, &operation));
    let asked = Question { values: [question.values, operation.values].concat(), ..Question::default() };
    assert_eq!(world.searched(&asked, 1_000).await.0, naive(&known, &asked));
}

#[tokio::test]
async fn a_search_needs_what_reading_the_log_needs_and_finds_what_the_use_cases_wrote() {
    let world = World { clock: Arc::new(ManualClock::new(START)), ..world().await };
    let search = async |who: &str, question: &Question| {
        world.engine.search(&call(who, "SearchRecords"), question, None, 10).await.map(|answers| answers.records)
    };
    let approval = world.ask_with(operation("export", "docs")).await.unwrap();
    world.decide("query", "docs", None).await.unwrap();
    for who in ["dana", "agent:bot"] {
        let refused = search(who, &Question::default()).await;
        assert!(matches!(refused, Err(Error::AdministrationDenied { action: "readLog", .. })), "{refused:?}");
    }
    let value = |field, value: &str| Question { values: vec![(field, value.to_owned())], ..Question::default() };
    for (question, expected) in [
        (value(Field::Approval, &approval.to_string()), 1),
        (value(Field::Operation, "query"), 1),
        (value(Field::Rule, "asks"), 1),
        (value(Field::Resource, &entity_value(&entity("Dataset::\"docs\""))), 3),
        (value(Field::Mark, "minted"), 1),
        (value(Field::Mark, "break_glass"), 0),
    ] {
        assert_eq!(search("adam", &question).await.unwrap().len(), expected, "{question:?}");
    }
    let kinds = search("adam", &value(Field::Kind, "refusal")).await.unwrap();
    assert_eq!(kinds.len(), 2);
}
