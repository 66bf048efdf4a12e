//! The scenario files of the shipped bundles, played through a real server: the same answers as of the policies alone.

use std::collections::{BTreeMap, BTreeSet};

use countersign::client::{Client, entity, struct_from_record};
use countersign::proto::*;
use countersign_core::{EntityRef, HolderKind, Timestamp};
use countersign_policy::scenario::{Expect, Scenario, VoteExpect, VoteVerdict as Says};
use tonic::Code;

use crate::harness::flow::{code, reason};
use crate::harness::{Bundle, Options, Server, fresh_id};

/// The subject of a credential for an entity of the bundle.
fn subject(entity: &EntityRef) -> String {
    match entity.kind() {
        "Agent" => format!("agent:{}", entity.id()),
        "Service" => format!("service:{}", entity.id()),
        "Person" => entity.id().to_owned(),
        kind => panic!("{kind} has no credentials"),
    }
}

struct Played<'a> {
    scenario: &'a Scenario,
    wrong: Vec<String>,
    decided_at: Timestamp,
}

impl Played<'_> {
    fn expect<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, expected: T, got: T) {
        if expected != got {
            self.wrong.push(format!("`{}`: {what}: expected {expected:?}, got {got:?}", self.scenario.name));
        }
    }

    async fn play(&mut self, server: &Server) {
        let Scenario { principal, operator, purpose, expect, .. } = self.scenario;
        let operator = operator.as_ref().map(|person| person.id());
        let client = server.client(&subject(principal), operator, &[]).await;
        let purpose = if purpose.is_empty() { "a scenario" } else { purpose };
        let request = OpenSessionRequest { purpose: purpose.to_owned(), ..OpenSessionRequest::default() };
        let session = client.open_session(request).await.unwrap().session.unwrap().session_id;

        self.before(&client, &session, purpose).await;
        let (verdict, told) = self.decide(&client, &session, "").await;
        self.expect("verdict", *expect, verdict);
        if let Some(rules) = &self.scenario.rules {
            self.expect("rules", rules.iter().cloned().collect(), told);
        }
        if self.scenario.vote.is_empty() && self.scenario.after.is_none() {
            return;
        }
        let pending = self.ask(&client, &session).await;
        let mut ended = false;
        for vote in &self.scenario.vote {
            let came = cast(server, &pending, vote).await;
            self.expect(&format!("the vote of {}", vote.person), vote.expect, came);
            ended |= came == VoteExpect::Ended;
        }
        if let Some(after) = self.scenario.after {
            // What has ended is of no use any more, and saying so is no verdict.
            let approval = if ended { "" } else { &pending.approval_id };
            let (verdict, _) = self.decide(&client, &session, approval).await;
            self.expect("after the votes", after.expect, verdict);
        }
    }

    /// Does what was done before.
    async fn before(&self, client: &Client, session: &str, purpose: &str) {
        for step in self.scenario.before.iter().flat_map(|step| std::iter::repeat_n(step, step.times as usize)) {
            let request = OpenSessionRequest { purpose: purpose.to_owned(), ..OpenSessionRequest::default() };
            let session = if step.earlier_session {
                client.open_session(request).await.unwrap().session.unwrap().session_id
            } else {
                session.to_owned()
            };
            let operation = Some(Operation {
                name: step.operation.clone(),
                resource: Some(entity(&step.resource)),
                input: Some(struct_from_record(&step.input, "input").unwrap()),
                environment: Some(struct_from_record(&step.environment, "environment").unwrap()),
            });
            let audience = step.audience.clone().unwrap_or_else(|| self.scenario.audience.clone());
            let request = DecideRequest {
                session_id: session.clone(),
                operation: operation.clone(),
                audience: audience.clone(),
                mint: step.running,
                request_id: fresh_id(),
                ..DecideRequest::default()
            };
            let answer = client.decide(request).await.unwrap();
            assert_eq!(answer.verdict(), Verdict::Allow, "`{}`: {answer:?}", self.scenario.name);
            if let Some(minted) = answer.capability {
                let request = RedeemRequest {
                    token: minted.token,
                    operation,
                    audience,
                    request_id: fresh_id(),
                    ..RedeemRequest::default()
                };
                client.redeem(request).await.unwrap();
            }
            if step.earlier_session {
                let request = EndSessionRequest { session_id: session, request_id: fresh_id() };
                client.end_session(request).await.unwrap();
            }
        }
    }

    async fn decide(&mut self, client: &Client, session: &str, approval: &str) -> (Expect, BTreeSet<String>) {
        let Some(operation) = self.operation() else { return (Expect::Invalid, BTreeSet::new()) };
        let request = DecideRequest {
            session_id: session.to_owned(),
            operation: Some(operation),
            audience: self.scenario.audience.clone(),
            approval_id: approval.to_owned(),
            mint: self.scenario.holder.is_some(),
            holder: self.scenario.holder.map(whoever),
            request_id: fresh_id(),
            ..DecideRequest::default()
        };
        let answer = client.decide(request).await;
        if code(&answer) == Code::InvalidArgument {
            return (Expect::Invalid, BTreeSet::new());
        }
        let answer = answer.unwrap_or_else(|error| panic!("`{}`: {error}", self.scenario.name));
        let at = answer.decided_at.unwrap();
        self.decided_at = Timestamp::from_millis(at.seconds * 1_000 + i64::from(at.nanos / 1_000_000));
        let policies = answer.reasons.iter().map(|reason| reason.policy_id.clone()).filter(|id| !id.is_empty());
        match answer.verdict() {
            Verdict::Allow => (Expect::Allow, policies.collect()),
            Verdict::Deny => (Expect::Deny, policies.collect()),
            Verdict::NeedsApproval => {
                let rules = answer.needed_approval.unwrap().rules;
                (Expect::NeedsApproval, rules.into_iter().map(|rule| rule.rule_id).collect())
            }
            Verdict::Unspecified => panic!("no verdict"),
        }
    }

    /// The operation, unless it cannot even be sent.
    fn operation(&self) -> Option<Operation> {
        let Scenario { operation, resource, input, environment, .. } = self.scenario;
        Some(Operation {
            name: operation.clone(),
            resource: Some(entity(resource)),
            input: Some(struct_from_record(input, "input").ok()?),
            environment: Some(struct_from_record(environment, "environment").ok()?),
        })
    }

    async fn ask(&self, client: &Client, session: &str) -> Approval {
        let request = RequestApprovalRequest {
            session_id: session.to_owned(),
            operation: self.operation(),
            audience: self.scenario.audience.clone(),
            justification: self.scenario.name.clone(),
            ..RequestApprovalRequest::default()
        };
        client.request_approval(request).await.unwrap().approval.unwrap()
    }
}

