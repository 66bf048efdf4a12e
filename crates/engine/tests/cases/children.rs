//! Sessions in sessions: who opens them, what they inherit, and that they die with those above them.

use std::time::Duration;

use countersign_core::approval::{ApprovalState, VoidCause};
use countersign_core::session::{Session, SessionError, SessionState};
use countersign_engine::{Seen, Terms};
use countersign_store::repository::Stored;
use futures::StreamExt as _;

use crate::*;

const HOUR: Duration = Duration::from_secs(3_600);

/// A world in which bot can hand on to sub, sue's, and sub to leaf, lea's.
pub(crate) async fn world() -> World<MemoryKernel> {
    let world = World::new().await;
    let all = [
        person("sue", &["owners"]),
        person("lea", &[]),
        agent("sub", "sue"),
        agent("leaf", "lea"),
        agent("other", "lea"),
    ];
    world.change("service:sync", &all).await.unwrap();
    world
}

impl<K: Kernel> World<K> {
    pub(crate) async fn open_child(
        &self,
        caller: &Call,
        parent: SessionId,
        acting: Acting,
        ttl: Option<Duration>,
    ) -> Result<Stored<Session>, Error> {
        let opening =
            OpenSession { purpose: "part of it".to_owned(), ttl, acting, operator: None, ..OpenSession::default() };
        let terms = Terms { parent: Some(parent), heartbeat: None };
        self.engine.open_session_on(caller, &opening, terms).await.map(|opened| opened.answer)
    }

    /// A session of sub's in bot's.
    pub(crate) async fn child(&self) -> SessionId {
        self.open_child(&call("agent:bot", "OpenSession"), self.session, named("sub"), None).await.unwrap().value.id
    }

    pub(crate) async fn decide_in(
        &self,
        who: &str,
        session: SessionId,
        name: &str,
        approval: Option<ApprovalId>,
    ) -> Result<Decision, Error> {
        let decide = Decide {
            session,
            operation: operation(name, "docs"),
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            approval,
            mint: true,
            entity_revision: None,
            holder: None,
            open: false,
        };
        self.engine.decide(&call(who, "Decide"), &decide).await.map(|decision| decision.answer)
    }

    pub(crate) async fn ask_in(&self, who: &str, session: SessionId) -> Result<ApprovalId, Error> {
        let ask = Ask {
            session,
            operation: operation("export", "docs"),
            audience: "gate".to_owned(),
            acting: Acting::Caller,
            justification: "because".to_owned(),
        };
        self.engine.ask(&call(who, "RequestApproval"), &ask).await.map(|asked| asked.answer.0)
    }

    pub(crate) async fn redeem_it(&self, decision: &Decision) -> Result<(), Error> {
        self.engine.redeem(&call("service:gate", "Redeem"), &self.redeem(decision)).await.map(drop)
    }

    pub(crate) async fn end(&self, who: &str, session: SessionId) {
        self.engine.end_session(&call(who, "EndSession"), session).await.unwrap();
    }

    pub(crate) async fn state_of(&self, who: &str, session: SessionId) -> SessionState {
        let session = self.engine.session(&call(who, "GetSession"), session).await.unwrap();
        session.value.state(self.engine.now().unwrap())
    }

    pub(crate) async fn all_records(&self) -> Vec<Json> {
        let mut records = Vec::new();
        loop {
            let page = self.kernel().log_entries(self.engine.tenant(), records.len() as u64, 512).await.unwrap();
            if page.is_empty() {
                return records;
            }
            records.extend(page.iter().map(|(_, bytes)| serde_json::from_slice::<Json>(bytes).unwrap()));
        }
    }
}

pub(crate) fn named(agent: &str) -> Acting {
    Acting::Named(EntityRef::new("Agent", agent).unwrap())
}

