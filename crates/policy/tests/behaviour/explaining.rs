//! Explanations agree with the decisions that they explain.

use std::path::Path;

use countersign_core::{Action, TenantId};
use countersign_policy::scenario::{Scenario, VoteVerdict};
use countersign_policy::{
    Account, Applies, Bundle, CedarTest, Clause, DenyCause, Evaluation, Holds, Outlook, Prospect, Question,
    RecordedDecision, Replayed, Source, Verdict,
};
use serde_json::json;

use crate::*;

const EXPORT: &str = r#"{"rows": 5}"#;

fn shipped(name: &str) -> Bundle {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies").join(name);
    Bundle::load(Source::read_dir(&path).unwrap()).unwrap()
}

/// The questions of every scenario, without and with an approval of whatever asks, by whoever approves in it.
fn questions(bundle: &Bundle) -> Vec<Question> {
    let mut all = Vec::new();
    for (file, text) in bundle.scenario_files() {
        for scenario in Scenario::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}")) {
            let question = scenario.question(bundle.alone());
            if let Ok(Evaluation { verdict: Verdict::NeedsApproval { rules }, .. }) =
                bundle.alone().decide(&question.query())
            {
                let votes = scenario.vote.iter().filter(|vote| vote.verdict == VoteVerdict::Approve);
                let facts = ApprovalFacts {
                    rules: rules.iter().map(|rule| rule.id.clone()).collect(),
                    persons: votes.map(|vote| vote.person.clone()).collect(),
                    digest: question.digest,
                    expires: question.now.plus(Duration::from_secs(60)),
                };
                all.push(Question { approval: Some(facts), ..question.clone() });
            }
            all.push(question);
        }
    }
    assert!(all.len() > 2);
    all
}

fn applies(account: &Account) -> bool {
    account.clauses.iter().all(|clause| clause.holds == Holds::Yes)
}

fn fails(account: &Account) -> bool {
    let first = account.clauses.iter().find(|clause| clause.holds != Holds::Yes);
    matches!(first, Some(Clause { holds: Holds::Failed(_), .. }))
}

/// What the accounts alone say: the policies that fail; else the forbids that apply; else the permits that do.
fn from_accounts(accounts: &[Account]) -> (&'static str, Vec<String>) {
    let ids = |wanted: &dyn Fn(&Account) -> bool| -> Vec<String> {
        let mut ids: Vec<String> = accounts.iter().filter(|a| wanted(a)).map(|a| a.policy.clone()).collect();
        ids.sort();
        ids
    };
    let (failed, forbids, permits) =
        (ids(&fails), ids(&|a| applies(a) && !a.permits), ids(&|a| applies(a) && a.permits));
    match (failed.is_empty(), forbids.is_empty(), permits.is_empty()) {
        (false, _, _) => ("fails", failed),
        (true, false, _) => ("forbids", forbids),
        (true, true, false) => ("permits", permits),
        (true, true, true) => ("nothing", Vec::new()),
    }
}

fn from_decision(evaluation: &Evaluation) -> (&'static str, Vec<String>) {
    let determining = evaluation.determining.clone();
    match evaluation.verdict {
        Verdict::Allow => ("permits", determining),
        Verdict::NeedsApproval { .. } | Verdict::Deny { cause: DenyCause::Forbidden, .. } => ("forbids", determining),
        // Forbidden by rules that people could lift, and permitted by nobody even then.
        Verdict::Deny { cause: DenyCause::NoPermit, .. } if !determining.is_empty() => ("forbids", determining),
        Verdict::Deny { cause: DenyCause::NoPermit, .. } => ("nothing", determining),
        Verdict::Deny { cause: DenyCause::EvaluationError, .. } => ("fails", determining),
    }
}

#[test]
fn the_clauses_of_every_policy_together_say_what_was_decided() {
    for name in ["ai-platform", "minimal", "holders"] {
        let bundle = shipped(name);
        for question in questions(&bundle) {
            let Ok(explained) = bundle.alone().explain(&question.query()) else { continue };
            assert_eq!(from_accounts(&explained.accounts), from_decision(&explained.evaluation), "{question:?}");
            assert_eq!(explained.evaluation, bundle.alone().decide(&question.query()).unwrap());
        }
    }
}

