//! The scenarios of the bundles that ship with countersign, played through the engine: sessions, questions and votes as
//! calls, each with the credential of whoever makes it. The same files are played on the policies alone and against a
//! server, and the answers must agree.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use countersign_audit::NoteSigner;
use countersign_core::approval::{ApprovalError, Verdict as Says};
use countersign_core::time::ManualClock;
use countersign_core::{ApprovalId, Digest, EntityRef, Holder, SessionId, TenantId, Timestamp};
use countersign_engine::{
    Acting, Ask, Authentication, Ballot, Call, Claims, Credential, Decide, Decision, Engine, Error, Limits,
    OpenSession, Operation, Parts, Redeem, RequestId, RevisionRule, Subject, Verdict,
};
use countersign_policy::scenario::{Earlier, Expect, Scenario, ScenarioVote, VoteExpect, VoteVerdict};
use countersign_policy::{Bundle, Source};
use countersign_store::MemoryKernel;
use countersign_token::{KeyId, SigningKey};
use zeroize::Zeroizing;

const ISSUER: &str = "https://dev.countersign.invalid";

fn subject(entity: &EntityRef) -> Subject {
    match entity.kind() {
        "Agent" => Subject::Agent(entity.id().to_owned()),
        "Service" => Subject::Service(entity.id().to_owned()),
        "Person" => Subject::Account(entity.id().to_owned()),
        other => panic!("nobody has a credential as a `{other}`"),
    }
}

/// The credential of somebody who acts for themselves, or for an operator.
fn credential(who: &EntityRef, operator: Option<&EntityRef>) -> Arc<Credential> {
    Arc::new(Credential {
        tenant: TenantId::new("acme").unwrap(),
        issuer: ISSUER.to_owned(),
        subject: subject(operator.unwrap_or(who)),
        actors: operator.map(|_| subject(who)).into_iter().collect(),
        claims: Claims::default(),
        expires_at: Timestamp::from_millis(i64::MAX),
        answers: Ok(Timestamp::from_millis(i64::MAX)),
        authentication: Authentication::default(),
        hash: Digest::of(format!("{who} for {operator:?}").as_bytes()),
    })
}

/// One scenario in the making.
struct Play<'a> {
    engine: Engine<MemoryKernel>,
    clock: Arc<ManualClock>,
    scenario: &'a Scenario,
    calls: u32,
    wrong: Vec<String>,
}

impl<'a> Play<'a> {
    async fn new(scenario: &'a Scenario, source: &Source) -> Self {
        let parts = Parts {
            tenant: TenantId::new("acme").unwrap(),
            limits: Limits::default(),
            signing: vec![SigningKey::from_seed(KeyId(1), Zeroizing::new([3; 32])).unwrap()],
            commitment: Zeroizing::new([5; 32]),
            log: NoteSigner::from_seed("scenarios.example/log", &[7; 32]).unwrap(),
            development: true,
            admission: Arc::new(countersign_engine::AdmitAll),
            sinks: Vec::new(),
        };
        let clock = Arc::new(ManualClock::new(scenario.now));
        let engine =
            Engine::open(Arc::new(MemoryKernel::default()), Box::new(Arc::clone(&clock)), parts).await.unwrap();
        engine.activate(source.clone(), RevisionRule::NotLower).await.unwrap();
        Self { engine, clock, scenario, calls: 0, wrong: Vec::new() }
    }

    fn call(&mut self, credential: Arc<Credential>, rpc: &'static str) -> Call {
        self.calls += 1;
        let id = format!("call-{}", self.calls);
        Call { credential, rpc, certificate: None, request: Some(RequestId { body: Digest::of(id.as_bytes()), id }) }
    }

    /// The principal's call, for its operator if it has one.
    fn own(&mut self, rpc: &'static str) -> Call {
        self.call(credential(&self.scenario.principal, self.scenario.operator.as_ref()), rpc)
    }

    fn operation(&self) -> Operation {
        Operation {
            name: self.scenario.operation.clone(),
            resource: self.scenario.resource.clone(),
            input: self.scenario.input.clone(),
            environment: self.scenario.environment.clone(),
        }
    }

