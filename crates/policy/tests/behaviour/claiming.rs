//! Groups that a credential claims, for one entity and one question.

use std::collections::BTreeSet;

use countersign_core::EntityRef;
use countersign_core::ledger::NOTHING;
use countersign_policy::{AdminAction, AdminQuery, Entities, Question, Verdict};

use crate::{Ask, Files, NOW, answering, entity, person};

fn groups(ids: &[&str]) -> BTreeSet<EntityRef> {
    ids.iter().map(|id| EntityRef::new("Group", *id).unwrap()).collect()
}

#[test]
fn whoever_claims_a_group_is_in_it_and_in_those_above_and_nobody_else_is() {
    let bundle = Files::usual().load();
    let (customers, bot, nobody) = (entity("Dataset::\"customers\""), entity("Agent::\"bot\""), BTreeSet::new());
    let query = answering(&customers, &bot, &nobody);
    let olivia = person("olivia");
    for (claimed, permitted) in [
        (groups(&["owners"]), true),
        (groups(&["night-owners"]), true),
        (groups(&["empty"]), false),
        (groups(&["ghosts"]), false),
    ] {
        let view = bundle.alone().claiming(&olivia, &claimed);
        assert_eq!(view.may_answer("pii-needs-two", &olivia, &query).permitted, permitted, "{claimed:?}");
        assert_eq!(view.is_in(&olivia, &entity("Group::\"owners\"")), permitted, "{claimed:?}");
        // The directory is as it was for everybody else, and for the same one without the claim.
        assert!(view.may_answer("pii-needs-two", &person("dana"), &query).permitted);
        assert!(!view.claiming(&bot, &claimed).may_answer("pii-needs-two", &olivia, &query).permitted);
    }
    assert!(!bundle.alone().may_answer("pii-needs-two", &olivia, &query).permitted);
}

#[test]
fn only_groups_are_claimed_and_only_by_those_who_exist() {
    let bundle = Files::usual().load();
    let (customers, bot, nobody) = (entity("Dataset::\"customers\""), entity("Agent::\"bot\""), BTreeSet::new());
    let query = answering(&customers, &bot, &nobody);
    let (owners, ghost) = (groups(&["owners"]), person("ghost"));
    let view = bundle.alone().claiming(&ghost, &owners);
    assert!(!view.may_answer("pii-needs-two", &ghost, &query).permitted);
    let posing = BTreeSet::from([person("dana"), customers.clone()]);
    let olivia = person("olivia");
    let view = bundle.alone().claiming(&olivia, &posing);
    assert!(!view.is_in(&olivia, &person("dana")) && !view.is_in(&olivia, &customers));
    assert!(!view.may_answer("pii-needs-two", &olivia, &query).permitted);
}

#[test]
fn a_claim_leaves_tags_attributes_and_everything_else_as_it_is() {
    let bundle = Files::usual()
        .replaced(
            "entities.json",
            r#""attrs": { "owner": { "__entity": { "type": "Person", "id": "olivia" } } }, "parents": []"#,
            r#""attrs": { "owner": { "__entity": { "type": "Person", "id": "olivia" } } }, "parents": [],
               "tags": { "team": "night" }"#,
        )
        .work(
            r#"@id("work") permit (principal is Agent in Group::"owners", action, resource)
               when { principal.hasTag("team") && principal.getTag("team") == "night" && principal.owner.accounts.contains("dev#olivia") };"#,
        )
        .without("approve/approve.cedar")
        .load();
    let ask = Ask::new("query", "docs", "{}");
    assert!(matches!(ask.of(&bundle).verdict, Verdict::Deny { .. }));
    let (bot, owners) = (entity("Agent::\"bot\""), groups(&["owners"]));
    let evaluation = ask.on(bundle.alone().claiming(&bot, &owners)).unwrap();
    assert_eq!(evaluation.verdict, Verdict::Allow, "{evaluation:?}");
}

#[test]
fn a_question_with_claimed_groups_is_explained_and_administered_with_them() {
    let bundle = Files::usual()
        .work(r#"@id("work") permit (principal in Group::"empty", action, resource);"#)
        .without("approve/approve.cedar")
        .with(
            "admin/admin.cedar",
            r#"@id("readers") permit (principal in Group::"empty", action == Action::"readLog", resource);"#,
        )
        .replaced(
            "entities.json",
            "[\n",
            "[{ \"uid\": { \"type\": \"Tenant\", \"id\": \"acme\" }, \"attrs\": {}, \"parents\": [] },\n",
        )
        .load();
    let ask = Ask::new("query", "docs", "{}");
    let query = ask.query();
    let question = Question {
        principal: ask.principal.clone(),
        operation: ask.operation.clone(),
        resource: ask.resource.clone(),
        input: ask.input.clone(),
        environment: ask.environment.clone(),
        session: query.session.id,
        purpose: query.session.purpose.to_owned(),
        opened_at: query.session.opened_at,
        deadline: query.session.deadline,
        standing: NOTHING.clone(),
        operator: None,
        digest: query.digest,
        now: NOW,
        excluded: ask.excluded.clone(),
        approval: None,
        claimed: groups(&["empty"]),
        holder: None,
    };
    let stored = Entities::default();
    let view = question.seen(bundle.with(&stored, None));
    assert_eq!(view.explain(&question.query()).unwrap().evaluation.verdict, Verdict::Allow);
    let tenant = entity("Tenant::\"acme\"");
    let read = AdminQuery { caller: &ask.principal, action: AdminAction::ReadLog { tenant: &tenant }, now: NOW };
    assert!(view.administer(&read).permitted);
    assert!(!bundle.alone().administer(&read).permitted);
}
