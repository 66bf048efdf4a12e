//! A service in memory that is played by hand, for what a random sequence does not do.

use std::sync::Arc;

use countersign_core::time::ManualClock;
use countersign_core::{ApprovalId, Timestamp};
use countersign_engine::{Decision, Engine, Error, RevisionRule, Verdict};
use countersign_store::fail::FailPoint;
use countersign_store::repository::Repository;
use countersign_store::{Kernel, MemoryKernel};

use crate::backend::acme;
use crate::request::{Acting, Action, Caller, Request, Sent};
use crate::service::{Asked, Minted, Names, START, Told, class, open, send, source};
use crate::world::{Deed, Party, Variant};

pub struct Hand<K: Kernel = MemoryKernel> {
    pub kernel: Arc<K>,
    pub clock: Arc<ManualClock>,
    pub engine: Arc<Engine<K>>,
    pub names: Names,
    next_id: usize,
}

impl Hand {
    /// A service in memory, with one session of the bot's.
    pub async fn new() -> Self {
        Self::on(Arc::new(MemoryKernel::new(FailPoint::default()))).await
    }
}

impl<K: Kernel> Hand<K> {
    pub async fn on(kernel: Arc<K>) -> Self {
        let mut hand = Self::bare(kernel).await;
        hand.open_session().await;
        hand
    }

    /// Without a session.
    pub async fn bare(kernel: Arc<K>) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
        let engine = open(Arc::clone(&kernel), &clock).await.unwrap();
        engine.activate(source(Variant::Base), RevisionRule::NotLower).await.unwrap();
        Self { kernel, clock, engine, names: Names::default(), next_id: 0 }
    }

    /// Sends what must be taken, and gives what is new its number.
    pub async fn play(&mut self, caller: Caller, request: Request) -> Sent {
        let sent = self.sent(caller, request);
        let (told, _) = send(&self.engine, &self.names, &sent).await.unwrap();
        match (told, request) {
            (Told::Session(id), Request::Open { .. }) => self.names.sessions.push(Some(id)),
            (Told::Asked(id, _), _) => self.name_question(id).await,
            (Told::Decision(decision), Request::Decide { action, mint: true, .. }) => {
                self.name_capability(*decision, action);
            }
            (Told::Broken(broken), Request::Break { action, mint }) => {
                self.names.reviews.push(broken.review);
                if mint {
                    self.name_capability(broken.decision, action);
                }
            }
            _ => {}
        }
        sent
    }

    pub async fn open_session(&mut self) {
        let request = Request::Open { acting: Acting::Caller, operator: None, seconds: 3_600 };
        let Told::Session(id) = self.accepted(Caller::Is(Party::Bot), request).await else { panic!("no session") };
        self.names.sessions.push(Some(id));
    }

    pub fn sent(&mut self, caller: Caller, request: Request) -> Sent {
        self.next_id += 1;
        Sent { caller, id: Some(self.next_id), other_body: false, request }
    }

    pub async fn send(&mut self, caller: Caller, request: Request) -> Result<(Told, bool), Error> {
        let sent = self.sent(caller, request);
        send(&self.engine, &self.names, &sent).await
    }

    /// Sends what must be taken.
    pub async fn accepted(&mut self, caller: Caller, request: Request) -> Told {
        let (told, replayed) = self.send(caller, request).await.unwrap();
        assert!(!replayed);
        told
    }

    /// Sends what must be refused, and says how it was.
    pub async fn refused(&mut self, caller: Caller, request: Request) -> String {
        class(&self.send(caller, request).await.expect_err("it was taken"))
    }

    pub const fn action(session: usize, deed: Deed) -> Action {
        Action { session, deed, doc: 0, n: 0, at: Party::Door }
    }

    pub async fn mint(&mut self, deed: Deed) {
        self.mint_in(0, deed).await;
    }

    /// Mints for a deed that needs no approval, or for one with the newest question's.
    pub async fn mint_in(&mut self, session: usize, deed: Deed) {
        let action = Self::action(session, deed);
        let approval = self.names.questions.len().checked_sub(1).filter(|_| deed != Deed::Read);
        let request = Request::Decide { action, acting: Acting::Caller, approval, mint: true };
        let Told::Decision(decision) = self.accepted(Caller::Is(Party::Bot), request).await else {
            panic!("no decision")
        };
        self.name_capability(*decision, action);
    }

    fn name_capability(&mut self, decision: Decision, action: Action) {
        let Verdict::Allow { capability: Some((id, _)) } = decision.verdict else {
            panic!("not minted: {:?}", decision.verdict)
        };
        let token = decision.token.unwrap().expose().to_owned();
        self.names.capabilities.push(Some(Minted { id, token, action }));
    }

    pub async fn ask(&mut self, deed: Deed) {
        let request = Request::Ask { action: Self::action(0, deed), acting: Acting::Caller };
        let Told::Asked(id, _) = self.accepted(Caller::Is(Party::Bot), request).await else { panic!("not asked") };
        self.name_question(id).await;
    }

    async fn name_question(&mut self, id: ApprovalId) {
        let repo = Repository::new(Arc::clone(&self.kernel), acme());
        let row = repo.approval(id).await.unwrap().unwrap().value;
        self.names.questions.push(Some(Asked { id, digest: row.digest, view: row.view }));
    }

    pub async fn log_size(&self) -> u64 {
        self.kernel.log_size(&acme()).await.unwrap()
    }
}