    /// Does what was done before.
    async fn before(&mut self, session: SessionId) {
        for step in self.scenario.before.iter().flat_map(|step| std::iter::repeat_n(step, step.times as usize)) {
            let its_session = if step.earlier_session { self.open().await } else { session };
            let Earlier { operation, resource, input, environment, .. } = step.clone();
            let operation = Operation { name: operation, resource, input, environment };
            let audience = step.audience.clone().unwrap_or_else(|| self.scenario.audience.clone());
            let call = self.own("Decide");
            let decide = Decide {
                session: its_session,
                operation: operation.clone(),
                audience: audience.clone(),
                acting: Acting::Caller,
                approval: None,
                mint: step.running,
                entity_revision: None,
                holder: None,
                open: false,
            };
            let decision = self.engine.decide(&call, &decide).await.unwrap().answer;
            assert!(matches!(decision.verdict, Verdict::Allow { .. }), "`{}`: {decision:?}", self.scenario.name);
            if let Some(token) = decision.token {
                let call = self.own("Redeem");
                let redeem =
                    Redeem { token: token.expose().to_owned(), operation, audience, holder_proof: String::new() };
                self.engine.redeem(&call, &redeem).await.unwrap();
            }
            if step.earlier_session {
                let call = self.own("EndSession");
                self.engine.end_session(&call, its_session).await.unwrap();
            }
        }
    }

    async fn open(&mut self) -> SessionId {
        let call = self.own("OpenSession");
        // A session has a purpose; scenarios that do not care state none.
        let purpose = if self.scenario.purpose.is_empty() { "a scenario" } else { &self.scenario.purpose };
        let opening =
            OpenSession { purpose: purpose.to_owned(), ttl: None, acting: Acting::Caller, ..OpenSession::default() };
        self.engine.open_session(&call, &opening).await.unwrap().answer.value.id
    }

    async fn decide(
        &mut self,
        session: SessionId,
        approval: Option<ApprovalId>,
        mint: bool,
    ) -> Result<Decision, Error> {
        let call = self.own("Decide");
        let decide = Decide {
            session,
            operation: self.operation(),
            audience: self.scenario.audience.clone(),
            acting: Acting::Caller,
            approval,
            mint: mint || self.scenario.holder.is_some(),
            // Nobody redeems here, so any thumbprint will do.
            holder: self.scenario.holder.map(|kind| Holder { kind, thumbprint: Digest::of(b"whoever") }),
            open: false,
            entity_revision: None,
        };
        Ok(self.engine.decide(&call, &decide).await?.answer)
    }

    async fn ask(&mut self, session: SessionId) -> Result<ApprovalId, Error> {
        let call = self.own("Ask");
        let ask = Ask {
            session,
            operation: self.operation(),
            audience: self.scenario.audience.clone(),
            acting: Acting::Caller,
            justification: "the scenario wants it".to_owned(),
        };
        Ok(self.engine.ask(&call, &ask).await?.answer.0)
    }

    /// Votes on what the request shows, and says what came of it.
    async fn vote(&mut self, approval: ApprovalId, vote: &ScenarioVote) -> VoteExpect {
        // What is shown is read by the principal here: whoever is excluded may not see it, and tries all the same.
        let reading = self.own("GetApproval");
        let shown = self.engine.approval(&reading, approval).await.unwrap().approval.value;
        let ballot = Ballot {
            approval,
            verdict: if vote.verdict == VoteVerdict::Approve { Says::Approve } else { Says::Deny },
            digest: shown.digest,
            view: shown.view,
            comment: String::new(),
            signed: None,
        };
        let call = self.call(credential(&vote.person, None), "Vote");
        let voted = self.engine.vote(&call, &ballot).await;
        let reading = self.own("GetApproval");
        let state = self.engine.approval(&reading, approval).await.unwrap().state;
        match voted {
            Ok(_) => match state.word() {
                "approved" => VoteExpect::Approved,
                "denied" | "void" => VoteExpect::Ended,
                _ => VoteExpect::Counted,
            },
            Err(Error::Approval(ApprovalError::Excluded(_))) => VoteExpect::Excluded,
            Err(Error::Approval(ApprovalError::NotEligible(_))) => VoteExpect::NotEligible,
            Err(Error::Approval(ApprovalError::AlreadyVoted(_))) => VoteExpect::AlreadyVoted,
            Err(other) => panic!("`{}`: the vote of {}: {other}", self.scenario.name, vote.person),
        }
    }

