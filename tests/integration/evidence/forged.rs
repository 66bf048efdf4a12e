//! A service that has its log's key and writes what it likes: what it writes is judged again, and its word is not taken.

use std::collections::HashMap;
use std::convert::Infallible;

use countersign::evidence::{Evidence, Outcome, Proved, Trust, Verdict as Came, verify};
use countersign_audit::{Checkpoint, Frontier, NoteSigner, SignedCheckpoint, inclusion_proof, leaf_hash};
use serde_json::{Value, json};

use super::{done, exported, scene};
use crate::harness::Server;
use crate::harness::flow::*;

/// What comes of the same records, some of them changed, in a log of the forger's own.
fn forged(evidence: &Evidence, change: impl Fn(&mut Value)) -> Outcome {
    forged_before(evidence, "", change)
}

/// As whoever trusts these keys, too, sees it.
fn forged_before(evidence: &Evidence, trusted: &str, change: impl Fn(&mut Value)) -> Outcome {
    let signer = NoteSigner::from_seed("forger.example", &[7; 32]).unwrap();
    let (mut tree, mut nodes) = (Frontier::default(), HashMap::new());
    let mut evidence = evidence.clone();
    for record in &mut evidence.records {
        let mut content: Value = serde_json::from_str(&record.content).unwrap();
        change(&mut content);
        record.content = content.to_string();
        let leaf = leaf_hash(record.content.as_bytes());
        nodes.extend(tree.append(leaf).into_iter().map(|node| (node.id, node.hash)));
    }
    let size = evidence.records.len() as u64;
    for (record, index) in evidence.records.iter_mut().zip(0..) {
        record.index = index;
        let proof = inclusion_proof(index, size, |id| Ok::<_, Infallible>(nodes.get(&id).copied())).unwrap();
        record.proof = proof.iter().map(ToString::to_string).collect();
    }
    let head = Checkpoint::new("forger.example", size, tree.root()).unwrap();
    evidence.checkpoint = SignedCheckpoint::sign(head, &[&signer]).unwrap().note().to_string();
    let trust = Trust::read(&format!("log {}\n{trusted}", signer.verifier())).unwrap();
    verify(&evidence.to_bytes().unwrap(), &trust).unwrap()
}

fn refused(outcome: &Outcome) -> Vec<&str> {
    let refused = outcome.findings.iter().filter(|finding| finding.verdict == Came::Refused);
    refused.map(|finding| finding.what.as_str()).collect()
}

/// A vote of somebody else, that bears no signature and that no capability names.
fn by(record: &mut Value, who: &str) {
    let fields = record.as_object_mut().unwrap();
    if fields["kind"] == "vote" && fields["person"]["id"] == "dana" {
        fields["person"]["id"] = json!(who);
        fields.remove("statement");
        fields.remove("signature");
    }
    if let Some(minted) = fields.get_mut("minted").and_then(Value::as_object_mut) {
        minted.remove("votes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_of_somebody_who_could_not_answer_is_refused() {
    let (server, key, _, _keys) = scene().await;
    let subject = done(&server, &key).await;
    let evidence = Evidence::from_bytes(&std::fs::read(exported(&server, &subject).await).unwrap()).unwrap();
    let honest = forged(&evidence, |record| by(record, "dana"));
    assert_eq!(refused(&honest), [""; 0], "{honest:#?}");
    let eligible = honest.findings.iter().find(|finding| finding.what == "who was eligible").unwrap();
    assert_eq!((eligible.verdict, &eligible.detail[..7]), (Came::Holds, "2 votes"), "{eligible:?}");
    // nick answers for other rules, nobody knows the stranger, and olivia is the operator.
    for who in ["nick", "stranger", OPERATOR] {
        let outcome = forged(&evidence, |record| by(record, who));
        assert!(refused(&outcome).contains(&"who was eligible"), "{who}: {outcome:#?}");
    }
    // With the group of his credential he can, while the credential lasts.
    let claiming = |lasts: i64| {
        forged(&evidence, move |record| {
            let at = record["at"].as_i64().unwrap();
            by(record, "nick");
            if record["kind"] == "vote" && record["person"]["id"] == "nick" {
                let groups = json!([{ "type": "Group", "id": "data-owners" }]);
                record["caller"]["claimed"] = json!({ "groups": groups, "until": at + lasts });
            }
        })
    };
    let (lasting, over) = (claiming(1), claiming(0));
    assert_eq!((refused(&lasting), refused(&over)), (vec![], vec!["who was eligible"]), "{lasting:#?}");
    let another_rule = forged(&evidence, |record| {
        if record["kind"] == "vote" {
            record["rules"].as_array_mut().unwrap().push(json!("export-abroad-needs-security"));
        }
    });
    assert_eq!(refused(&another_rule), ["who was eligible"], "{another_rule:#?}");
    // Whoever is excluded by the time of the vote could not answer, whatever the policies say.
    let excluded = forged(&evidence, |record| {
        if record["kind"] == "approval_requested" {
            record["excluded"].as_array_mut().unwrap().push(json!({ "type": "Person", "id": "dave" }));
        }
    });
    assert!(refused(&excluded).contains(&"who was eligible"), "{excluded:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_that_the_policies_do_not_make_is_refused() {
    let (server, key, _, _keys) = scene().await;
    let subject = done(&server, &key).await;
    let evidence = Evidence::from_bytes(&std::fs::read(exported(&server, &subject).await).unwrap()).unwrap();
    let outcome = forged(&evidence, |record| {
        if record["kind"] == "decision" && record["verdict"] == "NEEDS_APPROVAL" {
            record["verdict"] = json!("ALLOW");
        }
    });
    assert_eq!(refused(&outcome), ["the policies decide the same again"], "{outcome:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_needs_no_record_of_a_key_that_is_trusted_and_of_another_it_does() {
    let server = Server::dev().await;
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let minted = must_mint(&agent, &open(&agent).await, &describe(), "").await;
    redeem(&server.person(REDEEMER).await, &minted.token, &describe()).await.unwrap();
    let file = exported(&server, &minted.capability_id).await;
    let mut evidence = Evidence::from_bytes(&std::fs::read(file).unwrap()).unwrap();
    evidence.tokens.push(minted.token);
    let of_a_key = |record: &Proved| record.content.contains("\"kind\":\"key\"");
    let key: Value = serde_json::from_str(&evidence.records.iter().find(|one| of_a_key(one)).unwrap().content).unwrap();
    // As after a prune: it was among the first of the log.
    evidence.records.retain(|record| !of_a_key(record));
    assert_eq!(refused(&forged(&evidence, |_| {})), ["the token"]);
    let own = format!("token {} {}\n", key["key"], key["public"].as_str().unwrap());
    let outcome = forged_before(&evidence, &own, |_| {});
    assert_eq!(refused(&outcome), [""; 0], "{outcome:#?}");
    assert!(outcome.findings.iter().any(|one| one.what == "the token" && one.detail.contains("which you trust")));
}