async fn cast(server: &Server, pending: &Approval, vote: &countersign_policy::scenario::ScenarioVote) -> VoteExpect {
    let voter = server.client(&subject(&vote.person), None, &[]).await;
    let verdict = match vote.verdict {
        Says::Approve => VoteVerdict::Approve,
        Says::Deny => VoteVerdict::Deny,
    };
    let answer = voter.cast_vote(crate::harness::flow::ballot(pending, verdict)).await;
    match reason(&answer).as_str() {
        "VOTER_EXCLUDED" => return VoteExpect::Excluded,
        "VOTER_NOT_ELIGIBLE" => return VoteExpect::NotEligible,
        "ALREADY_VOTED" => return VoteExpect::AlreadyVoted,
        _ => {}
    }
    match answer.unwrap().approval.unwrap().state() {
        ApprovalState::Pending => VoteExpect::Counted,
        ApprovalState::Approved => VoteExpect::Approved,
        ApprovalState::Denied => VoteExpect::Ended,
        other => panic!("{other:?} after a vote"),
    }
}

/// Nobody redeems here, so any holder of the kind will do.
fn whoever(kind: HolderKind) -> Holder {
    let thumbprint = "A".repeat(43);
    let holder = match kind {
        HolderKind::Certificate => holder::Holder::CertificateThumbprint(thumbprint),
        HolderKind::Key => holder::Holder::KeyThumbprint(thumbprint),
    };
    Holder { holder: Some(holder) }
}

/// The hour, which is as exact as policies look at the time.
fn hour(time: Timestamp) -> i64 {
    time.millis().div_euclid(3_600_000)
}

/// Plays what happens at one time, on a server whose clock begins then; the sentences that say what went wrong.
async fn play_at(bundle: &str, now: Timestamp, scenarios: &[Scenario]) -> Vec<String> {
    // A scenario a second before the hour is a different one a second later. On a machine that slow it is played again.
    for _ in 0..20 {
        let options = Options { bundle: Bundle::shipped(bundle), clock: Some(now), ..Options::default() };
        let mut server = Server::start(options).await;
        let (mut wrong, mut in_time) = (Vec::new(), true);
        for scenario in scenarios {
            let mut played = Played { scenario, wrong: Vec::new(), decided_at: now };
            played.play(&server).await;
            in_time &= hour(played.decided_at) == hour(now);
            wrong.append(&mut played.wrong);
        }
        if in_time {
            assert!(server.terminate().await.status.success());
            server.log_verifies_offline().await;
            return wrong;
        }
    }
    panic!("never fast enough for the scenarios at {now:?}");
}

async fn play(bundle: &str) -> usize {
    let mut by_time = BTreeMap::<(Timestamp, usize), Vec<Scenario>>::new();
    // Where something stays of what was done, one scenario would be another's past.
    let files = Bundle::shipped(bundle).files();
    let keeps = files.iter().any(|(name, text)| name == "bundle.toml" && text.contains("\n[labels]"));
    let mut alone = 0;
    for (name, text) in files {
        if name.starts_with("scenarios/") {
            let scenarios = Scenario::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            // A server's clock goes as it goes: what only waiting brings is played where time can be moved.
            let at_once = |scenario: &Scenario| scenario.vote.iter().all(|vote| vote.waited.is_zero());
            for scenario in scenarios.into_iter().filter(at_once) {
                alone += usize::from(keeps);
                by_time.entry((scenario.now, alone)).or_default().push(scenario);
            }
        }
    }
    let mut wrong = Vec::new();
    for ((now, _), scenarios) in &by_time {
        wrong.extend(play_at(bundle, *now, scenarios).await);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    by_time.values().map(Vec::len).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_the_example_bundle_answers_as_its_scenarios_say() {
    assert!(play("ai-platform").await >= 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_the_sessions_bundle_answers_as_its_scenarios_say() {
    assert!(play("sessions").await >= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_the_minimal_bundle_answers_as_its_scenarios_say() {
    assert!(play("minimal").await >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_the_bundle_about_holders_answers_as_its_scenarios_say() {
    assert!(play("holders").await >= 6);
}
