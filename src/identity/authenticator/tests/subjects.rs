//! Who is named by which claims, who may answer, and what is read again.

use super::*;

#[test]
fn one_claim_names_subjects_of_one_kind() {
    let github = "subject = { kind = \"service\", starts_with = \"repo:octo-org/\" }\n\
                  id_prefix = \"github:\"\nrequired = { repository_owner_id = \"123\", private = true, run = 7 }\n";
    let world = World::of(github);
    let mut claims = claims();
    for (name, value) in [
        ("repository_owner_id", json!("123")),
        ("private", json!(true)),
        ("run", json!(7)),
        ("sub", json!("repo:octo-org/app:x")),
    ] {
        claims[name] = value;
    }
    let verify = |claims: &Value| world.verify(&signed(&header(), &claims.to_string(), &world.key));
    let named = verify(&claims).unwrap();
    assert_eq!(named.subject, Subject::Service("github:repo:octo-org/app:x".to_owned()));
    for (name, value) in [
        ("repository_owner_id", json!("1234")),
        ("repository_owner_id", json!(123)),
        ("repository_owner_id", json!(["123"])),
        ("repository_owner_id", Value::Null),
        ("private", json!("true")),
        ("private", json!(false)),
        ("run", json!("7")),
    ] {
        let mut other = claims.clone();
        other[name] = value;
        assert_eq!(verify(&other), Err(CredentialError::Required(name.to_owned())), "{other}");
    }
    for sub in
        [json!("repo:octo-orgy/app:x"), json!(" repo:octo-org/app"), json!("repo:octo-org/ａ"), json!(1), Value::Null]
    {
        let mut other = claims.clone();
        other["sub"] = sub;
        assert!(matches!(verify(&other), Err(CredentialError::Subject(_))), "{other}");
    }
    claims["act"] = json!({"sub": "agent:a"});
    assert!(matches!(verify(&claims), Err(CredentialError::Delegation(_))), "nobody acts for a job");
}

#[test]
fn a_claim_is_found_by_pointer_and_actors_are_of_their_own_kind() {
    let world = World::of("subject = { kind = \"person\", claim = \"/profile/e~1mail\", actors = \"agent\" }");
    let mut claims = claims();
    claims["profile"] = json!({"e/mail": "alice@example.com"});
    claims["act"] = json!({"sub": "client-7", "act": {"sub": "client-8"}});
    let verify = |claims: &Value| world.verify(&signed(&header(), &claims.to_string(), &world.key));
    let credential = verify(&claims).unwrap();
    assert_eq!(credential.subject, Subject::Account("alice@example.com".to_owned()));
    assert_eq!(credential.actors, [Subject::Agent("client-7".to_owned()), Subject::Agent("client-8".to_owned())]);
    for profile in [json!({}), json!("e/mail"), json!({"e/mail": {}}), Value::Null] {
        claims["profile"] = profile;
        assert!(matches!(verify(&claims), Err(CredentialError::Subject(_))), "{claims}");
    }
}

#[test]
fn answering_takes_an_audience_a_fresh_authentication_and_a_method() {
    let more = "approving = { audience = \"answers\", max_age_seconds = 600, amr = [\"hwk\", \"mfa\"] }";
    let world = World::with(more);
    let mut good = claims();
    good["aud"] = json!(["countersign", "answers"]);
    good["auth_time"] = json!(NOW - 100);
    good["amr"] = json!(["pwd", "hwk"]);
    let answers = |claims: &Value| world.verify(&signed(&header(), &claims.to_string(), &world.key)).unwrap().answers;
    assert_eq!(answers(&good), Ok(at(NOW + 500)));
    // A token for answering alone is a credential too.
    good["aud"] = json!("answers");
    assert_eq!(answers(&good), Ok(at(NOW + 500)));
    for (name, value, expected) in [
        ("aud", json!("countersign"), NotAnswering::Audience),
        ("aud", json!(["countersign", "Answers"]), NotAnswering::Audience),
        ("auth_time", Value::Null, NotAnswering::Stale),
        ("auth_time", json!((NOW - 100).to_string()), NotAnswering::Stale),
        ("auth_time", json!(NOW + 6), NotAnswering::Stale),
        ("auth_time", json!(u64::MAX), NotAnswering::Stale),
        ("amr", Value::Null, NotAnswering::Weak),
        ("amr", json!("hwk"), NotAnswering::Weak),
        ("amr", json!([]), NotAnswering::Weak),
        ("amr", json!(["pwd", 1, "HWK"]), NotAnswering::Weak),
    ] {
        let mut other = good.clone();
        other[name] = value;
        assert_eq!(answers(&other), Err(expected), "{other}");
    }
    // How old it is counts when it is used, not when it is verified.
    good["auth_time"] = json!(NOW - 700);
    let stale = world.verify(&signed(&header(), &good.to_string(), &world.key)).unwrap();
    assert_eq!(stale.require_answering(at(NOW)), Err(NotAnswering::Stale));
    assert_eq!(stale.require_answering(at(NOW - 101)), Ok(()));
    assert_eq!(World::new().with_claim("amr", json!(["hwk"])).unwrap().answers, Err(NotAnswering::NotTrusted));
}

#[test]
fn a_changed_key_file_counts_without_a_restart_and_a_bad_one_does_not() {
    let world = World::new();
    let file = world.dir.path().join("other.pem");
    let issuer = &world.authenticator.issuers["https://other.example.com"];
    let followed = issuer.followed(&file);
    let newer = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut claims = claims();
    claims["iss"] = json!("https://other.example.com");
    let token = |key: &KeyPair| signed(&header(), &claims.to_string(), key);
    assert!(world.verify(&token(&world.other)).is_ok());
    assert_eq!((followed.read)(), Ok(false));
    for bad in ["", "-----BEGIN PUBLIC KEY-----\n", "{\"keys\": ["] {
        std::fs::write(&file, bad).unwrap();
        let problem = (followed.read)().unwrap_err();
        assert!(problem.contains("other.pem"), "{problem}");
        assert!(world.verify(&token(&world.other)).is_ok(), "what was read before stays");
    }
    std::fs::write(&file, newer.public_key_pem()).unwrap();
    assert_eq!((followed.read)(), Ok(true));
    assert!(world.verify(&token(&newer)).is_ok());
    // Though it was remembered as verified.
    assert_eq!(world.verify(&token(&world.other)), Err(CredentialError::Signature));
}

/// Prints what a credential costs that was seen before, and one that was not. Machines differ, so it asserts nothing:
/// `cargo test --workspace --lib what_a_credential_costs -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn what_a_credential_costs() {
    let world = World::new();
    let token = signed(&header(), &claims().to_string(), &world.key);
    for (what, cache) in [("seen before", true), ("new", false)] {
        let rounds: u32 = if cache { 200_000 } else { 2_000 };
        let begun = Instant::now();
        for _ in 0..rounds {
            if !cache {
                world.authenticator.verified.invalidate_all();
            }
            assert!(world.verify(&token).is_ok());
        }
        let line = format!("{what}: {:?} for a token of {} bytes\n", begun.elapsed() / rounds, token.len());
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).unwrap();
    }
}
