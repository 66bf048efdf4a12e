//! Another bundle beside the active one.

use std::collections::BTreeMap;
use std::time::Duration;

use countersign_engine::{Error, RevisionRule, ShadowReport, Verdict};
use countersign_store::Kernel;

use crate::{SCHEMA, World, call, dataset, files, minted, source};

/// The bundle of the tests with something replaced in one file.
fn changed(file: &str, from: &str, to: &str) -> BTreeMap<String, String> {
    let mut files = files();
    assert!(files[file].contains(from), "{from}");
    files.insert(file.to_owned(), files[file].replace(from, to));
    let auditors = r#"@id("audits") permit (principal in Group::"admins", action == Action::"readLog", resource);"#;
    files.entry("admin/admin.cedar".to_owned()).or_default().push_str(auditors);
    files
}

impl<K: Kernel> World<K> {
    /// What the shadow found, once it has looked at so many decisions.
    async fn found(&self, looked_at: u64) -> ShadowReport {
        let looking = async {
            loop {
                let report = self.engine.shadow_report(&call("adam", "GetShadow")).await.unwrap().unwrap();
                if report.same + report.different == looked_at {
                    return report;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            report = tokio::time::timeout(Duration::from_secs(60), looking) => report.unwrap(),
            () = self.engine.rehearse() => panic!("it never ends"),
        }
    }

    async fn audited() -> World<countersign_store::MemoryKernel> {
        let world = World::new().await;
        let files = changed("policies/work.cedar", "@id(\"work\")", "@id(\"work\") @reason(\"Daily work\")");
        world.engine.activate(source(files), RevisionRule::NotLower).await.unwrap();
        world
    }
}

#[tokio::test]
async fn a_shadow_tells_what_it_would_answer_otherwise_and_answers_nothing() {
    let world = World::<countersign_store::MemoryKernel>::audited().await;
    world.change("service:sync", &[dataset("safe", "secret")]).await.unwrap();
    assert_eq!(world.engine.shadow_report(&call("adam", "GetShadow")).await.unwrap(), None);
    let before = world.decide("query", "docs", None).await.unwrap();
    minted(&before);

    // Exports are free, and secrets are no secrets.
    let (secret, public) = ("resource.classification == \"secret\"", "resource.classification == \"top\"");
    let mut shadow = changed("policies/work.cedar", secret, public);
    let free = shadow["policies/work.cedar"]
        .replace("@id(\"asks\") forbid (principal", "@id(\"asks\") forbid (principal is Person");
    shadow.insert("policies/work.cedar".to_owned(), free);
    world.engine.set_shadow(source(shadow.clone())).await.unwrap();
    for (name, resource) in [("query", "docs"), ("query", "safe"), ("query", "safe"), ("export", "docs")] {
        let decision = world.decide(name, resource, None).await.unwrap();
        let live = match (name, resource) {
            ("query", "docs") => matches!(decision.verdict, Verdict::Allow { .. }),
            ("query", _) => matches!(decision.verdict, Verdict::Deny { .. }),
            _ => matches!(decision.verdict, Verdict::NeedsApproval { .. }),
        };
        assert!(live, "{name} {resource}: {decision:?}");
    }
    let report = world.found(4).await;
    assert_eq!((report.same, report.different, report.skipped), (1, 3, 0), "{report:?}");
    assert_eq!(report.compared_with, Some(world.engine.bundle_info().unwrap().digest));
    let told: Vec<_> =
        report.differences.iter().map(|d| (&*d.operation, d.verdict, d.shadow_verdict, d.count)).collect();
    assert_eq!(told, [("query", "DENY", "ALLOW", 2), ("export", "NEEDS_APPROVAL", "ALLOW", 1)]);
    assert_eq!(report.differences[0].determining, ["secret"]);
    assert_eq!(report.differences[0].shadow_determining, ["work"]);
    assert_eq!(report.differences[0].examples.len(), 2);
    assert_eq!(report.differences[0].examples[0].resource.to_string(), "Dataset::\"safe\"");
    assert_eq!(world.engine.shadow_totals(), [("same", 1), ("different", 3), ("skipped", 0)]);
    // The same bundle again is no new shadow.
    world.engine.set_shadow(source(shadow)).await.unwrap();
    assert_eq!(world.found(4).await, report);
    // A policy that is called something else answers the same.
    world.engine.set_shadow(source(changed("policies/work.cedar", "@id(\"work\")", "@id(\"labour\")"))).await.unwrap();
    world.decide("query", "docs", None).await.unwrap();
    assert_eq!(world.found(1).await.same, 1);
    let refused = world.engine.shadow_report(&call("agent:bot", "GetShadow")).await;
    assert!(matches!(refused, Err(Error::AdministrationDenied { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_shadow_with_another_schema_reads_the_stored_entities_by_it() {
    let world = World::<countersign_store::MemoryKernel>::audited().await;
    let wider = SCHEMA.replace("classification: String", "classification: String, region?: String");
    let mut shadow = changed("policies/work.cedar", "== \"secret\"", "== \"restricted\"");
    shadow.insert("schema.cedarschema".to_owned(), wider);
    world.engine.set_shadow(source(shadow)).await.unwrap();
    world.decide("query", "docs", None).await.unwrap();
    assert_eq!(world.found(1).await.same, 1);
    world.change("service:sync", &[dataset("docs", "restricted")]).await.unwrap();
    world.decide("query", "docs", None).await.unwrap();
    let report = world.found(2).await;
    assert_eq!((report.differences[0].verdict, report.differences[0].shadow_verdict), ("ALLOW", "DENY"), "{report:?}");
    // What does not fit is told without what was sent.
    let mut narrow = changed("policies/work.cedar", "== \"secret\"", "== \"restricted\"");
    narrow.insert("schema.cedarschema".to_owned(), SCHEMA.replace("query, export", "export, lookup"));
    world.engine.set_shadow(source(narrow)).await.unwrap();
    world.decide("query", "docs", None).await.unwrap();
    let report = world.found(1).await;
    assert_eq!(report.differences[0].shadow_verdict, "INVALID", "{report:?}");
    assert_eq!(report.differences[0].shadow_determining, ["operation.name"]);
}

#[tokio::test]
async fn a_shadow_learns_nothing_of_sensitive_inputs() {
    let world = World::<countersign_store::MemoryKernel>::audited().await;
    let mut sensitive = changed("policies/work.cedar", "@id(\"work\")", "@id(\"work\") @reason(\"Daily\")");
    let schema = SCHEMA.replace("{ note?: String }", "{\n@sensitive\nnote?: String }");
    sensitive.insert("schema.cedarschema".to_owned(), schema);
    world.engine.activate(source(sensitive.clone()), RevisionRule::NotLower).await.unwrap();
    world.engine.set_shadow(source(sensitive)).await.unwrap();
    minted(&world.decide("query", "docs", None).await.unwrap());
    let report = world.found(0).await;
    assert_eq!((report.same, report.different, report.skipped), (0, 0, 1));
}

#[tokio::test]
async fn what_comes_too_fast_for_the_shadow_is_counted_and_left_out() {
    let world = World::<countersign_store::MemoryKernel>::audited().await;
    world.engine.set_shadow(source(changed("policies/work.cedar", "== \"secret\"", "== \"top\""))).await.unwrap();
    // Nobody judges again meanwhile.
    for _ in 0..1_030 {
        world.decide("query", "docs", None).await.unwrap();
    }
    let report = world.found(1_024).await;
    assert_eq!((report.same, report.skipped), (1_024, 6), "{report:?}");
}
