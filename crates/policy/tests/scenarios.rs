//! The scenarios of the bundles that ship with countersign, played on the policies alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

use std::path::{Path, PathBuf};

use countersign_policy::scenario::Scenario;
use countersign_policy::{Bundle, Source};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies")
}

fn load(name: &str) -> Bundle {
    let source = Source::read_dir(&shipped().join(name)).unwrap();
    Bundle::load(source).unwrap_or_else(|refused| panic!("{refused}"))
}

/// Plays all scenarios of a bundle and returns how many there were.
fn play(name: &str) -> usize {
    let bundle = load(name);
    assert!(bundle.warnings().is_empty(), "{:?}", bundle.warnings());
    let mut played = 0;
    let mut wrong = Vec::new();
    for (path, text) in bundle.source().files().iter().filter(|(path, _)| path.starts_with("scenarios/")) {
        for scenario in Scenario::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}")) {
            played += 1;
            wrong.extend(scenario.play(bundle.alone()).into_iter().map(|what| format!("{path}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    played
}

#[test]
fn the_example_bundle_answers_as_its_scenarios_say() {
    assert!(play("ai-platform") >= 20);
}

#[test]
fn the_minimal_bundle_answers_as_its_scenarios_say() {
    assert_eq!(play("minimal"), 2);
}

#[test]
fn the_bundle_about_holders_answers_as_its_scenarios_say() {
    assert_eq!(play("holders"), 6);
}

#[test]
fn a_scenario_that_expects_something_else_fails() {
    let bundle = load("minimal");
    let text = &bundle.source().files()["scenarios/documents.toml"];
    for (from, to, wrong) in [
        ("expect = \"ALLOW\"\nrules", "expect = \"DENY\"\nrules", "expected DENY, got ALLOW by documents"),
        ("rules = [\"documents\"]", "rules = []", "expected the rules []"),
        ("expect = \"EXCLUDED\"", "expect = \"COUNTED\"", "to be COUNTED, it was EXCLUDED"),
        (
            "[scenario.after]\nexpect = \"ALLOW\"",
            "[scenario.after]\nexpect = \"DENY\"",
            "expected DENY after the votes",
        ),
        (
            "verdict = \"approve\"\nexpect = \"APPROVED\"",
            "verdict = \"deny\"\nexpect = \"ENDED\"",
            "expected ALLOW after the votes",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let scenarios = Scenario::parse_file(&text.replace(from, to)).unwrap();
        let told: Vec<String> = scenarios.iter().flat_map(|scenario| scenario.play(bundle.alone())).collect();
        assert!(told.len() == 1 && told[0].contains(wrong), "{wrong}: {told:?}");
    }
}

#[test]
fn a_scenario_file_is_read_strictly() {
    for (text, line, message) in [
        ("[[scenario]]\nnane = \"x\"", 2, "nane"),
        ("[[scenarios]]", 1, "scenarios"),
        ("[[scenario]]\nname = \"x\"\nnow = \"today\"", 3, "is not a time"),
        ("[[scenario]]\nname = \"x\"\nnow = \"2026-11-18T10:00:00Z\"\nprincipal = \"bot\"", 4, "write it as"),
    ] {
        let error = Scenario::parse_file(text).unwrap_err();
        assert!(error.line == line && error.message.contains(message), "{text}: {error}");
    }
}
