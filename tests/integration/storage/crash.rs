//! SIGKILL in the middle of everything. Every acknowledged change is there afterwards, and nothing is possible twice.

use std::sync::{Arc, Mutex};

use countersign::client::Client;
use countersign::proto::*;
use tokio::sync::watch;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::{PATIENCE, Server};

/// What a client was told had happened.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "few are kept, and for a test")]
enum Fact {
    Redeemed { request: RedeemRequest, receipt: RedeemResponse },
    Revoked { token: String, capability: String },
    Voted { approval: String, person: String },
    Ended { session: String, token: String },
}

/// What was sent and not answered.
#[derive(Debug, Default)]
struct Ledger {
    facts: Vec<Fact>,
    unanswered: Vec<RedeemRequest>,
}

/// The clients of one life of a server.
#[derive(Clone)]
struct Cast {
    agent: Client,
    gateway: Client,
    security: Client,
    voters: Vec<(String, Client)>,
}

impl Cast {
    async fn of(server: &Server) -> Self {
        let mut voters = Vec::new();
        for person in ["dana", "dave"] {
            voters.push((person.to_owned(), server.person(person).await));
        }
        Self {
            agent: server.client(AGENT, Some(OPERATOR), &[]).await,
            gateway: server.person(REDEEMER).await,
            security: server.person("sam").await,
            voters,
        }
    }
}

struct Load {
    ledger: Arc<Mutex<Ledger>>,
    count: watch::Sender<usize>,
}

impl Load {
    fn note(&self, fact: Fact) {
        self.ledger.lock().unwrap().facts.push(fact);
        self.count.send_modify(|n| *n += 1);
    }

    /// Works until the server is gone.
    async fn work(&self, cast: &Cast, worker: i64) -> Result<(), countersign::client::ClientError> {
        for round in 0.. {
            let request = OpenSessionRequest { purpose: "load".to_owned(), ..OpenSessionRequest::default() };
            let session = cast.agent.open_session(request).await?.session.unwrap().session_id;
            let minted = mint(&cast.agent, &session, &describe(), "").await?.capability.unwrap();
            self.redeem(cast, spending(&minted.token, &describe())).await?;
            let minted = mint(&cast.agent, &session, &describe(), "").await?.capability.unwrap();
            revoke(&cast.security, &minted.capability_id).await?;
            self.note(Fact::Revoked { token: minted.token, capability: minted.capability_id });
            let export = export(worker * 1_000_000 + round + 1);
            let pending = ask(&cast.agent, &session, &export).await?;
            for (person, client) in &cast.voters {
                client.cast_vote(ballot(&pending, VoteVerdict::Approve)).await?;
                self.note(Fact::Voted { approval: pending.approval_id.clone(), person: person.clone() });
            }
            let minted = mint(&cast.agent, &session, &export, &pending.approval_id).await?.capability.unwrap();
            self.redeem(cast, spending(&minted.token, &export)).await?;
            let last = mint(&cast.agent, &session, &describe(), "").await?.capability.unwrap();
            end(&cast.agent, &session).await?;
            self.note(Fact::Ended { session, token: last.token });
        }
        Ok(())
    }

    async fn redeem(&self, cast: &Cast, request: RedeemRequest) -> Result<(), countersign::client::ClientError> {
        match cast.gateway.redeem(request.clone()).await {
            Ok(receipt) => {
                assert!(!receipt.replayed);
                self.note(Fact::Redeemed { request, receipt });
                Ok(())
            }
            Err(error) => {
                self.ledger.lock().unwrap().unanswered.push(request);
                Err(error)
            }
        }
    }
}

