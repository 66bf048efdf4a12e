use std::collections::BTreeSet;
use std::time::Duration;

use countersign_core::EntityRef;
use countersign_policy::AnswerQuery;
use countersign_policy::scenario::Scenario;

use crate::{Files, answering, entity, person};

fn customers() -> EntityRef {
    entity("Dataset::\"customers\"")
}

fn bot() -> EntityRef {
    entity("Agent::\"bot\"")
}

#[test]
fn members_of_the_group_answer_through_groups_too() {
    let bundle = Files::usual().load();
    let (resource, requester, nobody) = (customers(), bot(), BTreeSet::new());
    let query = answering(&resource, &requester, &nobody);
    for (id, permitted) in [("dana", true), ("dave", true), ("olivia", false), ("stranger", false)] {
        let answer = bundle.alone().may_answer("pii-needs-two", &person(id), &query);
        assert_eq!((answer.permitted, answer.errors.len()), (permitted, 0), "{id}");
    }
    assert_eq!(bundle.alone().may_answer("pii-needs-two", &person("dana"), &query).policies, ["owners-answer"]);
}

#[test]
fn whoever_is_excluded_does_not_answer() {
    let bundle = Files::usual().load();
    let (resource, requester, excluded) = (customers(), bot(), BTreeSet::from([person("dana")]));
    let query = answering(&resource, &requester, &excluded);
    let answer = bundle.alone().may_answer("pii-needs-two", &person("dana"), &query);
    assert_eq!((answer.permitted, answer.policies), (false, vec!["kernel-answered-by-an-excluded-person".to_owned()]));
    assert!(bundle.alone().may_answer("pii-needs-two", &person("dave"), &query).permitted);
}

#[test]
fn an_open_permit_for_work_grants_no_answering() {
    let bundle = Files::usual()
        .replaced(
            "policies/work.cedar",
            "permit (principal, action, resource is Dataset)",
            "permit (principal, action, resource)",
        )
        .load();
    let (resource, requester, nobody) = (customers(), bot(), BTreeSet::new());
    assert!(
        !bundle
            .alone()
            .may_answer("pii-needs-two", &person("olivia"), &answering(&resource, &requester, &nobody))
            .permitted
    );
}

#[test]
fn an_agent_does_not_answer() {
    let bundle = Files::usual().load();
    let (resource, requester, nobody) = (customers(), bot(), BTreeSet::new());
    let answer = bundle.alone().may_answer("pii-needs-two", &bot(), &answering(&resource, &requester, &nobody));
    assert!(!answer.permitted && !answer.errors.is_empty(), "{answer:?}");
}

#[test]
fn an_error_is_no_answer() {
    let files = Files::usual();
    let text = format!(
        "{}\n@id(\"fails\") forbid (principal, action == Action::\"approve\", resource is Dataset) when {{ resource.classification == \"x\" }};",
        files.0["approve/approve.cedar"]
    );
    let bundle = files.approve(&text).load();
    let (resource, requester, nobody) = (entity("Dataset::\"unknown\""), bot(), BTreeSet::new());
    let answer =
        bundle.alone().may_answer("pii-needs-two", &person("dana"), &answering(&resource, &requester, &nobody));
    assert!(!answer.permitted && answer.errors[0].contains("`fails`"), "{answer:?}");
}

#[test]
fn a_rule_that_does_not_ask_has_no_answers() {
    let bundle = Files::usual().load();
    let (resource, requester, nobody) = (customers(), bot(), BTreeSet::new());
    let query = answering(&resource, &requester, &nobody);
    assert!(!bundle.alone().may_answer("all-work", &person("dana"), &query).permitted);
    assert_eq!(bundle.alone().answerers("all-work", &query, 10), countersign_policy::Answerers::default());
}

#[test]
fn those_who_could_answer_are_named_up_to_a_limit() {
    let bundle = Files::usual().load();
    let (resource, requester, nobody) = (customers(), bot(), BTreeSet::new());
    let query = answering(&resource, &requester, &nobody);
    let all = bundle.alone().answerers("pii-needs-two", &query, 2);
    assert_eq!(all.groups, [entity("Group::\"owners\"")]);
    assert_eq!((all.persons, all.truncated), (vec![person("dana"), person("dave")], false));
    let some = bundle.alone().answerers("pii-needs-two", &query, 1);
    assert_eq!((some.persons, some.truncated), (vec![person("dana")], true));
    let excluded = BTreeSet::from([person("dana")]);
    let rest = bundle.alone().answerers("pii-needs-two", &answering(&resource, &requester, &excluded), 10);
    assert_eq!((rest.persons, rest.truncated), (vec![person("dave")], false));
}

