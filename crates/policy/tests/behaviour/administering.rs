use std::collections::BTreeSet;

use countersign_core::{Digest, EntityRef};
use countersign_policy::{AdminAction, AdminQuery, Bundle};

use crate::{Files, NOW, entity, person};

fn may(bundle: &Bundle, caller: &EntityRef, action: AdminAction<'_>) -> bool {
    bundle.alone().administer(&AdminQuery { caller, action, now: NOW }).permitted
}

#[test]
fn nothing_is_granted_that_no_admin_policy_grants() {
    let bundle = Files::usual().load();
    let (bot, tenant, point) =
        (entity("Agent::\"bot\""), entity("Tenant::\"acme\""), entity("EnforcementPoint::\"w\""));
    let (digest, rules) = (Digest::of(b"bundle"), BTreeSet::from(["asks".to_owned()]));
    for action in [
        AdminAction::OpenSession { principal: &bot, purpose: "x", operator: None, seconds: 1, depth: 0 },
        AdminAction::ActFor { principal: &bot, operation: "export", operator: None },
        AdminAction::Redeem { enforcement_point: &point, operation: "export", issuer: None },
        AdminAction::Revoke { principal: &bot },
        AdminAction::RevokeAll { tenant: &tenant, bundle: Some(digest) },
        AdminAction::RevokeAll { tenant: &tenant, bundle: None },
        AdminAction::ReadRevocations { tenant: &tenant },
        AdminAction::ResolveOutcome { principal: &bot, operation: "export", persons: &BTreeSet::new() },
        AdminAction::EndSession { principal: &bot },
        AdminAction::Publish { tenant: &tenant, digest, revision: 1 },
        AdminAction::ReadLog { tenant: &tenant },
        AdminAction::ReadApprovals { tenant: &tenant },
        AdminAction::ManageKeys { tenant: &tenant },
        AdminAction::ChangeEntities { tenant: &tenant, types: &BTreeSet::from(["Group"]), persons: &BTreeSet::new() },
        AdminAction::ReadEntities { tenant: &tenant },
        AdminAction::BreakGlass { tenant: &tenant, operation: "export", rules: &rules },
        AdminAction::ReviewBreakGlass {
            tenant: &tenant,
            person: &person("nick"),
            operation: "export",
            rules: &rules,
            excluded: &BTreeSet::new(),
        },
    ] {
        let answer = bundle.alone().administer(&AdminQuery { caller: &person("dana"), action, now: NOW });
        assert!(!answer.permitted && answer.errors.is_empty(), "{action:?}: {answer:?}");
    }
}

