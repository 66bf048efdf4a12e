use std::path::Path;

use countersign_core::value::record_from_json;
use countersign_core::{Action, ApprovalId, Digest, EntityRef, PreApproval, SessionId, TenantId, pre_approval};
use countersign_policy::Source;

use super::*;

const RULE: &str = "export-needs-two";
const MINUTE: i64 = 60_000;
const START: i64 = 1_794_996_000_000;

fn bundle() -> Bundle {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/ai-platform");
    Bundle::load(Source::read_dir(&path).unwrap()).unwrap()
}

fn export(principal: &str, session: u8, rows: i64, destination: &str) -> Action {
    Action {
        tenant: TenantId::new("dev").unwrap(),
        audience: "warehouse".into(),
        session: SessionId::from_bytes([session; 16]),
        principal: EntityRef::new("Agent", principal).unwrap(),
        operator: None,
        chain: vec![],
        operation: "export".into(),
        resource: EntityRef::new("Dataset", "customers").unwrap(),
        input: record_from_json(&json!({"rows": rows, "destination": destination}).to_string()).unwrap(),
        environment: countersign_core::Record::new(),
    }
}

/// A log that grows.
struct Log(Vec<Vec<u8>>);

impl Log {
    fn push(&mut self, record: &Value) {
        self.0.push(record.to_string().into_bytes());
    }

    /// A question about an action, put after so many minutes.
    fn asks(&mut self, action: &Action, minute: i64) -> ApprovalId {
        let canonical = action.canonical().unwrap();
        let id = ApprovalId::from_bytes(u128::try_from(self.0.len()).unwrap().to_be_bytes());
        self.push(&json!({
            "kind": "approval_requested", "at": START + minute * MINUTE, "approval": id, "digest": canonical.digest(),
            "action": canonical.text(), "rules": [{"id": RULE, "quorum": 2, "reason": null}],
        }));
        id
    }

    /// A question about every action like one.
    fn asks_for_all(&mut self, action: &Action, minute: i64) -> ApprovalId {
        let bounds = pre_approval::Bounds { uses: 5, seconds: 600 };
        let until = Timestamp::from_millis(START + 60 * MINUTE);
        let text = PreApproval::like(action, [RULE.to_owned()].into(), bounds, until).canonical().unwrap();
        let id = ApprovalId::from_bytes(u128::try_from(self.0.len()).unwrap().to_be_bytes());
        self.push(&json!({
            "kind": "approval_requested", "at": START + minute * MINUTE, "approval": id, "digest": text.digest(),
            "action": text.text(), "rules": [{"id": RULE, "quorum": 2, "reason": null}],
            "pre_approval": {"uses": 5, "seconds": 600},
        }));
        id
    }

    /// The vote that ends it, so many seconds later, and so many after the first look.
    fn ends(&mut self, id: ApprovalId, minute: i64, verdict: &str, seconds: i64, looked: Option<i64>) {
        let at = START + minute * MINUTE + seconds * 1_000;
        let state = if verdict == "approve" { "approved" } else { "denied" };
        let seen_at = looked.map(|looked| at - looked * 1_000);
        self.push(&json!({
            "kind": "vote", "at": at, "approval": id, "verdict": verdict, "state": state, "seen_at": seen_at,
        }));
    }

    fn approved(&mut self, action: &Action, minute: i64) {
        let id = self.asks(action, minute);
        self.ends(id, minute, "approve", 20, Some(2));
    }

    /// The decision about an action.
    fn decided(&mut self, action: &Action, verdict: &str) {
        let canonical = action.canonical().unwrap();
        self.push(&json!({
            "kind": "decision", "decision": "dec_1", "verdict": verdict, "determining": [RULE],
            "bundle": Digest::of(b"bundle"), "action": canonical.text(),
            "context": {
                "input": action.input, "environment": {}, "excluded": [], "digest": canonical.digest(),
                "now": "2026-11-18T10:00:00.000Z",
                "session": {
                    "id": action.session, "purpose": "p", "opened_at": "2026-11-18T09:00:00.000Z",
                    "deadline": "2026-11-18T11:00:00.000Z",
                },
            },
        }));
    }

