//! Pre-approvals: their time, their uses under contention, and what is kept of the example that they are asked with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::approval::{ApprovalError, ApprovalState};
use countersign_core::pre_approval::Bounds;
use countersign_core::{ApprovalId, Value};
use countersign_engine::{Acting, Ask, Decide, Decision, Error, Operation, Verdict};
use countersign_store::{Kernel, MemoryKernel};

use crate::{SCHEMA, WORK, World, call, dataset, files, operation, parts, source};

pub(crate) fn offering() -> BTreeMap<String, String> {
    let mut files = files();
    let work = WORK.replace("@id(\"asks\")", "@id(\"asks\") @pre_approval(\"3 uses, 30m\")");
    files.insert("policies/work.cedar".to_owned(), work);
    files
}

async fn world() -> World<MemoryKernel> {
    World::with(Arc::new(MemoryKernel::default()), parts(), offering()).await
}

impl<K: Kernel> World<K> {
    pub(crate) async fn pre_approve(&self, operation: Operation, uses: u32, seconds: u64) -> Result<ApprovalId, Error> {
        let ask = Ask {
            session: self.session,
            operation,
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            justification: "because".to_owned(),
        };
        let bounds = Bounds { uses, seconds };
        let asked = self.engine.pre_approve(&call("agent:bot", "RequestApproval"), &ask, bounds).await?;
        Ok(asked.answer.0)
    }

    async fn do_it(&self, operation: Operation, approval: ApprovalId) -> Result<Decision, Error> {
        let decide = Decide {
            session: self.session,
            operation,
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            approval: Some(approval),
            mint: false,
            holder: None,
            open: false,
            entity_revision: None,
        };
        self.engine.decide(&call("agent:bot", "Decide"), &decide).await.map(|decision| decision.answer)
    }
}

fn noted(note: &str) -> Operation {
    let mut operation = operation("export", "docs");
    operation.input.insert("note".to_owned(), Value::String(note.to_owned()));
    operation
}

#[tokio::test]
async fn it_lasts_from_its_approval_on_and_not_a_millisecond_longer() {
    let world = world().await;
    let approval = world.pre_approve(noted("first"), 3, 1_800).await.unwrap();
    world.clock.advance(Duration::from_secs(600));
    world.vote("dana", approval).await.unwrap();
    world.clock.advance(Duration::from_secs(1_800) - Duration::from_millis(1));
    let last = world.do_it(noted("second"), approval).await.unwrap();
    assert!(matches!(last.verdict, Verdict::Allow { capability: None }), "{last:?}");
    world.clock.advance(Duration::from_millis(1));
    let late = world.do_it(noted("third"), approval).await;
    assert!(matches!(late, Err(Error::Approval(ApprovalError::State("expired")))), "{late:?}");
}