#[test]
fn what_is_certain_before_the_input_is_known_comes_so_with_every_input() {
    let (mut certain, mut open) = (0, 0);
    for name in ["ai-platform", "minimal", "holders"] {
        let bundle = shipped(name);
        for question in questions(&bundle).into_iter().filter(|question| question.approval.is_none()) {
            let (Ok(decided), Ok(outlook)) =
                (bundle.alone().decide(&question.query()), bundle.alone().outlook(&question.query()))
            else {
                continue;
            };
            let Outlook { prospect, asks, depends } = &outlook;
            if depends.is_empty() {
                certain += 1
            } else {
                open += 1
            }
            match (prospect, depends.is_empty()) {
                (Prospect::Never(_), _) => assert!(matches!(decided.verdict, Verdict::Deny { .. }), "{question:?}"),
                (Prospect::Permitted, true) if asks.is_empty() => assert_eq!(decided.verdict, Verdict::Allow),
                (Prospect::Permitted, true) => {
                    assert_eq!(decided.verdict, Verdict::NeedsApproval { rules: asks.clone() });
                }
                (Prospect::Permitted | Prospect::Perhaps, _) => {
                    let foreseen = |id: &String| {
                        asks.iter().any(|rule| rule.id == *id) || depends.iter().any(|account| account.policy == *id)
                    };
                    let forbids = !matches!(decided.verdict, Verdict::Allow);
                    assert!(!forbids || decided.determining.iter().all(foreseen), "{outlook:?} {decided:?}");
                }
            }
        }
    }
    assert!(certain > 5 && open > 5, "{certain} {open}");
}

#[test]
fn a_denial_tells_which_clause_and_what_it_read() {
    let bundle = Files::usual()
        .work(
            r#"@id("small-exports") permit (principal in Group::"empty", action == Action::"export", resource is Dataset)
               when { resource.classification != "pii" && context.input.rows < 3 && 3 > context.input.rows };
               @id("owned") permit (principal, action == Action::"export", resource)
               when { resource has owner_team && resource.owner_team == "ours" };"#,
        )
        .approve("")
        .load();
    let explained = bundle.alone().explain(&Ask::new("export", "docs", EXPORT).query()).unwrap();
    assert_eq!(explained.evaluation.verdict, Verdict::Deny { cause: DenyCause::NoPermit, errors: Vec::new() });
    let account = |id: &str| explained.accounts.iter().find(|account| account.policy == id).unwrap();
    let told: Vec<(&str, &Holds)> =
        account("small-exports").clauses.iter().map(|c| (c.text.as_str(), &c.holds)).collect();
    assert_eq!(
        told,
        [
            ("principal in Group::\"empty\"", &Holds::No),
            ("resource is Dataset", &Holds::Yes),
            ("resource.classification != \"pii\"", &Holds::Yes),
            ("context.input.rows < 3", &Holds::No),
            ("3 > context.input.rows", &Holds::No),
        ]
    );
    let read = &account("small-exports").clauses[3].reads;
    assert_eq!((read.len(), read[0].value.as_deref()), (1, Some("5")));
    // An attribute that is not there is told as such, and the clause that needs it is not reached.
    let owned = account("owned");
    assert_eq!(owned.clauses.iter().map(|c| &c.holds).collect::<Vec<_>>(), [&Holds::No, &Holds::Unreached]);
    assert_eq!(owned.clauses[0].reads[0].value, None);
    // Of two that are one clause away, and one that is two away, the nearer come first.
    assert!(explained.accounts.is_sorted_by_key(|account| (!account.decided, account.missing())));
}