    fn advised(&self, minimum: usize) -> Vec<Proposal> {
        let bundle = bundle();
        let mut evidence = Evidence::since(None);
        self.0.iter().for_each(|record| evidence.look(record).unwrap());
        let mut proposals = propose(&bundle, &evidence, Bounds { minimum, quick: Duration::from_secs(60) });
        let mut rehearsals: Vec<Rehearsal> =
            proposals.iter_mut().filter_map(|proposal| Rehearsal::of(&bundle, proposal)).collect();
        let stored = bundle.scenario_entities().unwrap();
        for record in &self.0 {
            rehearsal::look(&bundle, &stored, &mut rehearsals, &evidence.denied_digests(), record).unwrap();
        }
        for (proposal, rehearsal) in proposals.iter_mut().filter(|proposal| proposal.narrows()).zip(rehearsals) {
            rehearsal.conclude(proposal);
        }
        proposals
    }

    fn only(&self, minimum: usize) -> Advice {
        let mut advised = self.advised(minimum);
        assert_eq!(advised.len(), 1, "{advised:?}");
        advised.remove(0).advice
    }
}

fn why(advice: &Advice) -> &str {
    match advice {
        Advice::Nothing(why) => why,
        Advice::PreApprove { .. } | Advice::Narrow { .. } => panic!("{advice:?}"),
    }
}

/// One that was always approved, in a session of its own each time.
fn routine() -> Log {
    let mut log = Log(Vec::new());
    for (session, rows) in [(1, 5), (2, 20), (3, 10)] {
        let action = export("etl-bot", session, rows, "s3://ours-reports");
        log.decided(&action, "NEEDS_APPROVAL");
        log.approved(&action, i64::from(session));
    }
    log
}

#[test]
fn an_exception_is_bounded_by_what_was_approved() {
    let log = routine();
    let Advice::Narrow { principal, exception, decisions, allowed, incomparable } = log.only(3) else { panic!() };
    assert_eq!(principal, EntityRef::new("Agent", "etl-bot").unwrap());
    assert_eq!(
        exception,
        "principal == Agent::\"etl-bot\" &&\naction == Action::\"export\" &&\nresource == Dataset::\"customers\" &&\n\
         context.input has destination && context.input.destination == \"s3://ours-reports\" &&\n\
         context.input has rows && context.input.rows >= 5 && context.input.rows <= 20"
    );
    assert_eq!((decisions, allowed, incomparable), (3, 3, 0));
    let shown = anstream::adapter::strip_str(&text(&bundle(), &log.advised(3)[0])).to_string();
    assert!(shown.contains("3 times: approved 3, denied 0; half within 20s; 3 of 3 approvals within 3 s"), "{shown}");
    assert!(shown.contains("3 NEEDS_APPROVAL would be ALLOW, no DENY would"), "{shown}");
}

#[test]
fn a_small_sample_is_no_evidence() {
    assert_eq!(why(&routine().only(4)), "answered 3 times, fewer than 4");
    let mut log = routine();
    // Nor is it evidence about whoever asked seldom among those who asked often.
    log.approved(&export("other-bot", 9, 5, "s3://ours-reports"), 9);
    let advised = log.advised(3);
    assert!(advised[0].narrows() && advised.len() == 2, "{advised:?}");
    assert_eq!(why(&advised[1].advice), "Agent::\"other-bot\" was answered 1 times, fewer than 3");
}

#[test]
fn what_was_denied_once_or_taken_back_is_left_alone_whoever_asked() {
    let mut log = routine();
    let denied = log.asks(&export("other-bot", 9, 5, "s3://ours-reports"), 9);
    log.ends(denied, 9, "deny", 600, None);
    assert_eq!(why(&log.only(3)), "denied 1 of 4");
    let mut log = routine();
    let taken_back = log.asks(&export("etl-bot", 9, 5, "s3://ours-reports"), 9);
    log.ends(taken_back, 9, "approve", 1, None);
    log.push(&json!({"kind": "vote_withdrawn", "at": START, "approval": taken_back, "state": "void"}));
    assert_eq!(why(&log.only(3)), "taken back 1 of 4");
}