#[tokio::test]
async fn it_never_outlives_its_session() {
    let world = world().await;
    // The session lasts an hour: what is asked too late for it is refused, and what is approved too late ends with it.
    let approval = world.pre_approve(noted("first"), 3, 1_800).await.unwrap();
    world.clock.advance(Duration::from_secs(1_801));
    let late = world.pre_approve(noted("second"), 2, 1_800).await;
    assert!(matches!(&late, Err(Error::InvalidField { field, .. }) if field == "pre_approval.duration"), "{late:?}");
    let expired = world.vote("dana", approval).await;
    assert!(matches!(expired, Err(Error::Approval(ApprovalError::State("expired")))), "{expired:?}");
    let short = world.pre_approve(noted("third"), 2, 1_500).await.unwrap();
    world.clock.advance(Duration::from_secs(800));
    world.vote("dana", short).await.unwrap();
    world.clock.advance(Duration::from_secs(998));
    world.do_it(noted("fourth"), short).await.unwrap();
    world.clock.advance(Duration::from_secs(1));
    assert!(matches!(world.do_it(noted("fifth"), short).await, Err(Error::SessionOver(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_use_it_at_once_so_many_are_allowed_as_there_are_uses() {
    let world = Arc::new(world().await);
    let approval = world.pre_approve(noted("first"), 3, 600).await.unwrap();
    world.vote("dana", approval).await.unwrap();
    let uses = (0..24).map(|number| {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.do_it(noted(&format!("use {number}")), approval).await })
    });
    let mut allowed = 0;
    for used in futures::future::join_all(uses).await {
        match used.unwrap() {
            Ok(Decision { verdict: Verdict::Allow { .. }, .. }) => allowed += 1,
            Err(Error::Approval(ApprovalError::UsedUp(3))) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(allowed, 3);
    let seen = world.engine.changed_approval(&call("dana", "GetApproval"), approval).await.unwrap();
    assert!(matches!(seen.state, ApprovalState::Redeemed { .. }), "{seen:?}");
    assert_eq!(seen.approval.value.pre_approval().unwrap().charged(), 3);
}

#[tokio::test]
async fn nothing_of_the_example_is_shown_or_kept() {
    let mut files = offering();
    files.insert("schema.cedarschema".to_owned(), SCHEMA.replace("note?", "@sensitive note?"));
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    let approval = world.pre_approve(noted("hunter2"), 3, 600).await.unwrap();
    world.vote("dana", approval).await.unwrap();
    let seen = world.engine.changed_approval(&call("dana", "GetApproval"), approval).await.unwrap();
    let row = serde_json::to_string(&seen.approval.value).unwrap();
    let mut kept = vec![row];
    let kernel = world.kernel();
    let acme = world.engine.tenant();
    for (_, record) in kernel.log_entries(acme, 0, 512).await.unwrap() {
        kept.push(String::from_utf8(record.to_vec()).unwrap());
    }
    assert!(kept.iter().any(|text| text.contains("approval_requested")));
    for text in kept {
        assert!(!text.contains("hunter2") && !text.contains("__commitment"), "{text}");
    }
    // It is used with a sensitive input all the same, which enters as a commitment.
    let used = world.do_it(noted("hunter3"), approval).await.unwrap();
    assert!(matches!(used.verdict, Verdict::Allow { .. }), "{used:?}");
    world.engine.reconsider(approval).await.unwrap();
    let seen = world.engine.changed_approval(&call("dana", "GetApproval"), approval).await.unwrap();
    assert_eq!(seen.state, ApprovalState::Approved, "conditions are judged without an input");
}

#[tokio::test]
async fn a_resource_that_nothing_permits_any_more_makes_it_void() {
    let world = world().await;
    let approval = world.pre_approve(noted("first"), 3, 600).await.unwrap();
    world.vote("dana", approval).await.unwrap();
    world.change("service:sync", &[dataset("docs", "secret")]).await.unwrap();
    world.engine.reconsider(approval).await.unwrap();
    let used = world.do_it(noted("second"), approval).await;
    assert!(matches!(used, Err(Error::Approval(ApprovalError::State("void")))), "{used:?}");
}

#[tokio::test]
async fn a_rule_that_offers_less_by_now_counts_for_nothing() {
    let world = world().await;
    let approval = world.pre_approve(noted("first"), 3, 600).await.unwrap();
    world.vote("dana", approval).await.unwrap();
    // Before anybody judges it again.
    for work in [WORK.to_owned(), offering()["policies/work.cedar"].replace("3 uses", "2 uses")] {
        let mut tightened = files();
        tightened.insert("policies/work.cedar".to_owned(), work);
        world.engine.activate(source(tightened), countersign_engine::RevisionRule::NotLower).await.unwrap();
        let answer = world.do_it(noted("second"), approval).await.unwrap();
        assert!(matches!(answer.verdict, Verdict::NeedsApproval { .. }), "{answer:?}");
    }
    world.engine.activate(source(offering()), countersign_engine::RevisionRule::NotLower).await.unwrap();
    let answer = world.do_it(noted("third"), approval).await.unwrap();
    assert!(matches!(answer.verdict, Verdict::Allow { .. }), "{answer:?}");
}