#[test]
fn the_clause_by_which_people_lift_a_rule_is_told_apart() {
    let bundle = Files::usual().load();
    let ask = Ask::new("export", "customers", EXPORT);
    let explained = bundle.alone().explain(&ask.query()).unwrap();
    let rule = &explained.accounts[0];
    assert_eq!((rule.policy.as_str(), rule.asks, rule.decided), ("pii-needs-two", true, true));
    let lifting: Vec<bool> = rule.clauses.iter().map(|clause| clause.lifting).collect();
    assert_eq!(lifting, [false, false, true]);
    assert_eq!(rule.applies(), Applies::Yes);
    let outlook = bundle.alone().outlook(&ask.query()).unwrap();
    assert_eq!((outlook.prospect, outlook.asks.len(), outlook.depends.len()), (Prospect::Permitted, 1, 0));
}

#[test]
fn what_depends_on_the_input_says_on_which_clause() {
    let bundle = Files::usual()
        .work(
            r#"@id("exports") permit (principal, action == Action::"export", resource) when { context.input.rows < 100 };
               @id("inside") forbid (principal, action == Action::"export", resource)
               unless { context.environment has network && context.environment.network == "vpn" };
               @id("no-pii") forbid (principal, action, resource == Dataset::"customers");"#,
        )
        .approve("")
        .load();
    let docs = bundle.alone().outlook(&Ask::new("export", "docs", EXPORT).query()).unwrap();
    let open: Vec<&str> = docs.depends.iter().map(|account| account.policy.as_str()).collect();
    assert_eq!((docs.prospect, open), (Prospect::Perhaps, vec!["exports", "inside"]));
    // Whatever stands in the question's input is not looked at, and need not fit.
    let wrong = bundle.alone().outlook(&Ask::new("export", "customers", r#"{"nonsense": true}"#).query()).unwrap();
    assert_eq!(wrong.prospect, Prospect::Never(vec!["no-pii".to_owned()]));
    assert_eq!(bundle.alone().resources_of("export"), [entity("Dataset::\"customers\""), entity("Dataset::\"docs\"")]);
    assert!(bundle.alone().resources_of("nothing").is_empty());
}

/// A record as the engine writes it.
fn recorded(bundle: &Bundle, ask: &Ask) -> Vec<u8> {
    let query = ask.query();
    let evaluation = ask.of(bundle);
    let mut input = ask.input.clone();
    for name in bundle.sensitive(&ask.operation) {
        if let Some(value) = input.get_mut(name) {
            *value = countersign_core::Value::Commitment(Digest::of(b"salted"));
        }
    }
    let action = Action {
        tenant: TenantId::new("test").unwrap(),
        audience: "site".into(),
        session: query.session.id,
        principal: ask.principal.clone(),
        operator: ask.operator.clone(),
        chain: Vec::new(),
        operation: ask.operation.clone(),
        resource: ask.resource.clone(),
        input,
        environment: ask.environment.clone(),
    };
    let content = json!({
        "v": 1, "kind": "decision", "decision": "dec_x", "verdict": evaluation.verdict.name(),
        "determining": evaluation.determining, "bundle": bundle.digest(),
        "action": action.canonical().unwrap().text(), "context": bundle.evaluated(&query),
    });
    serde_json::to_vec(&content).unwrap()
}

#[test]
fn a_recorded_decision_comes_out_the_same_under_its_own_bundle_and_otherwise_under_another() {
    let bundle = Files::usual().load();
    let approved = approval(&["pii-needs-two"], &["dana", "dave"]);
    for ask in [
        Ask::new("query", "docs", r#"{"tags": ["a", "b"], "limit": 3}"#),
        Ask::new("export", "customers", EXPORT),
        Ask { operator: Some(person("olivia")), ..Ask::new("export", "customers", EXPORT) }.approved(approved),
    ] {
        let read = RecordedDecision::read(&recorded(&bundle, &ask)).unwrap().unwrap();
        assert_eq!(format!("{:?}", read.question.query()), format!("{:?}", ask.query()));
        assert_eq!(bundle.alone().replay(&read), Replayed::Same, "{ask:?}");
        let other = Files::usual().work("").approve("").load();
        let Replayed::Otherwise(evaluation) = other.alone().replay(&read) else { panic!("{ask:?}") };
        assert_eq!(evaluation.verdict.name(), "DENY");
    }
    // Other rules that ask are another answer.
    let renamed = Files::usual()
        .replaced("policies/work.cedar", "pii-needs-two", "pii-needs-all")
        .replaced("approve/approve.cedar", "pii-needs-two", "pii-needs-all")
        .load();
    let asked = RecordedDecision::read(&recorded(&bundle, &Ask::new("export", "customers", EXPORT))).unwrap().unwrap();
    assert!(matches!(renamed.alone().replay(&asked), Replayed::Otherwise(_)));
}

#[test]
fn what_no_record_holds_cannot_be_decided_again() {
    let bundle = Files::usual().load();
    let secret = Ask::new("export", "docs", r#"{"rows": 5, "token": "hunter2"}"#);
    let read = RecordedDecision::read(&recorded(&bundle, &secret)).unwrap().unwrap();
    assert_eq!(read.withheld, ["token"]);
    assert!(matches!(bundle.alone().replay(&read), Replayed::Incomparable(why) if why.contains("sensitive")));
    let plain = RecordedDecision::read(&recorded(&bundle, &Ask::new("export", "docs", EXPORT))).unwrap().unwrap();
    let other = Files::usual().replaced("schema.cedarschema", "rows: Long", "lines: Long").load();
    assert!(matches!(other.alone().replay(&plain), Replayed::Invalid(why) if why.contains("input")));

    assert_eq!(RecordedDecision::read(br#"{"kind":"vote"}"#), Ok(None));
    for bad in [&b"{}"[..], b"", b"{\"kind\":\"decision\"}", b"\xff"] {
        assert!(RecordedDecision::read(bad).is_err());
    }
}

#[test]
fn tests_in_the_format_of_cedars_own_command_line_are_played_unchanged() {
    let test = |decision: &str, reason: &[&str], num_errors: u32| {
        json!([{
            "name": "an owner answers",
            "request": {
                "principal": "Person::\"dana\"", "action": "Action::\"approve\"", "resource": "Dataset::\"customers\"",
                "context": {
                    "rule": "pii-needs-two", "operation": "export",
                    "requester": "Agent::\"bot\"",
                    "excluded": [],
                    "waited": { "__extn": { "fn": "duration", "arg": "5m" } },
                    "now": { "instant": { "__extn": { "fn": "datetime", "arg": "2026-11-18T10:00:00Z" } },
                             "weekday": "wednesday", "hour": 10, "minute": 0 },
                },
            },
            "entities": [
                { "uid": { "type": "Group", "id": "owners" }, "attrs": {}, "parents": [] },
                { "uid": { "type": "Person", "id": "dana" }, "attrs": { "accounts": [] },
                  "parents": [{ "type": "Group", "id": "owners" }] },
            ],
            "decision": decision, "reason": reason, "num_errors": num_errors,
        }])
        .to_string()
    };
    let right = test("allow", &["owners-answer"], 0);
    let bundle = Files::usual().with("scenarios/cedar.json", &right).load();
    assert_eq!(bundle.cedar_test_files().map(|(file, _)| file).collect::<Vec<_>>(), ["scenarios/cedar.json"]);
    let play = |text: &str| CedarTest::parse_file(text).unwrap()[0].play(&bundle);
    assert_eq!(play(&right), [""; 0]);
    for (wrong, said) in [
        (test("deny", &[], 0), "expected Deny, got Allow"),
        (test("allow", &["somebody-else"], 0), "`somebody-else` among the reasons"),
        (test("allow", &[], 1), "expected 1 policies to fail, 0 did"),
        (right.replace("Action::\\\"approve\\\"", "Action::\\\"nothing\\\""), "no action"),
        (right.replace("\"hour\":10", "\"hour\":\"ten\""), "does not fit the schema"),
        (right.replace("Person::\\\"dana\\\"", "dana"), "the principal `dana` cannot be read"),
    ] {
        let told = play(&wrong);
        assert!(told.len() == 1 && told[0].contains(said), "{said}: {told:?}");
    }
    assert!(CedarTest::parse_file("[{}]").is_err());
}