#[tokio::test]
async fn a_child_acts_for_its_parents_operator_through_its_parent_and_excludes_whom_that_excludes() {
    let world = world().await;
    let bot = || call_via("olivia", &["agent:bot"], "OpenSession");
    let opening = OpenSession {
        purpose: "x".to_owned(),
        ttl: Some(HOUR),
        acting: Acting::Caller,
        operator: None,
        ..OpenSession::default()
    };
    let parent = world.engine.open_session(&bot(), &opening).await.unwrap().answer.value;
    let child = world.open_child(&bot(), parent.id, named("sub"), Some(3 * HOUR)).await.unwrap().value;
    assert_eq!((child.parent, child.deadline), (Some(parent.id), parent.deadline));
    assert_eq!((&child.operator, &child.chain[..]), (&parent.operator, &[entity("Agent::\"bot\"")][..]));
    let leaf = call("agent:sub", "OpenSession");
    let leaf = world.open_child(&leaf, child.id, named("leaf"), None).await.unwrap().value;
    assert_eq!(leaf.chain, ["Agent::\"sub\"", "Agent::\"bot\""].map(entity));
    for excluded in ["olivia", "sue"] {
        let who = EntityRef::new("Person", excluded).unwrap();
        assert!(leaf.excluded.contains(&who) || leaf.operator.as_ref() == Some(&who), "{excluded}");
    }
    // Neither the operator nor an owner along the chain answers for it (I2); sue could, were she not sub's owner.
    let approval = world.ask_in("agent:leaf", leaf.id).await.unwrap();
    for who in ["sue", "olivia"] {
        assert!(world.vote(who, approval).await.is_err(), "{who}");
    }
    world.vote("dana", approval).await.unwrap();
    let decision = world.decide_in("agent:leaf", leaf.id, "export", Some(approval)).await.unwrap();
    assert!(matches!(decision.verdict, Verdict::Allow { .. }), "{decision:?}");
    let records = world.all_records().await;
    let opened = records.iter().find(|record| record["session"]["id"] == json!(leaf.id)).unwrap();
    assert_eq!((&opened["session"]["parent"], &opened["session"]["depth"]), (&json!(child.id), &json!(2)));
    let decided = records.last().unwrap();
    assert_eq!(decided["sessions_above"], json!([child.id, parent.id]));
    assert_eq!(decided["minted"]["chain"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn whoever_acts_in_a_session_below_a_persons_acts_for_that_person() {
    let world = world().await;
    let opening = OpenSession {
        purpose: "x".to_owned(),
        ttl: None,
        acting: Acting::Caller,
        operator: None,
        ..OpenSession::default()
    };
    let own = world.engine.open_session(&call("dana", "OpenSession"), &opening).await.unwrap().answer.value.id;
    let child = world.open_child(&call("dana", "OpenSession"), own, named("sub"), None).await.unwrap().value;
    assert_eq!((child.operator.as_ref().map(EntityRef::id), child.chain.len()), (Some("dana"), 0));
    let approval = world.ask_in("agent:sub", child.id).await.unwrap();
    assert!(world.vote("dana", approval).await.is_err());
    world.vote("dave", approval).await.unwrap();
}

#[tokio::test]
async fn nobody_opens_a_session_in_anothers_or_for_themselves_in_their_own() {
    let world = world().await;
    let open = async |who: &str, acting| world.open_child(&call(who, "OpenSession"), world.session, acting, None).await;
    let others = open("agent:other", named("sub")).await;
    assert!(matches!(others, Err(Error::SessionMismatch("principal"))), "{others:?}");
    for own in [Acting::Caller, named("bot"), Acting::Named(entity("Person::\"dana\""))] {
        let refused = open("agent:bot", own).await;
        assert!(matches!(&refused, Err(Error::InvalidField { field, .. }) if field == "principal"), "{refused:?}");
    }
    // Nor one in which somebody stands twice in the chain.
    let child = open("agent:bot", named("sub")).await.unwrap().value;
    let looped = world.open_child(&call("agent:sub", "OpenSession"), child.id, named("bot"), None).await;
    assert!(matches!(&looped, Err(Error::InvalidField { field, .. }) if field == "credential"), "{looped:?}");
    // And whoever is named for another operator than the parent's is none of its.
    let opening = OpenSession {
        purpose: "x".to_owned(),
        ttl: None,
        acting: named("sub"),
        operator: Some(entity("Person::\"dana\"")),
        ..OpenSession::default()
    };
    let terms = Terms { parent: Some(world.session), heartbeat: None };
    let foreign = world.engine.open_session_on(&call("agent:bot", "OpenSession"), &opening, terms).await;
    assert!(matches!(foreign, Err(Error::SessionMismatch("operator"))), "{foreign:?}");
}

#[tokio::test]
async fn whoever_may_not_act_for_the_sub_agent_opens_no_session_for_it() {
    let mut files = files();
    let admin = r#"@id("own") permit (principal, action in [Action::"openSession", Action::"redeem"], resource);
        @id("sync") permit (principal == Service::"sync", action == Action::"changeEntities", resource);
        @id("flat") forbid (principal, action == Action::"openSession", resource) when { context.depth > 1 };
        @id("bot") permit (principal == Agent::"bot", action == Action::"actFor", resource == Agent::"sub");
        @id("sub") permit (principal == Agent::"sub", action == Action::"actFor", resource == Agent::"leaf");"#;
    files.insert("admin/admin.cedar".to_owned(), admin.to_owned());
    let world = World::with(Arc::new(MemoryKernel::default()), parts(), files).await;
    let all = [person("sue", &[]), agent("sub", "sue"), agent("other", "sue"), agent("leaf", "sue")];
    world.change("service:sync", &all).await.unwrap();
    let open = async |acting| world.open_child(&call("agent:bot", "OpenSession"), world.session, acting, None).await;
    assert!(matches!(open(named("other")).await, Err(Error::ActForDenied { .. })));
    let child = open(named("sub")).await.unwrap().value.id;
    // Policies know how deep it is.
    let deep = world.open_child(&call("agent:sub", "OpenSession"), child, named("leaf"), None).await;
    assert!(matches!(deep, Err(Error::AdministrationDenied { .. })), "{deep:?}");
}

#[tokio::test]
async fn ending_a_session_ends_all_below_it_at_once_with_all_that_is_in_them() {
    let world = world().await;
    let child = world.child().await;
    let leaf = world.open_child(&call("agent:sub", "OpenSession"), child, named("leaf"), None).await.unwrap().value.id;
    let minted = world.decide_in("agent:leaf", leaf, "query", None).await.unwrap();
    let approval = world.ask_in("agent:leaf", leaf).await.unwrap();
    let watch = Arc::clone(&world.engine).watch_approvals(call("agent:leaf", "WatchApprovals"), Some(approval), None);
    let mut watch = Box::pin(watch);
    let Some(Ok(Seen { view, .. })) = watch.next().await else { panic!("nothing told") };
    assert_eq!(view.state, ApprovalState::Pending);

    world.end("agent:bot", world.session).await;
    // Whoever waits is told at once, and not when the session's time is over.
    let told = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap();
    let Some(Ok(Seen { view, .. })) = told else { panic!("{told:?}") };
    assert_eq!(view.state, ApprovalState::Void { why: VoidCause::SessionOver });
    for (who, session) in [("agent:sub", child), ("agent:leaf", leaf)] {
        assert_eq!(world.state_of(who, session).await, SessionState::Ended);
        let decided = world.decide_in(who, session, "query", None).await;
        assert!(matches!(decided, Err(Error::SessionOver(SessionError::ParentOver))), "{decided:?}");
    }
    let listed = world.engine.sessions(&call("agent:leaf", "ListSessions"), None, 10).await.unwrap();
    assert_eq!(listed.items[0].value.state(START), SessionState::Ended);
    assert!(matches!(world.redeem_it(&minted).await, Err(Error::SessionOver(SessionError::ParentOver))));
    let voted = world.vote("dana", approval).await;
    assert!(matches!(voted, Err(Error::Approval(_))), "{voted:?}");
    assert!(matches!(world.ask_in("agent:leaf", leaf).await, Err(Error::SessionOver(_))));
    let opened = world.open_child(&call("agent:sub", "OpenSession"), child, named("leaf"), None).await;
    assert!(matches!(opened, Err(Error::SessionOver(_))), "{opened:?}");
    let ended = world.engine.end_session(&call("agent:leaf", "EndSession"), leaf).await;
    assert!(matches!(ended, Err(Error::SessionOver(SessionError::ParentOver))), "{ended:?}");
}

#[tokio::test]
async fn the_end_of_a_child_leaves_its_parent_open() {
    let world = world().await;
    let child = world.child().await;
    let minted = world.decide_in("agent:sub", child, "query", None).await.unwrap();
    world.end("agent:sub", child).await;
    assert!(matches!(world.redeem_it(&minted).await, Err(Error::SessionOver(SessionError::Ended))));
    let minted = world.decide("query", "docs", None).await.unwrap();
    world.redeem_it(&minted).await.unwrap();
}

#[tokio::test]
async fn sessions_are_only_so_deep() {
    let world = world().await;
    let deeper = ["a1", "a2", "a3", "a4", "a5"];
    let agents: Vec<_> = deeper.iter().map(|id| agent(id, "sue")).collect();
    world.change("service:sync", &agents).await.unwrap();
    let (mut who, mut session) = ("bot".to_owned(), world.session);
    for (number, next) in (1..).zip(deeper) {
        let caller = call(&format!("agent:{who}"), "OpenSession");
        let opened = world.open_child(&caller, session, named(next), None).await;
        if number > countersign_core::session::MAX_DEPTH {
            assert!(matches!(opened, Err(Error::SessionOver(SessionError::TooDeep))), "{opened:?}");
            return;
        }
        (who, session) = (next.to_owned(), opened.unwrap().value.id);
    }
    panic!("there is no end to it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_redeem_below_a_session_commits_once_its_end_is_acknowledged() {
    let world = Arc::new(world().await);
    for _round in 0..10 {
        let opening = OpenSession {
            purpose: "x".to_owned(),
            ttl: None,
            acting: Acting::Caller,
            operator: None,
            ..OpenSession::default()
        };
        let root = world.engine.open_session(&call("agent:bot", "OpenSession"), &opening).await.unwrap();
        let root = root.answer.value.id;
        let child = world.open_child(&call("agent:bot", "OpenSession"), root, named("sub"), None).await.unwrap();
        let mut minted = Vec::new();
        for _ in 0..16 {
            minted.push(world.decide_in("agent:sub", child.value.id, "query", None).await.unwrap());
        }
        let before = world.all_records().await.len();
        let redeems: Vec<_> = minted
            .into_iter()
            .map(|decision| {
                let world = Arc::clone(&world);
                tokio::spawn(async move { world.redeem_it(&decision).await })
            })
            .collect();
        world.end("agent:bot", root).await;
        let mut committed = 0;
        for redeem in redeems {
            committed += usize::from(redeem.await.unwrap().is_ok());
        }
        let records = world.all_records().await;
        let kinds: Vec<&str> = records[before..].iter().map(|record| record["kind"].as_str().unwrap()).collect();
        let end = kinds.iter().position(|kind| *kind == "session_ended").unwrap();
        assert_eq!(kinds[..end].iter().filter(|kind| **kind == "redeem").count(), committed);
        assert!(!kinds[end..].contains(&"redeem"), "{kinds:?}");
    }
}
