//! Bundles that are as they should be are proved, and broken ones are refuted by requests that the authorizer confirms.
//!
//! These tests need the solver. Where it is missing they fail, and say how to install it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that unwraps fails where it should; helpers of tests are tests"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use countersign_policy::{Bundle, Source};
use countersign_prove::{
    Counterexample, Finding, Places, Proof, PropertyError, Solver, Verdict, find_solver, properties, prove,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn solver() -> Solver {
    let python = root().join(".venv/bin/python");
    find_solver(&Places { named: Some(python), ..Places::default() })
        .unwrap_or_else(|missing| panic!("run `make setup-prove`, which installs the solver\n{missing}"))
}

/// The smallest shipped bundle, which the broken ones are made of.
struct Files(BTreeMap<String, String>);

impl Files {
    fn minimal() -> Self {
        let source = Source::read_dir(&root().join("policies/minimal")).unwrap();
        Self(source.files().clone())
    }

    fn with(mut self, path: &str, text: &str) -> Self {
        self.0.insert(path.into(), text.into());
        self
    }

    fn replaced(mut self, path: &str, from: &str, to: &str) -> Self {
        let text = self.0.get_mut(path).unwrap();
        assert!(text.contains(from), "{path} has no {from}");
        *text = text.replace(from, to);
        self
    }

    fn load(self) -> Bundle {
        Bundle::load(Source::from_files(self.0).unwrap()).unwrap()
    }
}

async fn proved(bundle: &Bundle) -> BTreeMap<String, Proof> {
    let proofs = prove(bundle, &properties(bundle).unwrap(), &solver(), |_| {}).await;
    proofs.into_iter().map(|proof| (proof.property.clone(), proof)).collect()
}

/// What is not proved, by id.
fn open(proofs: &BTreeMap<String, Proof>) -> Vec<&str> {
    proofs.values().filter(|proof| proof.verdict() != Verdict::Proved).map(|proof| proof.property.as_str()).collect()
}

/// The counterexamples of a property, by the type of the principal and the action.
fn refuted(proof: &Proof) -> BTreeMap<(&str, &str), &Counterexample> {
    let refuted = |finding: &'_ Finding| matches!(finding, Finding::Proved | Finding::Refuted(_));
    assert!(proof.cases.iter().all(|case| refuted(&case.finding)), "{proof:#?}");
    let cases = proof.cases.iter().filter_map(|case| match &case.finding {
        Finding::Refuted(found) => Some(((case.principal.as_str(), case.action.as_str()), &**found)),
        Finding::Proved | Finding::Unconfirmed { .. } | Finding::Undecided(_) => None,
    });
    cases.collect()
}

#[tokio::test]
async fn every_property_of_the_shipped_bundles_is_proved_and_says_something() {
    for name in ["ai-platform", "minimal", "holders"] {
        let bundle = Bundle::load(Source::read_dir(&root().join("policies").join(name)).unwrap()).unwrap();
        let mut seen = Vec::new();
        let all = properties(&bundle).unwrap();
        let proofs = prove(&bundle, &all, &solver(), |step| seen.push(step.property.to_owned())).await;
        for proof in &proofs {
            assert_eq!((proof.verdict(), &proof.warning), (Verdict::Proved, &None), "{name}: {proof:#?}");
            assert!(!proof.cases.is_empty(), "{name}: {} is about no request", proof.property);
        }
        let ids: Vec<String> = all.iter().map(|property| property.id.clone()).collect();
        assert_eq!((seen, proofs.len()), (ids.clone(), ids.len()), "{name}");
        assert!(all.iter().any(|property| property.stated_at.is_some()), "{name} has properties of its author");
    }
}

/// Publishing is seen, whatever is published.
const SEEN: &str = r#"
    @id("publishing-is-seen") @reason("nothing is published unseen")
    forbid (principal, action in Action::"publishing", resource)
    unless { context has approval && context.approval.rules.contains("publishing-needs-an-editor") };
"#;

fn publishing() -> Files {
    let schema = r#"
        entity Document;
        action publishing;
        action read appliesTo { principal: [Agent, Person], resource: [Document] };
        action publish_document, publish_folder in [publishing]
            appliesTo { principal: [Agent, Person], resource: [Document] };
    "#;
    Files::minimal().with("schema.cedarschema", schema).with("properties/documents.cedar", SEEN)
}

#[tokio::test]
async fn an_operation_that_escapes_its_guard_is_found_and_replayed() {
    let proofs = proved(&publishing().load()).await;
    assert_eq!(open(&proofs), ["publishing-is-seen"]);
    let refuted = refuted(&proofs["publishing-is-seen"]);
    assert_eq!(
        refuted.keys().copied().collect::<Vec<_>>(),
        [("Agent", "publish_folder"), ("Person", "publish_folder")]
    );
    for found in refuted.values() {
        assert!(found.replay.allowed && found.replay.failed.is_empty(), "{found:#?}");
        assert_eq!(found.replay.policies, ["documents"]);
        assert_eq!(found.action, "Action::\"publish_folder\"");
        assert!(found.resource.name.starts_with("Document::"), "{found:#?}");
        assert!(found.context.iter().any(|(field, _)| field == "session.purpose"), "{found:#?}");
    }

    let guarded = publishing().replaced(
        "policies/documents.cedar",
        "action == Action::\"publish_document\"",
        "action in Action::\"publishing\"",
    );
    assert_eq!(open(&proved(&guarded.load()).await), [""; 0]);
}

#[tokio::test]
async fn a_guard_that_is_weakened_for_one_type_of_principal_is_found_for_that_one() {
    let files =
        Files::minimal().replaced("policies/documents.cedar", "forbid (principal,", "forbid (principal is Agent,");
    let proofs = proved(&files.load()).await;
    assert_eq!(open(&proofs), ["publishing-waits-for-an-editor"]);
    let refuted = refuted(&proofs["publishing-waits-for-an-editor"]);
    assert_eq!(refuted.keys().copied().collect::<Vec<_>>(), [("Person", "publish_document")]);
    let found = refuted[&("Person", "publish_document")];
    assert_eq!((found.replay.allowed, found.replay.policies.as_slice()), (true, &["documents".to_owned()][..]));
    assert!(found.principal.attributes.iter().any(|(name, _)| name == "accounts"), "{found:#?}");
}

#[tokio::test]
async fn what_should_pass_and_does_not_is_found() {
    let files =
        Files::minimal().replaced("policies/documents.cedar", "permit (principal,", "permit (principal is Agent,");
    let proofs = proved(&files.load()).await;
    assert_eq!(open(&proofs), ["reading-asks-nobody"]);
    let refuted = refuted(&proofs["reading-asks-nobody"]);
    assert_eq!(refuted.keys().copied().collect::<Vec<_>>(), [("Person", "read")]);
    assert!(!refuted[&("Person", "read")].replay.allowed);
}

#[tokio::test]
async fn a_policy_that_may_fail_is_found() {
    let counted = |condition: &str| {
        let read = "action read appliesTo { principal: [Agent, Person], resource: [Document]";
        let limit = format!(
            "@id(\"short-reads\") forbid (principal, action == Action::\"read\", resource) when {{ {condition} }};"
        );
        Files::minimal()
            .replaced(
                "schema.cedarschema",
                read,
                &format!("{read}, context: {{ input: {{ pages: Long, copies?: Long }} }}"),
            )
            .with("policies/limits.cedar", &limit)
            .with("properties/documents.cedar", "")
    };
    let proofs = proved(&counted("context.input.pages * 2 > 100").load()).await;
    assert_eq!(open(&proofs), ["errors:policies"]);
    let refuted = refuted(&proofs["errors:policies"]);
    assert_eq!(refuted.keys().copied().collect::<Vec<_>>(), [("Agent", "read"), ("Person", "read")]);
    for found in refuted.values() {
        assert_eq!(
            (found.failing.as_slice(), found.replay.failed.as_slice()),
            (&["short-reads".into()][..], &["short-reads".into()][..])
        );
    }
    assert_eq!(open(&proved(&counted("context.input.pages > 50").load()).await), [""; 0]);
    // The clock is what it is: an hour is no number that could overflow.
    assert_eq!(open(&proved(&counted("context.now.hour * 60 + context.now.minute > 500").load()).await), [""; 0]);

    // An optional field that is read without asking for it does not get as far as a proof.
    let files = counted("context.input.copies > 1").0;
    let refused = Bundle::load(Source::from_files(files).unwrap()).unwrap_err();
    assert!(refused.to_string().contains("copies"), "{refused}");
}

#[tokio::test]
async fn a_statement_that_can_fail_is_no_statement() {
    let read = "action read appliesTo { principal: [Agent, Person], resource: [Document]";
    let files = Files::minimal()
        .replaced("schema.cedarschema", read, &format!("{read}, context: {{ input: {{ pages: Long }} }}"))
        .with(
            "properties/documents.cedar",
            "@id(\"p\") forbid (principal, action == Action::\"read\", resource) when { context.input.pages + 1 < 0 };",
        );
    let proofs = proved(&files.load()).await;
    assert_eq!(open(&proofs), ["p"]);
    for found in refuted(&proofs["p"]).values() {
        assert_eq!(found.failing, ["p"]);
    }
}

#[tokio::test]
async fn what_says_nothing_is_remarked_upon() {
    let files = Files::minimal()
        .with(
            "policies/never.cedar",
            r#"
            @id("never-matches") forbid (principal, action == Action::"read", resource)
            when { context.now.hour < 8 && context.now.hour > 9 }
            unless { context has approval && context.approval.rules.contains("never-matches") };
            @id("never-lifted") forbid (principal, action == Action::"publish_document", resource)
            when { principal is Person }
            unless { context has approval && context.approval.rules.contains("never-lifted") };
            @id("persons-publish-nothing") forbid (principal is Person, action == Action::"publish_document", resource);
            "#,
        )
        .with(
            "approve/all.cedar",
            r#"@id("all") permit (principal in Group::"editors", action == Action::"approve", resource)
               when { ["never-matches", "never-lifted"].contains(context.rule) };"#,
        )
        .with(
            "properties/documents.cedar",
            "@id(\"empty\") forbid (principal, action == Action::\"read\", resource) when { context.digest != context.digest };",
        );
    let proofs = proved(&files.load()).await;
    assert_eq!(open(&proofs), [""; 0]);
    for (id, says) in [
        ("guard:never-matches", "it matches no request"),
        ("guard:never-lifted", "it never asks"),
        ("empty", "it says nothing"),
    ] {
        let warning = proofs[id].warning.as_deref().unwrap_or_default();
        assert!(warning.contains(says), "{id}: {warning}");
    }
    assert_eq!(proofs["guard:publishing-needs-an-editor"].warning, None);
}

#[test]
fn wrong_statements_are_told_with_their_place_and_hinder_no_decision() {
    let files = Files::minimal().with(
        "properties/documents.cedar",
        "@id(\"a\") forbid (principal, action == Action::\"read\", resource)\nwhen { context.input.pages > 1 };\n\
         @id(\"b\") @quorum(\"2\") forbid (principal, action == Action::\"read\", resource);",
    );
    let bundle = files.load();
    let Err(PropertyError::Refused(refused)) = properties(&bundle) else { panic!("the statements are accepted") };
    let places: Vec<(&str, usize)> = refused.findings.iter().map(|f| (f.file.as_str(), f.line)).collect();
    assert_eq!(places, [("properties/documents.cedar", 2), ("properties/documents.cedar", 3)], "{refused}");
}