/// Runs load until there are so many facts, and kills the server then.
async fn killed_under_load(server: &mut Server, ledger: &Arc<Mutex<Ledger>>, facts: usize) {
    let (count, counted) = watch::channel(0);
    let load = Arc::new(Load { ledger: Arc::clone(ledger), count });
    let mut workers = Vec::new();
    for worker in 0..8 {
        let (load, cast) = (Arc::clone(&load), Cast::of(server).await);
        workers.push(tokio::spawn(async move {
            let error = load.work(&cast, worker).await.unwrap_err();
            // Gone in the middle of a word, or not there any more: whatever it is, it is no answer.
            let code = error.refusal().map(|refusal| refusal.code());
            assert!(matches!(code, None | Some(Code::Unavailable)), "{error}");
        }));
    }
    let mut counted = counted.clone();
    tokio::time::timeout(PATIENCE, counted.wait_for(|n| *n >= facts)).await.unwrap().unwrap();
    server.kill().await;
    for worker in workers {
        tokio::time::timeout(PATIENCE, worker).await.unwrap().unwrap();
    }
}

async fn still_holds(cast: &Cast, fact: &Fact) {
    match fact {
        Fact::Redeemed { request, receipt } => {
            // The lost reply that was not lost: the same receipt, which authorizes nothing.
            let again = cast.gateway.redeem(request.clone()).await.unwrap();
            assert_eq!(again, RedeemResponse { replayed: true, log_index: None, ..receipt.clone() });
            spent(cast, request, receipt).await;
        }
        Fact::Revoked { token, capability } => {
            let (code, reason) = refused(redeem(&cast.gateway, token, &describe()).await);
            assert_eq!(code, Code::PermissionDenied);
            assert!(matches!(reason.as_str(), "CAPABILITY_REVOKED" | "SESSION_OVER"), "{reason}");
            assert_eq!(capability_state(&cast.agent, capability).await.unwrap(), CapabilityState::Revoked);
        }
        Fact::Voted { approval, person } => {
            let approval = show(&cast.agent, approval).await.unwrap();
            let votes: Vec<_> = approval.votes.iter().map(|vote| vote.person.clone().unwrap().id).collect();
            assert_eq!(votes.iter().filter(|id| *id == person).count(), 1, "{approval:?}");
        }
        Fact::Ended { session, token } => {
            let asked = decide(&cast.agent, session, &describe()).await;
            assert_eq!(refused(asked), (Code::PermissionDenied, "SESSION_OVER".to_owned()));
            assert_eq!(refused(redeem(&cast.gateway, token, &describe()).await).0, Code::PermissionDenied);
        }
    }
}

/// A new attempt at a token that was spent fails, also if its session is over by now.
async fn spent(cast: &Cast, request: &RedeemRequest, receipt: &RedeemResponse) {
    let anew = RedeemRequest { request_id: crate::harness::fresh_id(), ..request.clone() };
    let (_, reason) = refused(cast.gateway.redeem(anew).await);
    assert!(matches!(reason.as_str(), "ALREADY_REDEEMED" | "SESSION_OVER"), "{reason}");
    let state = capability_state(&cast.agent, &receipt.capability_id).await.unwrap();
    assert_eq!(state, CapabilityState::Redeemed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_a_kill_is_there_after_it() {
    let mut server = Server::dev().await;
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    for round in 1..=3 {
        killed_under_load(&mut server, &ledger, 120).await;
        server.log_verifies_offline().await;
        server.restart().await;
        let cast = Cast::of(&server).await;
        let Ledger { facts, unanswered } = std::mem::take(&mut *ledger.lock().unwrap());
        assert!(facts.len() >= 120, "round {round}");
        for fact in &facts {
            still_holds(&cast, fact).await;
        }
        for request in &unanswered {
            // Whether it happened nobody knows, and it happens at most once: the same id settles it, in either way. The
            // session is open still, because its worker broke off here.
            let settled = cast.gateway.redeem(request.clone()).await.unwrap();
            let again = cast.gateway.redeem(request.clone()).await.unwrap();
            assert!(again.replayed && again.capability_id == settled.capability_id);
            spent(&cast, request, &settled).await;
        }
        // Exactly one record of each redeem, in all the lives of the server.
        let records = server.audit_records().await;
        for fact in &facts {
            if let Fact::Redeemed { receipt, .. } = fact {
                let of = |record: &&crate::harness::AuditRecord| {
                    record.kind == "redeem" && record.text("/capability") == receipt.capability_id
                };
                assert_eq!(records.iter().filter(of).count(), 1);
            }
        }
    }
    assert!(server.terminate().await.status.success());
    server.log_verifies_offline().await;
}