#[test]
fn advice_never_widens_what_was_denied() {
    // By policy, when another bundle decided.
    let mut log = routine();
    log.decided(&export("etl-bot", 7, 15, "s3://ours-reports"), "DENY");
    assert_eq!(why(&log.only(3)), "a narrower rule would allow what was denied, 1 of 4");
    // Beyond its bounds it says nothing.
    let mut log = routine();
    log.decided(&export("etl-bot", 7, 21, "s3://ours-reports"), "DENY");
    assert!(log.advised(3)[0].narrows());
    // By people, when they were asked by another rule.
    let mut log = routine();
    let action = export("etl-bot", 7, 15, "s3://ours-reports");
    log.decided(&action, "NEEDS_APPROVAL");
    let asked = log.asks(&action, 7);
    let record = String::from_utf8(log.0.pop().unwrap()).unwrap().replace(RULE, "another-rule");
    log.0.push(record.into_bytes());
    log.ends(asked, 7, "deny", 5, None);
    let advised = log.advised(3);
    assert_eq!(why(&advised[0].advice), "the bundle has no such rule");
    assert_eq!(why(&advised[1].advice), "a narrower rule would allow what was denied, 1 of 4");
}

#[test]
fn what_people_think_about_or_is_another_each_time_stays_a_question() {
    let mut log = Log(Vec::new());
    for session in 1..=3 {
        let id = log.asks(&export("etl-bot", session, 5, "s3://ours-reports"), i64::from(session));
        log.ends(id, i64::from(session), "approve", 61, None);
    }
    assert_eq!(why(&log.only(3)), "people take their time: half of them more than 61 s");
    let mut log = Log(Vec::new());
    for session in 1..=6 {
        log.approved(&export("etl-bot", session, 5, &format!("s3://ours-{session}")), i64::from(session));
    }
    assert!(why(&log.only(3)).starts_with("its `destination` was another nearly every time"), "{:?}", log.only(3));
}

#[test]
fn what_comes_again_within_a_session_is_pre_approved_within_its_bounds() {
    let mut log = Log(Vec::new());
    for (session, minute) in [(1, 0), (1, 4), (1, 9), (2, 30), (2, 31), (3, 90)] {
        log.approved(&export("etl-bot", session, minute, "s3://ours-reports"), minute);
    }
    // Three of six were asked before in their session: not more than half.
    assert!(!matches!(log.only(3), Advice::PreApprove { .. }));
    log.approved(&export("etl-bot", 2, 32, "s3://ours-reports"), 32);
    let within = Duration::from_secs(10 * 60);
    assert_eq!(log.only(3), Advice::PreApprove { sessions: 2, covered: 4, uses: 3, within });
}

#[test]
fn the_same_log_gives_the_same_advice() {
    let log = routine();
    let told = || log.advised(3).iter().map(|proposal| proposal_json(proposal).to_string()).collect::<Vec<_>>();
    assert_eq!(told(), told());
}

#[test]
fn a_question_about_a_pre_approval_is_evidence_only_where_people_said_no() {
    let advised = |verdict: Option<&str>| {
        let mut log = Log(Vec::new());
        for number in 0..12 {
            let action = export("etl-bot", number, 100, "s3://ours-reports");
            log.approved(&action, i64::from(number));
            log.decided(&action, "NEEDS_APPROVAL");
        }
        let id = log.asks_for_all(&export("etl-bot", 1, 100, "s3://ours-reports"), 20);
        if let Some(verdict) = verdict {
            log.ends(id, 20, verdict, 20, Some(2));
        }
        log.advised(10).iter().map(|proposal| format!("{proposal:?}")).collect::<Vec<_>>()
    };
    let without = advised(None);
    assert_eq!(advised(Some("approve")), without, "nobody saw an input");
    assert_ne!(advised(Some("deny")), without, "people want to be asked");
}