#[test]
fn what_policies_may_know_of_a_call_decides_it() {
    let bundle = Files::usual().admin(r#"
        @id("short") permit (principal, action == Action::"openSession", resource)
        when { principal == resource && context.seconds <= 3600 && context.purpose != "" };
        @id("for") permit (principal == Service::"gateway", action == Action::"actFor", resource is Agent)
        when { context.operation == "query" && context has operator };
        @id("redeem") permit (principal, action == Action::"redeem", resource == EnforcementPoint::"w")
        when { context has issuer && context.issuer == "dev" };
        @id("owners") permit (principal is Person, action in [Action::"revoke", Action::"endSession"], resource is Agent)
        when { resource.owner == principal };
        @id("publish") permit (principal, action == Action::"publish", resource) when { context.revision > 5 };
    "#).load();
    let (bot, gateway, tenant) = (entity("Agent::\"bot\""), entity("Service::\"gateway\""), entity("Tenant::\"acme\""));
    let (point, other) = (entity("EnforcementPoint::\"w\""), entity("EnforcementPoint::\"v\""));
    let olivia = person("olivia");
    let open = |seconds| AdminAction::OpenSession {
        principal: &bot,
        purpose: "x",
        operator: Some(&olivia),
        seconds,
        depth: 0,
    };
    assert!(may(&bundle, &bot, open(3_600)));
    assert!(!may(&bundle, &bot, open(3_601)));
    assert!(!may(&bundle, &gateway, open(1)));
    let act = |operation, operator| AdminAction::ActFor { principal: &bot, operation, operator };
    assert!(may(&bundle, &gateway, act("query", Some(&olivia))));
    assert!(!may(&bundle, &gateway, act("query", None)));
    assert!(!may(&bundle, &gateway, act("export", Some(&olivia))));
    let redeem = |enforcement_point, issuer| AdminAction::Redeem { enforcement_point, operation: "query", issuer };
    assert!(may(&bundle, &bot, redeem(&point, Some("dev"))));
    assert!(!may(&bundle, &bot, redeem(&point, None)));
    assert!(!may(&bundle, &bot, redeem(&other, Some("dev"))));
    assert!(may(&bundle, &olivia, AdminAction::Revoke { principal: &bot }));
    assert!(!may(&bundle, &person("dana"), AdminAction::EndSession { principal: &bot }));
    let publish = |revision| AdminAction::Publish { tenant: &tenant, digest: Digest::of(b"b"), revision };
    assert!(may(&bundle, &olivia, publish(6)) && !may(&bundle, &olivia, publish(5)));
}

#[test]
fn an_error_grants_nothing() {
    let bundle = Files::usual().admin(r#"
        @id("all") permit (principal, action == Action::"revoke", resource);
        @id("fails") forbid (principal, action == Action::"revoke", resource is Agent) when { resource.owner == principal };
    "#).load();
    let unknown = entity("Agent::\"unknown\"");
    let action = AdminAction::Revoke { principal: &unknown };
    let answer = bundle.alone().administer(&AdminQuery { caller: &person("dana"), action, now: NOW });
    assert!(!answer.permitted && answer.errors[0].contains("`fails`"), "{answer:?}");
    assert!(!may(&bundle, &entity("Dataset::\"docs\""), action), "a dataset is no caller");
}

#[test]
fn an_agent_breaks_no_glass() {
    let bundle =
        Files::usual().admin(r#"@id("glass") permit (principal, action == Action::"breakGlass", resource);"#).load();
    let (tenant, rules) = (entity("Tenant::\"acme\""), BTreeSet::from(["asks".to_owned()]));
    let breaks = AdminAction::BreakGlass { tenant: &tenant, operation: "export", rules: &rules };
    assert!(may(&bundle, &person("dana"), breaks));
    assert!(!may(&bundle, &entity("Agent::\"bot\""), breaks));
}

#[test]
fn the_rules_that_are_lifted_decide_who_breaks_the_glass() {
    let bundle = Files::usual()
        .admin(
            r#"
        @id("glass") permit (principal == Person::"dana", action == Action::"breakGlass", resource)
        when { context.operation == "export" && ["one", "two"].containsAll(context.rules) };
    "#,
        )
        .load();
    let tenant = entity("Tenant::\"acme\"");
    let breaks = |who: &str, operation, lifted: &[&str]| {
        let rules = lifted.iter().map(|rule| (*rule).to_owned()).collect();
        may(&bundle, &person(who), AdminAction::BreakGlass { tenant: &tenant, operation, rules: &rules })
    };
    assert!(breaks("dana", "export", &["one"]) && breaks("dana", "export", &["one", "two"]));
    assert!(!breaks("dana", "export", &["one", "three"]) && !breaks("dana", "query", &["one"]));
    assert!(!breaks("olivia", "export", &["one"]));
}

#[test]
fn whatever_is_permitted_nobody_reviews_what_is_theirs() {
    let bundle = Files::usual()
        .admin(r#"@id("reviews") permit (principal, action == Action::"reviewBreakGlass", resource) when { context.rules.contains("asks") };"#)
        .load();
    let (tenant, nick) = (entity("Tenant::\"acme\""), person("nick"));
    let (rules, excluded) = (BTreeSet::from(["asks".to_owned()]), BTreeSet::from([person("olivia")]));
    let reviews = AdminAction::ReviewBreakGlass {
        tenant: &tenant,
        person: &nick,
        operation: "export",
        rules: &rules,
        excluded: &excluded,
    };
    assert!(may(&bundle, &person("dana"), reviews));
    for who in [&nick, &person("olivia"), &entity("Agent::\"bot\"")] {
        assert!(!may(&bundle, who, reviews), "{who}");
    }
}

#[test]
fn looking_after_notifications_is_a_permission_of_its_own() {
    let reads = r#"@id("reads") permit (principal, action == Action::"readLog", resource);"#;
    let looks_after =
        r#"@id("looks-after") permit (principal is Person, action == Action::"manageNotifications", resource);"#;
    let tenant = entity("Tenant::\"acme\"");
    let manage = AdminAction::ManageNotifications { tenant: &tenant };
    assert!(!may(&Files::usual().admin(reads).load(), &person("dana"), manage));
    let bundle = Files::usual().admin(looks_after).load();
    assert!(may(&bundle, &person("dana"), manage) && !may(&bundle, &entity("Agent::\"bot\""), manage));
}

#[test]
fn whatever_is_permitted_nobody_resolves_the_outcome_of_what_is_theirs() {
    let resolves = r#"@id("resolves") permit (principal, action == Action::"resolveOutcome", resource is Agent)
        when { context.operation == "export" };"#;
    let bundle = Files::usual().admin(resolves).load();
    let (bot, behind) = (entity("Agent::\"bot\""), BTreeSet::from([person("olivia")]));
    let resolve = |operation| AdminAction::ResolveOutcome { principal: &bot, operation, persons: &behind };
    assert!(may(&bundle, &person("dana"), resolve("export")) && !may(&bundle, &person("dana"), resolve("query")));
    assert!(!may(&bundle, &person("olivia"), resolve("export")) && !may(&bundle, &bot, resolve("export")));
}

#[test]
fn revoking_what_a_bundle_allowed_is_less_than_revoking_everything() {
    let revokes = r#"@id("revokes") permit (principal is Person, action == Action::"revokeAll", resource)
        when { context has bundle };"#;
    let bundle = Files::usual().admin(revokes).load();
    let tenant = entity("Tenant::\"acme\"");
    let revoke = |bundle| AdminAction::RevokeAll { tenant: &tenant, bundle };
    assert!(
        may(&bundle, &person("dana"), revoke(Some(Digest::of(b"b")))) && !may(&bundle, &person("dana"), revoke(None))
    );
}