    fn check(&mut self, what: &str, expected: Expect, decided: &Result<Decision, Error>) {
        if outcome(decided) != expected {
            self.wrong.push(format!("`{}`: expected {expected:?} {what}, got {decided:?}", self.scenario.name));
        }
    }

    async fn play(mut self) -> Vec<String> {
        let session = self.open().await;
        self.before(session).await;
        // Before it is decided: an ALLOW is spent at once, and what is asked after it is another question.
        let asked = self.ask(session).await;
        let first = self.decide(session, None, false).await;
        self.check("at first", self.scenario.expect, &first);
        if let (Some(rules), Ok(decision)) = (&self.scenario.rules, &first)
            && BTreeSet::from_iter(rules) != BTreeSet::from_iter(&decision.determining)
        {
            let told = &decision.determining;
            self.wrong.push(format!("`{}`: expected the rules {rules:?}, got {told:?}", self.scenario.name));
        }

        let needed = self.scenario.expect == Expect::NeedsApproval;
        // Asking knows of no holder: what is denied to one may be asked about, since another could be bound.
        let another = self.scenario.holder.is_some() && !needed;
        if asked.is_ok() != needed && !another {
            self.wrong.push(format!("`{}`: asking led to {asked:?}", self.scenario.name));
        }
        let Some(approval) = asked.ok().filter(|_| needed) else { return self.wrong };
        let mut waited = Duration::ZERO;
        for vote in &self.scenario.vote {
            self.clock.advance(vote.waited.saturating_sub(waited));
            waited = waited.max(vote.waited);
            let came = self.vote(approval, vote).await;
            if came != vote.expect {
                let (name, voter) = (&self.scenario.name, &vote.person);
                self.wrong
                    .push(format!("`{name}`: expected the vote of {voter} to be {:?}, it was {came:?}", vote.expect));
            }
        }
        if let Some(after) = self.scenario.after {
            let second = self.decide(session, Some(approval), true).await;
            self.check("after the votes", after.expect, &second);
        }
        self.wrong
    }
}

fn outcome(decided: &Result<Decision, Error>) -> Expect {
    match decided {
        Ok(decision) => match decision.verdict {
            Verdict::Allow { .. } => Expect::Allow,
            Verdict::Deny { .. } => Expect::Deny,
            Verdict::NeedsApproval { .. } => Expect::NeedsApproval,
        },
        Err(Error::InvalidField { .. }) => Expect::Invalid,
        // A request that was denied can be used for nothing, which the policies alone cannot tell from never approved.
        Err(Error::Approval(ApprovalError::State(_))) => Expect::NeedsApproval,
        Err(other) => panic!("{other}"),
    }
}

/// Plays all scenarios of a bundle and returns how many there were.
async fn play(name: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies").join(name);
    let source = Source::read_dir(&path).unwrap();
    Bundle::load(source.clone()).unwrap();
    let (mut played, mut wrong) = (0, Vec::new());
    for (path, text) in source.files().iter().filter(|(path, _)| path.starts_with("scenarios/")) {
        for scenario in Scenario::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}")) {
            played += 1;
            let what = Play::new(&scenario, &source).await.play().await;
            wrong.extend(what.into_iter().map(|what| format!("{path}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    played
}

/// Every bundle that ships is played: one without scenarios would be untested.
#[tokio::test]
async fn the_shipped_bundles_answer_through_the_engine_as_their_scenarios_say() {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    let mut played = 0;
    for entry in std::fs::read_dir(policies).unwrap() {
        let entry = entry.unwrap();
        if entry.path().join("bundle.toml").is_file() {
            let scenarios = play(entry.file_name().to_str().unwrap()).await;
            assert!(scenarios > 0, "{:?} has no scenarios", entry.file_name());
            played += scenarios;
        }
    }
    assert!(played >= 22, "only {played} scenarios");
}
