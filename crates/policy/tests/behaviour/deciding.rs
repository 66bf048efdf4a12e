use std::time::Duration;

use countersign_core::Digest;
use countersign_policy::{Bundle, DenyCause, Evaluation, QueryError, Verdict};
use proptest::prelude::*;

use crate::{Ask, Files, NOW, approval, entity, lift, person, record};

fn cause(evaluation: &Evaluation) -> Option<DenyCause> {
    match &evaluation.verdict {
        Verdict::Deny { cause, .. } => Some(*cause),
        Verdict::Allow | Verdict::NeedsApproval { .. } => None,
    }
}

fn asking(evaluation: &Evaluation) -> Vec<&str> {
    match &evaluation.verdict {
        Verdict::NeedsApproval { rules } => rules.iter().map(|rule| rule.id.as_str()).collect(),
        Verdict::Allow | Verdict::Deny { .. } => Vec::new(),
    }
}

const EXPORT: &str = r#"{"rows":5}"#;

#[test]
fn a_bundle_without_policies_denies() {
    let bundle = Files::new().load();
    assert_eq!(cause(&Ask::new("query", "docs", "{}").of(&bundle)), Some(DenyCause::NoPermit));
    assert_eq!(Verdict::default(), Verdict::Deny { cause: DenyCause::NoPermit, errors: vec![] });
}

#[test]
fn what_is_permitted_and_not_forbidden_is_allowed() {
    let evaluation = Ask::new("export", "docs", EXPORT).of(&Files::usual().load());
    assert_eq!((evaluation.verdict, evaluation.determining), (Verdict::Allow, vec!["all-work".to_owned()]));
}

#[test]
fn what_only_asking_rules_forbid_needs_their_approval() {
    let evaluation = Ask::new("export", "customers", EXPORT).of(&Files::usual().load());
    let Verdict::NeedsApproval { rules } = &evaluation.verdict else { panic!("{evaluation:?}") };
    assert_eq!(evaluation.determining, ["pii-needs-two"]);
    assert_eq!((rules[0].quorum, rules[0].ttl), (2, Duration::from_secs(1_200)));
    assert_eq!(rules[0].reason.as_deref(), Some("It is personal data"));
}

