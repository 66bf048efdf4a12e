//! Bundles come and go: a bad one changes nothing, and each decision is made on one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign::client::Client;
use countersign::proto::*;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::{Bundle, PATIENCE, Server};

async fn active(client: &Client) -> Result<String, countersign::client::ClientError> {
    Ok(client.get_bundle(GetBundleRequest {}).await?.bundle.unwrap().digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_without_policies_denies_everything() {
    let bundle = Bundle::example().edit(|files| {
        files.retain(|name, _| !name.starts_with("policies/") && !name.starts_with("scenarios/"));
        files.insert("policies/none.cedar".to_owned(), "// Nothing is permitted.\n".to_owned());
        // Nobody asks, so nobody answers.
        files.insert("approve/answers.cedar".to_owned(), "// Nobody answers.\n".to_owned());
    });
    let server = Server::with_bundle(bundle).await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let before = server.audit_records().await.len();
    for operation in [describe(), export(1), forbidden()] {
        let answer = mint(&agent, &session, &operation, "").await.unwrap();
        assert_eq!((answer.verdict(), answer.capability), (Verdict::Deny, None));
        assert!(!answer.reasons.is_empty());
    }
    assert_eq!(server.audit_kinds_since(before).await, [("decision".to_owned(), 3)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_bundle_nothing_is_answered_until_there_is_one() {
    let bundle = Bundle::example();
    let good = bundle.files();
    let server = Server::with_bundle(bundle.edit(BTreeMap::clear)).await;
    server.until_ready(false).await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let opened = agent.open_session(OpenSessionRequest { purpose: "x".to_owned(), ..Default::default() }).await;
    assert_eq!(refused(opened), (Code::Unavailable, "NO_BUNDLE".to_owned()));
    let session = "00000000-0000-7000-8000-000000000000";
    let answer = decide(&agent, session, &describe()).await;
    assert!(matches!(code(&answer), Code::Unavailable | Code::InvalidArgument), "{answer:?}");
    assert!(server.logs().contains("the bundle was refused"), "loudly");
    // Somebody puts one there.
    server.bundle().change(|files| *files = good);
    server.until_ready(true).await;
    let session = open(&agent).await;
    assert_eq!(decide(&agent, &session, &describe()).await.unwrap().verdict(), Verdict::Allow);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_bundle_is_refused_loudly_and_the_old_one_stays() {
    let server = Server::dev().await;
    let admin = server.person("alice").await;
    let before = active(&admin).await.unwrap();
    let good = server.bundle().files();
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    let records = server.audit_records().await.len();
    type Harm = Box<dyn Fn(&mut BTreeMap<String, String>) + Send>;
    let set = |name: &'static str, text: &'static str| -> Harm {
        Box::new(move |files| drop(files.insert(name.to_owned(), text.to_owned())))
    };
    let cut = |name: &'static str| -> Harm {
        Box::new(move |files| {
            let text = files.get_mut(name).unwrap();
            text.truncate(text.len() - 40);
        })
    };
    let swap = |name: &'static str, from: &'static str, to: &'static str| -> Harm {
        Box::new(move |files| {
            let text = files.get_mut(name).unwrap();
            assert!(text.contains(from), "{name}: {from}");
            *text = text.replace(from, to);
        })
    };
    let harms: Vec<(&str, &str, Harm)> = vec![
        ("half a policy file", "policies/exports.cedar", cut("policies/exports.cedar")),
        ("half the entities", "entities.json", cut("entities.json")),
        ("half the schema", "schema.cedarschema", cut("schema.cedarschema")),
        ("no manifest", "bundle.toml", Box::new(|files| drop(files.remove("bundle.toml")))),
        ("no schema", "schema.cedarschema", Box::new(|files| drop(files.remove("schema.cedarschema")))),
        (
            "an unknown attribute",
            "policies/exports.cedar",
            swap("policies/exports.cedar", "classification", "clasification"),
        ),
        (
            "a quorum of nobody",
            "policies/exports.cedar",
            swap("policies/exports.cedar", "@quorum(\"2\")", "@quorum(\"0\")"),
        ),
        ("an annotation that is none", "policies/exports.cedar", swap("policies/exports.cedar", "@ttl", "@tll")),
        (
            "approval read outside the closed form",
            "policies/more.cedar",
            set(
                "policies/more.cedar",
                "@id(\"m\")\npermit (principal, action, resource) when { context has approval };",
            ),
        ),
        ("two policies of one id", "policies/more.cedar", {
            set("policies/more.cedar", "@id(\"data-agents-export\")\npermit (principal, action, resource);")
        }),
        ("an unknown key", "bundle.toml", set("bundle.toml", "format = 1\nname = \"x\"\nrevision = 9\nrevison = 9\n")),
        ("a format of the future", "bundle.toml", set("bundle.toml", "format = 2\nname = \"x\"\nrevision = 9\n")),
    ];
    let count = harms.len();
    for (what, file, harm) in harms {
        let broken = {
            let mut files = good.clone();
            harm(&mut files);
            files
        };
        server.bundle().change(|files| *files = broken);
        let answer = reload(&admin).await;
        assert_eq!((code(&answer), reason(&answer)), (Code::FailedPrecondition, "BUNDLE_REFUSED".to_owned()), "{what}");
        let message = answer.unwrap_err().to_string();
        assert!(message.contains(file), "{what}: {message}");
        assert_eq!(active(&admin).await.unwrap(), before, "{what}");
    }
    assert_eq!(decide(&agent, &session, &export(1)).await.unwrap().bundle_digest, before);
    // Lines come over a pipe, and may come after the answers.
    let told = async {
        while server.logs().matches("the active one stays").count() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("each refusal is in the log");
    let metrics = server.metrics().await;
    let counted = metrics.lines().find(|line| line.starts_with("countersign_bundle_refused_total")).unwrap_or_default();
    assert!(counted.ends_with(&format!(" {count}")), "{counted}");
    let kinds = server.audit_kinds_since(records).await;
    assert_eq!(kinds.get("refusal"), Some(&count), "one record for each attempt: {kinds:?}");
    assert_eq!(kinds.get("bundle_activated"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_bundle_is_refused_also_after_a_restart() {
    let mut server = Server::with_bundle(Bundle::example()).await;
    let old = server.bundle().files();
    server.bundle().set_revision(7);
    let admin = server.person("alice").await;
    assert!(reload(&admin).await.unwrap().changed);
    let seventh = active(&admin).await.unwrap();
    server.bundle().change(|files| *files = old);
    assert_eq!(refused(reload(&admin).await), (Code::FailedPrecondition, "BUNDLE_REFUSED".to_owned()));
    assert_eq!(active(&admin).await.unwrap(), seventh);
    server.restart().await;
    assert_eq!(active(&server.person("alice").await).await.unwrap(), seventh);
    assert!(server.logs().contains("the bundle was refused"));
    // A half-written one at start does not unseat it either.
    server.bundle().change(|files| drop(files.remove("schema.cedarschema")));
    server.restart().await;
    let admin = server.person("alice").await;
    assert_eq!(active(&admin).await.unwrap(), seventh);
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    assert_eq!(decide(&agent, &session, &describe()).await.unwrap().bundle_digest, seventh);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whom_policy_lets_may_reload() {
    let server = Server::dev().await;
    let before = server.audit_records().await.len();
    for (subject, operator) in
        [("dana", None), ("agent:ops-bot", None), ("agent:ops-bot", Some("alice")), ("aaron", None)]
    {
        let client = server.client(subject, operator, &[]).await;
        assert_eq!(refused(reload(&client).await), (Code::PermissionDenied, "ADMINISTRATION_DENIED".to_owned()));
    }
    // What is in a bundle, or wrong with it, is not theirs to know either.
    server.bundle().change(|files| drop(files.insert("bundle.toml".to_owned(), "secret nonsense".to_owned())));
    server.bundle().change(|files| drop(files.remove("schema.cedarschema")));
    let dana = server.person("dana").await;
    assert_eq!(refused(reload(&dana).await), (Code::PermissionDenied, "ADMINISTRATION_DENIED".to_owned()));
    // Nor whether it can be read at all.
    std::fs::write(server.bundle().path().join("schema.cedarschema"), [0xff, 0xfe]).unwrap();
    assert_eq!(refused(reload(&dana).await), (Code::PermissionDenied, "ADMINISTRATION_DENIED".to_owned()));
    assert_eq!(server.audit_kinds_since(before).await, [("refusal".to_owned(), 6)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_bundles_change_each_decision_is_made_on_one() {
    let server = Server::dev().await;
    let admin = server.person("alice").await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    // Odd revisions ask two people about an export, even ones three: the answer tells which bundle gave it.
    let quorum = |revision: u64| if revision % 2 == 1 { 2 } else { 3 };
    let mut expected = BTreeMap::from([(active(&admin).await.unwrap(), 2)]);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let decided = Arc::new(AtomicUsize::new(0));
    let deciders: Vec<_> = (0..8)
        .map(|_| {
            let (agent, session, stopped) = (agent.clone(), session.clone(), stopped.clone());
            let decided = Arc::clone(&decided);
            tokio::spawn(async move {
                let mut answers = Vec::new();
                while !*stopped.borrow() || answers.is_empty() {
                    let answer = decide(&agent, &session, &export(1)).await.unwrap();
                    answers.push((answer.bundle_digest, answer.needed_approval.unwrap().rules[0].quorum));
                    decided.fetch_add(1, Ordering::Relaxed);
                }
                answers
            })
        })
        .collect();
    for revision in 2..=12 {
        let policies = "policies/exports.cedar";
        let (from, to) = (quorum(revision - 1), quorum(revision));
        server.bundle().replace(policies, &format!("@quorum(\"{from}\")"), &format!("@quorum(\"{to}\")"));
        server.bundle().set_revision(revision);
        let answer = reload(&admin).await.unwrap();
        assert!(answer.changed);
        expected.insert(answer.bundle.unwrap().digest, to);
        // Until many decisions were made, and some of them on it.
        let enough = (usize::try_from(revision).unwrap() - 1) * 10_000 / 11;
        let deciding = async {
            while decided.load(Ordering::Relaxed) < enough {
                decide(&agent, &session, &describe()).await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, deciding).await.unwrap();
    }
    stop.send(true).unwrap();
    let mut seen = BTreeSet::new();
    let mut count = 0;
    for decider in deciders {
        for (digest, quorum) in tokio::time::timeout(PATIENCE, decider).await.unwrap().unwrap() {
            assert_eq!(expected.get(&digest), Some(&quorum), "{digest} decided as another bundle would");
            seen.insert(digest);
            count += 1;
        }
    }
    assert_eq!(expected.len(), 12);
    assert!(count >= 10_000 && seen.len() >= 11, "{count} decisions on {} bundles", seen.len());
}
