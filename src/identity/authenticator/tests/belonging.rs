//! Groups and owners, as the configuration lets an issuer name them.

use std::collections::BTreeSet;

use super::*;

const GROUPS: &str = "groups = { claim = \"groups\", map = { \"pay-oncall\" = \"on-call\", \"0f1c\" = \"data-owners\", \"Größe\" = \"large\" } }";
const OWNER: &str = "owner = { claim = \"/run/owner\", issuer = \"https://login.example.com\" }";

fn groups(credential: &Credential) -> Vec<&str> {
    credential.claims.groups.iter().map(|group| group.id()).collect()
}

#[test]
fn a_claim_names_no_group_that_is_not_mapped() {
    let world = World::with(GROUPS);
    for (said, expected) in [
        (json!(["pay-oncall", "0f1c"]), vec!["data-owners", "on-call"]),
        (json!("pay-oncall"), vec!["on-call"]),
        (json!(["Größe", "Größe"]), vec!["large"]),
        // The ids of groups themselves, other spellings, and what only comes to look like a value.
        (json!(["on-call", "data-owners", "large", "Group::\"on-call\"", "", "*"]), vec![]),
        (
            json!([
                "Pay-oncall",
                "PAY-ONCALL",
                "pay-oncall ",
                "pay\u{2010}oncall",
                "pay-\u{200b}oncall",
                "ｐay-oncall"
            ]),
            vec![],
        ),
        (json!(["Gro\u{308}ße", "GRÖSSE", "größe"]), vec![]),
        (json!("pay-oncall 0f1c"), vec![]),
        (json!("pay-oncall,0f1c"), vec![]),
        (json!([]), vec![]),
        (json!(["x".repeat(3000), "0f1c"]), vec!["data-owners"]),
    ] {
        assert_eq!(groups(&world.with_claim("groups", said.clone()).unwrap()), expected, "{said}");
    }
    assert_eq!(groups(&world.with_claim("groups", Value::Null).unwrap()), [""; 0]);
    for other in ["roles", "Groups", "https://idp.example.com/groups"] {
        assert_eq!(groups(&world.with_claim(other, json!(["0f1c"])).unwrap()), [""; 0], "{other}");
    }
    for wrong in [json!({"0f1c": true}), json!(1), json!(true), json!(["0f1c", 1]), json!([["0f1c"]]), json!([null])] {
        assert!(matches!(world.with_claim("groups", wrong.clone()), Err(CredentialError::Groups(_))), "{wrong}");
    }
    let many: Vec<String> = (0..256).map(|n| n.to_string()).collect();
    assert!(world.with_claim("groups", json!(many)).is_ok());
    let more: Vec<String> = (0..257).map(|n| n.to_string()).collect();
    assert!(matches!(world.with_claim("groups", json!(more)), Err(CredentialError::Groups(_))));
    // Nothing is read that the configuration does not mention.
    assert_eq!(World::new().with_claim("groups", json!(["0f1c"])).unwrap().claims, Claims::default());
}

#[test]
fn the_owner_of_an_agent_is_an_account_of_the_configured_issuer() {
    let world = World::with(OWNER);
    let mut claims = claims();
    claims["sub"] = json!("agent:bot");
    let verify = |claims: &Value| world.verify(&signed(&header(), &claims.to_string(), &world.key));
    claims["run"] = json!({"owner": "alice"});
    assert_eq!(verify(&claims).unwrap().claims.owner.as_deref(), Some("https://login.example.com#alice"));
    // Whatever it looks like, it is a subject there.
    claims["run"] = json!({"owner": "https://idp.example.com#alice"});
    let owner = verify(&claims).unwrap().claims.owner.clone();
    assert_eq!(owner.as_deref(), Some("https://login.example.com#https://idp.example.com#alice"));
    for wrong in [
        json!({}),
        Value::Null,
        json!({"owner": ""}),
        json!({"owner": 7}),
        json!({"owner": ["alice"]}),
        json!({"owner": "alice "}),
        json!({"owner": "ali\u{200b}ce"}),
        json!({"owner": "ａlice"}),
        json!({"owner": "x".repeat(257)}),
    ] {
        claims["run"] = wrong;
        assert!(matches!(verify(&claims), Err(CredentialError::Owner(_))), "{claims}");
    }
    // People answer for themselves.
    claims["sub"] = json!("alice");
    assert_eq!(verify(&claims).unwrap().claims.owner, None);
}

#[test]
fn what_is_said_of_a_person_is_not_said_of_whoever_acts_for_them() {
    let world = World::with(&format!("{GROUPS}\n{OWNER}"));
    let mut claims = claims();
    claims["groups"] = json!(["0f1c"]);
    claims["run"] = json!({"owner": "alice"});
    claims["act"] = json!({"sub": "agent:bot"});
    let verify = |claims: &Value| world.verify(&signed(&header(), &claims.to_string(), &world.key));
    // Of the agent it says nothing, and of an agent it must name an owner.
    assert!(matches!(verify(&claims), Err(CredentialError::Owner(_))));
    claims["act"] = json!({"sub": "agent:bot", "run": {"owner": "bob"}});
    let credential = verify(&claims).unwrap();
    assert_eq!(credential.claims.owner.as_deref(), Some("https://login.example.com#bob"));
    assert_eq!(credential.claims.groups, BTreeSet::new());
    claims["act"] = json!({"sub": "agent:bot", "run": {"owner": "bob"}, "groups": ["pay-oncall"]});
    assert_eq!(groups(&verify(&claims).unwrap()), ["on-call"]);
    // Of those before it, it says nothing.
    for act in [
        json!({"sub": "agent:bot", "run": {"owner": "bob"}, "act": {"sub": "agent:b", "groups": ["0f1c"]}}),
        json!({"sub": "agent:bot", "run": {"owner": "bob"}, "roles": ["0f1c"]}),
    ] {
        claims["act"] = act;
        assert!(matches!(verify(&claims), Err(CredentialError::Delegation(_))), "{claims}");
    }
    claims["act"] = json!({"sub": "agent:bot", "groups": ["0f1c"]});
    let plain = World::new();
    let refused = plain.verify(&signed(&header(), &claims.to_string(), &plain.key));
    assert!(matches!(refused, Err(CredentialError::Delegation(_))), "nothing is configured to be said: {refused:?}");
}