#[test]
fn one_person_behind_two_accounts_is_one_person() {
    let bundle = Files::usual().load();
    assert_eq!(bundle.alone().person_of("dev#dana"), Some(person("dana")));
    assert_eq!(bundle.alone().person_of("sso#dana"), Some(person("dana")));
    assert_eq!(bundle.alone().person_of("dev#Dana"), None);
    assert_eq!(bundle.alone().owner_of(&bot()), Some(person("olivia")));
    assert_eq!(bundle.alone().owner_of(&person("dana")), None);
    assert!(
        bundle.alone().contains(&customers())
            && !bundle.alone().contains(&entity("Dataset::\"x\""))
            && !bundle.alone().contains(&entity("X::\"x\""))
    );
}

#[test]
fn others_answer_when_the_question_has_waited_for_as_long_as_their_policy_says() {
    let later = r#"
        @id("managers-answer-later") permit (principal == Person::"olivia", action == Action::"approve", resource)
        when { context.rule == "pii-needs-two" && context.waited >= duration("10m") };
    "#;
    let bundle = Files::usual().with("approve/later.cedar", later).load();
    let (resource, requester, nobody) = (customers(), bot(), BTreeSet::new());
    for (seconds, permitted) in [(0, false), (599, false), (600, true), (86_400, true)] {
        let waited = Duration::from_secs(seconds);
        let query = AnswerQuery { waited, ..answering(&resource, &requester, &nobody) };
        let answer = bundle.alone().may_answer("pii-needs-two", &person("olivia"), &query);
        assert_eq!((answer.permitted, answer.errors.len()), (permitted, 0), "{seconds}");
        assert!(bundle.alone().may_answer("pii-needs-two", &person("dana"), &query).permitted);
    }
}

#[test]
fn when_a_rule_escalates_is_before_it_expires() {
    let escalating = |annotations: &str| {
        Files::usual().replaced(
            "policies/work.cedar",
            "@id(\"pii-needs-two\")",
            &format!("@id(\"pii-needs-two\") {annotations}"),
        )
    };
    for (after, seconds) in [("10s", 10), ("5m", 300), ("14m", 840)] {
        let bundle = escalating(&format!("@escalate(\"{after}\")")).load();
        let rule = bundle.asking("pii-needs-two").unwrap();
        assert_eq!(rule.escalate, Some(Duration::from_secs(seconds)), "{after}");
    }
    for (annotations, said) in [
        ("@escalate(\"9s\")", "is not when to escalate"),
        ("@escalate(\"soon\")", "is not when to escalate"),
        ("@escalate(\"24h\")", "is not when to escalate"),
        ("@escalate(\"20m\")", "when it has expired"),
    ] {
        let findings = escalating(annotations).findings();
        assert!(findings.iter().any(|finding| finding.message.contains(said)), "{annotations}: {findings:?}");
    }
}

#[test]
fn a_scenario_tells_of_votes_that_come_when_the_question_has_expired() {
    let bundle = Files::usual().load();
    let play = |waited: &str| {
        let text = format!(
            r#"[[scenario]]
            name = "late"
            now = "2026-11-18T10:00:00Z"
            principal = 'Agent::"bot"'
            operation = "export"
            resource = 'Dataset::"customers"'
            audience = "gate"
            input = {{ rows = 1 }}
            expect = "NEEDS_APPROVAL"
            [[scenario.vote]]
            person = 'Person::"dana"'
            verdict = "approve"
            waited = "{waited}"
            expect = "COUNTED""#
        );
        Scenario::parse_file(&text).map(|played| played[0].play(bundle.alone()))
    };
    assert_eq!(play("1199s").unwrap(), [""; 0]);
    assert!(play("20m").unwrap()[0].contains("when the question has expired"));
    assert!(play("soon").unwrap_err().message.contains("no time such as"));
}

#[test]
fn it_is_known_whether_time_alone_changes_who_may_answer() {
    let with = |when: &str| {
        let policy = format!(
            "@id(\"more\") permit (principal in Group::\"owners\", action == Action::\"approve\", resource)\nwhen {{ {when} }};\n"
        );
        Files::usual().with("approve/more.cedar", &policy).load().answers_by_time()
    };
    for still in ["context.rule == \"pii-needs-two\"", "context.requester != \"now\"", "!(context has operator)"] {
        assert!(!with(still), "{still}");
    }
    for by_time in [
        "context.waited >= duration(\"5m\")",
        "context.rule == \"pii-needs-two\" && (context.now.hour > 7 || context.now.weekday == \"monday\")",
        "context has now && context.requester != \"x\"",
    ] {
        assert!(with(by_time), "{by_time}");
    }
}