#[test]
fn an_approval_is_allowed_by_a_permit_and_never_by_itself() {
    let approved = Ask::new("export", "customers", EXPORT).approved(approval(&["pii-needs-two"], &["dana", "dave"]));
    assert_eq!(approved.of(&Files::usual().load()).verdict, Verdict::Allow);

    let tightened = Files::usual()
        .replaced("policies/work.cedar", r#"permit (principal,"#, r#"permit (principal is Person,"#)
        .load();
    assert_eq!(cause(&approved.of(&tightened)), Some(DenyCause::NoPermit));
    assert_eq!(
        cause(&Ask::new("export", "customers", EXPORT).of(&tightened)),
        Some(DenyCause::NoPermit),
        "and nobody is asked"
    );
}

#[test]
fn a_final_forbid_is_lifted_by_nobody() {
    let files = Files::usual();
    let text = format!(
        "{}\n@id(\"never\") forbid (principal is Agent, action == Action::\"export\", resource);",
        files.0["policies/work.cedar"]
    );
    let bundle = files.work(&text).load();
    let evaluation = Ask::new("export", "customers", EXPORT).of(&bundle);
    assert_eq!(cause(&evaluation), Some(DenyCause::Forbidden));
    assert_eq!(evaluation.determining, ["never", "pii-needs-two"]);
    let approved = Ask::new("export", "customers", EXPORT).approved(approval(&["pii-needs-two", "never"], &["dana"]));
    assert_eq!(cause(&approved.of(&bundle)), Some(DenyCause::Forbidden));
}

/// Two rules on one action: what one group says does not answer for the other.
fn two_rules() -> Bundle {
    Files::usual()
        .work(&format!(
            r#"@id("all-work") permit (principal, action, resource);
               @id("first") forbid (principal, action == Action::"export", resource) {};
               @id("second") forbid (principal, action == Action::"export", resource) {};"#,
            lift("first"),
            lift("second")
        ))
        .approve(r#"@id("a") permit (principal in Group::"owners", action == Action::"approve", resource);"#)
        .load()
}

#[test]
fn a_rule_that_is_unmet_still_asks_when_another_is_met() {
    let bundle = two_rules();
    assert_eq!(asking(&Ask::new("export", "docs", EXPORT).of(&bundle)), ["first", "second"]);
    let half = Ask::new("export", "docs", EXPORT).approved(approval(&["first"], &["dana"])).of(&bundle);
    assert_eq!(asking(&half), ["second"]);
    let both = Ask::new("export", "docs", EXPORT).approved(approval(&["first", "second"], &["dana"]));
    assert_eq!(both.of(&bundle).verdict, Verdict::Allow);
}

#[test]
fn the_kernel_stops_approvals_that_count_for_nothing() {
    let bundle = Files::usual().load();
    let good = approval(&["pii-needs-two"], &["dana", "dave"]);
    let denied = |change: &dyn Fn(&mut countersign_policy::ApprovalFacts), by: &str| {
        let mut facts = good.clone();
        change(&mut facts);
        let evaluation = Ask::new("export", "customers", EXPORT).approved(facts).of(&bundle);
        assert_eq!(cause(&evaluation), Some(DenyCause::Forbidden), "{by}");
        assert!(evaluation.determining.iter().any(|id| id == by), "{by}: {:?}", evaluation.determining);
    };
    denied(&|facts| facts.persons.extend([person("olivia")]), "kernel-approved-by-an-excluded-person");
    denied(&|facts| facts.digest = Digest::of(b"another"), "kernel-approved-another-digest");
    denied(&|facts| facts.persons.clear(), "kernel-approved-by-nobody");
    denied(&|facts| facts.rules.clear(), "kernel-approved-by-nobody");
    denied(&|facts| facts.expires = NOW, "kernel-approval-expired");
    let just = countersign_policy::ApprovalFacts { expires: NOW.plus(Duration::from_millis(1)), ..good };
    assert_eq!(Ask::new("export", "customers", EXPORT).approved(just).of(&bundle).verdict, Verdict::Allow);
}

/// `owner_team` is optional and the resource may be unknown, so reading an attribute of it can fail at run time.
fn with_failing(policy: &str) -> Bundle {
    let files = Files::usual();
    let text = format!("{}\n{policy}", files.0["policies/work.cedar"]);
    files.work(&text).load()
}

#[test]
fn a_forbid_that_fails_denies_though_a_permit_matches() {
    let bundle = with_failing(
        r#"@id("fails") forbid (principal, action, resource) when { resource.classification == "secret" };"#,
    );
    let evaluation = Ask::new("query", "unknown", "{}").of(&bundle);
    assert_eq!(cause(&evaluation), Some(DenyCause::EvaluationError));
    assert_eq!(evaluation.determining, ["fails"]);
}

#[test]
fn a_permit_that_fails_denies_though_another_matches() {
    let bundle =
        with_failing(r#"@id("fails") permit (principal, action, resource) when { resource.classification == "x" };"#);
    let evaluation = Ask::new("query", "unknown", "{}").of(&bundle);
    let Verdict::Deny { cause: DenyCause::EvaluationError, errors } = &evaluation.verdict else {
        panic!("{evaluation:?}")
    };
    assert!(errors[0].starts_with("`fails` could not be evaluated"), "{errors:?}");
}

#[test]
fn an_overflow_is_an_error_and_denies() {
    let bundle = with_failing(
        r#"@id("fails") forbid (principal, action == Action::"query", resource)
        when { context.input has limit && context.input.limit * 9007199254740991 * 9007199254740991 > 5 };"#,
    );
    assert_eq!(Ask::new("query", "docs", r#"{"limit":0}"#).of(&bundle).verdict, Verdict::Allow);
    assert_eq!(cause(&Ask::new("query", "docs", r#"{"limit":5}"#).of(&bundle)), Some(DenyCause::EvaluationError));
}

/// Were the error passed over, the other rule alone would ask, and the preview would promise what redeeming refuses.
#[test]
fn an_error_in_the_first_pass_denies_and_nobody_is_asked() {
    let rules = ["asks", "fails"].map(|id| {
        let when = if id == "fails" { r#"when { resource.classification == "pii" }"# } else { "" };
        let lift = lift(id);
        format!(r#"@id("{id}") forbid (principal, action == Action::"export", resource) {lift} {when};"#)
    });
    let text = format!("@id(\"all-work\") permit (principal, action, resource); {}", rules.join(" "));
    let answer = r#"@id("a") permit (principal in Group::"owners", action == Action::"approve", resource);"#;
    let bundle = Files::new().work(&text).approve(answer).load();
    let ask = Ask::new("export", "unknown", EXPORT);
    assert_eq!(cause(&ask.of(&bundle)), Some(DenyCause::EvaluationError));
    let lifted = ask.approved(approval(&["fails"], &["dana"]));
    assert_eq!(asking(&lifted.of(&bundle)), ["asks"], "what is lifted is not evaluated further");
}

#[test]
fn errors_of_operations_with_sensitive_inputs_show_no_values() {
    let bundle = with_failing(
        r#"@id("fails") forbid (principal, action == Action::"export", resource)
        when { context.input.rows * 9007199254740991 * 9007199254740991 > 5 };"#,
    );
    let Verdict::Deny { errors, .. } = Ask::new("export", "docs", r#"{"rows":77}"#).of(&bundle).verdict else {
        panic!()
    };
    assert_eq!(errors, ["`fails` could not be evaluated"]);
}

#[test]
fn sensitive_inputs_are_evaluated_and_not_recorded() {
    let bundle = with_failing(
        r#"@id("guessed") forbid (principal, action == Action::"export", resource)
        when { context.input has token && context.input.token == "hunter2" };"#,
    );
    let ask = Ask::new("export", "docs", r#"{"rows":5,"token":"hunter2"}"#);
    assert_eq!(ask.of(&bundle).determining, ["guessed"]);
    let context = serde_json::to_value(bundle.evaluated(&ask.query())).unwrap();
    assert!(!context.to_string().contains("hunter2"), "{context}");
    assert_eq!(context["input"]["rows"], 5);
    assert_eq!(bundle.sensitive("export"), ["token"]);
    assert!(bundle.sensitive("query").is_empty());
}

#[test]
fn two_argument_lists_that_are_one_set_are_two_verdicts() {
    let bundle = with_failing(
        r#"@id("argv") forbid (principal, action == Action::"query", resource)
        when { context.input has argv && context.input.argv == "[\"bob\",\"--to\",\"bob\"]" };
        @id("tags") forbid (principal, action == Action::"query", resource)
        when { context.input has tags && context.input.tags == ["a", "b"] };"#,
    );
    let verdict = |input: &str| cause(&Ask::new("query", "docs", input).of(&bundle));
    assert_eq!(verdict(r#"{"argv":["bob","--to","bob"]}"#), Some(DenyCause::Forbidden));
    assert_eq!(verdict(r#"{"argv":["--to","bob"]}"#), None);
    assert_eq!(verdict(r#"{"tags":["b","a","b"]}"#), Some(DenyCause::Forbidden));
}

#[test]
fn a_question_that_does_not_fit_the_schema_is_no_verdict() {
    let bundle = Files::usual().load();
    let field = |ask: Ask| match ask.try_of(&bundle) {
        Err(QueryError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(Ask::new("export", "docs", "{}")), "input.rows");
    assert_eq!(field(Ask::new("export", "docs", r#"{"rows":"5"}"#)), "input.rows");
    assert_eq!(field(Ask::new("export", "docs", r#"{"rows":5,"approval":{}}"#)), "input.approval");
    let mut ask = Ask::new("export", "docs", EXPORT);
    ask.environment = record(r#"{"excluded":[]}"#);
    assert_eq!(field(ask.clone()), "environment.excluded");
    ask.environment.clear();
    ask.operator = Some(entity("Agent::\"bot\""));
    assert_eq!(field(ask.clone()), "operator");
    ask.operator = None;
    ask.excluded.insert(entity("Agent::\"bot\""));
    assert_eq!(field(ask.clone()), "excluded");
    ask.excluded.clear();
    ask.now = countersign_core::Timestamp::from_millis(i64::MAX);
    assert_eq!(field(ask), "now");

    let mut ask = Ask::new("exprot", "docs", EXPORT);
    assert_eq!(
        ask.try_of(&bundle).unwrap_err().to_string(),
        "the policies know no operation `exprot`; did you mean `export`?"
    );
    ask.operation = "approve".into();
    assert!(
        matches!(ask.try_of(&bundle), Err(QueryError::UnknownOperation { .. })),
        "reserved actions are no operations"
    );
    ask = Ask::new("query", "docs", "{}");
    ask.principal = entity("Service::\"ci\"");
    assert!(matches!(ask.try_of(&bundle), Err(QueryError::Principal { .. })));
    ask = Ask::new("query", "docs", "{}");
    ask.resource = entity("Agent::\"bot\"");
    assert!(matches!(ask.try_of(&bundle), Err(QueryError::Resource { .. })));
}

#[test]
fn policies_read_time_operator_and_session() {
    let bundle = with_failing(
        r#"@id("wednesday") forbid (principal, action == Action::"query", resource)
        when { context.now.weekday == "wednesday" && context.now.hour == 10 && context.now.minute == 0 &&
               context has operator && context.operator == Person::"dana" &&
               context.session.purpose == "a test" &&
               context.session.deadline.durationSince(context.now.instant) == duration("10m") };"#,
    );
    let mut ask = Ask::new("query", "docs", "{}");
    assert_eq!(ask.of(&bundle).verdict, Verdict::Allow);
    ask.operator = Some(person("dana"));
    assert_eq!(cause(&ask.of(&bundle)), Some(DenyCause::Forbidden));
    ask.now = NOW.plus(Duration::from_secs(24 * 3_600));
    assert_eq!(ask.of(&bundle).verdict, Verdict::Allow);
}

#[test]
fn a_forbid_scoped_by_a_group_of_actions_applies() {
    let bundle = with_failing(r#"@id("no-reads") forbid (principal, action in Action::"reads", resource);"#);
    assert_eq!(cause(&Ask::new("query", "docs", "{}").of(&bundle)), Some(DenyCause::Forbidden));
    assert_eq!(Ask::new("export", "docs", EXPORT).of(&bundle).verdict, Verdict::Allow);
}

proptest! {
    #[test]
    fn nothing_is_allowed_while_a_rule_that_asks_is_unmet(
        rows in -1_000_i64..1_000,
        limits in prop::collection::vec(-1_000_i64..1_000, 1..4),
        met in prop::collection::vec(any::<bool>(), 3),
        approved in any::<bool>(),
    ) {
        let mut text = "@id(\"all\") permit (principal, action, resource);".to_owned();
        for (i, limit) in limits.iter().enumerate() {
            let id = format!("r{i}");
            text += &format!("@id(\"{id}\") forbid (principal, action == Action::\"export\", resource) when {{ context.input.rows > {limit} }} {};", lift(&id));
        }
        let bundle = Files::new().work(&text)
            .approve(r#"@id("a") permit (principal in Group::"owners", action == Action::"approve", resource);"#)
            .load();
        let ids: Vec<String> = (0..limits.len()).map(|i| format!("r{i}")).collect();
        let met: Vec<&str> = ids.iter().zip(&met).filter(|(_, met)| **met && approved).map(|(id, _)| id.as_str()).collect();
        let mut ask = Ask::new("export", "docs", &format!("{{\"rows\":{rows}}}"));
        if !met.is_empty() {
            ask = ask.approved(approval(&met, &["dana"]));
        }
        let evaluation = ask.of(&bundle);
        let unmet: Vec<&str> = ids.iter().zip(&limits).filter(|(id, limit)| rows > **limit && !met.contains(&id.as_str()))
            .map(|(id, _)| id.as_str()).collect();
        prop_assert_eq!(evaluation.verdict == Verdict::Allow, unmet.is_empty());
        prop_assert_eq!(asking(&evaluation), unmet);
    }
}
