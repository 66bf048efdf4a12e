//! Proofs, on the command line.

use crate::harness::Bundle;
use crate::harness::cli::{Finished, run, solver};

async fn prove(bundle: &Bundle, args: &[&str]) -> Finished {
    let dir = bundle.path().to_str().unwrap();
    run(&[&["policy", "prove", dir, "--solver", &solver()], args].concat(), &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_proved_ends_with_zero_and_what_is_refuted_shows_the_request() {
    let bundle = Bundle::example();
    let only = ["--only", "only-operators-operate", "--only", "guard:export-needs-two"];
    let proved = prove(&bundle, &only).await;
    assert_eq!(proved.code, 0, "{proved:?}");
    assert!(proved.stdout.contains("✓ only-operators-operate"), "{}", proved.stdout);
    assert!(!proved.stdout.contains('\u{1b}') && proved.stderr.is_empty(), "colour or progress in a pipe: {proved:?}");

    let rotates = "permit (principal in Group::\"operators\", action == Action::\"rotate_key\"";
    bundle.replace("policies/keys.cedar", rotates, "permit (principal, action == Action::\"rotate_key\"");
    let refuted = prove(&bundle, &only).await;
    assert_eq!(refuted.code, 1, "{refuted:?}");
    for said in [
        "✓ guard:export-needs-two",
        "✗ only-operators-operate",
        "stated at properties/production.cedar:",
        "refuted for Agent rotate_key Key, and for 2 other kinds of request",
        "Action::\"rotate_key\"",
        "production",
        "context.now.hour",
        "replayed on the authorizer: ALLOW by `ops-rotates-keys`",
        "not proved",
    ] {
        assert!(refuted.stdout.contains(said), "{said} is not in:\n{}", refuted.stdout);
    }

    let json = prove(&bundle, &[&only[..], &["--json"]].concat()).await;
    assert_eq!(json.code, 1, "{json:?}");
    let answer = json.json();
    assert_eq!((&answer["ok"], &answer["bundle"]["name"]), (&false.into(), &"ai-platform".into()));
    let properties = answer["properties"].as_array().unwrap();
    let verdicts: Vec<_> = properties.iter().map(|p| (p["id"].as_str(), p["verdict"].as_str())).collect();
    let expected = [("guard:export-needs-two", "proved"), ("only-operators-operate", "refuted")];
    assert_eq!(verdicts, expected.map(|(id, verdict)| (Some(id), Some(verdict))));
    let requests = properties[1]["requests"].as_array().unwrap();
    let open: Vec<_> = requests.iter().filter(|request| request["verdict"] == "refuted").collect();
    assert_eq!(open.len(), 3, "{open:#?}");
    for request in open {
        assert_eq!(request["action"], "rotate_key");
        let found = &request["counterexample"];
        assert_eq!(found["replay"]["policies"], serde_json::json!(["ops-rotates-keys"]), "{found:#}");
        assert_eq!(found["request"]["action"], "Action::\"rotate_key\"");
        assert!(found["request"]["entities"].is_array(), "{found:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_solver_is_told_with_the_command_that_installs_it() {
    let bundle = Bundle::example();
    let dir = bundle.path().to_str().unwrap();
    let missing = run(&["policy", "prove", dir, "--json", "--solver", "/no/such/cvc5"], &[]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (1, ""));
    let error = missing.json_error();
    assert_eq!(error["reason"], "SOLVER_MISSING", "{error}");
    assert!(error["message"].as_str().unwrap().contains("`make setup-prove`"), "{error}");
    // The variable is asked where nothing was named, and nothing else is tried instead.
    let missing = run(&["policy", "prove", dir], &[("CVC5", "/no/such/cvc5")]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (1, ""));
    assert!(missing.stderr.contains("/no/such/cvc5") && missing.stderr.contains("setup-prove"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_property_that_is_wrong_is_told_by_check_and_by_prove_with_its_place() {
    let bundle = Bundle::example();
    bundle.replace("properties/keys.cedar", "resource.production", "resource.productive");
    let dir = bundle.path().to_str().unwrap();
    let checked = run(&["policy", "check", dir], &[]).await;
    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(checked.stdout.contains("properties/keys.cedar:4:"), "{}", checked.stdout);
    let refused = prove(&bundle, &[]).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("properties/keys.cedar:4:"), "{}", refused.stderr);

    let unknown = prove(&Bundle::example(), &["--only", "nonsense"]).await;
    assert_eq!(unknown.code, 2, "{unknown:?}");
    assert!(unknown.stderr.contains("guard:export-needs-two"), "{}", unknown.stderr);
}
