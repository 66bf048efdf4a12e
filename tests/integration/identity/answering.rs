//! Who votes and publishes: people who authenticated freshly, for that.

use countersign::proto::*;
use serde_json::{Value, json};
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::production::{self, Tenant};
use crate::harness::{Server, fresh_id, records_of, seconds};

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_and_a_bundle_take_an_audience_a_fresh_authentication_and_a_method() {
    let dir = tempfile::tempdir().unwrap();
    let acme = Tenant::new("acme");
    let server = Server::start(production::options(dir.path(), &[&acme], "")).await;
    let agent = server.client_of(&acme.issuer.token(AGENT)).await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    let auditor = server.client_of(&acme.issuer.token("aaron")).await;
    let before = records_of(&auditor).await.len();
    let revision = acme.bundle.files()["bundle.toml"].clone();

    let wrong = [
        ("aud", json!("countersign"), "ANSWERING_AUDIENCE"),
        ("auth_time", Value::Null, "AUTHENTICATION_STALE"),
        ("auth_time", json!(seconds() - 3_601), "AUTHENTICATION_STALE"),
        ("auth_time", json!(seconds() + 600), "AUTHENTICATION_STALE"),
        ("amr", Value::Null, "AUTHENTICATION_WEAK"),
        ("amr", json!(["pwd"]), "AUTHENTICATION_WEAK"),
    ];
    let count = wrong.len();
    for (claim, value, expected) in wrong {
        let token = |subject: &str| {
            let mut claims = acme.issuer.claims(subject);
            claims[claim] = value.clone();
            acme.issuer.sign(&json!({"alg": "EdDSA"}), &claims.to_string())
        };
        let dana = server.client_of(&token("dana")).await;
        // For looking it is good enough.
        show(&dana, &asked.approval_id).await.unwrap();
        let vote = dana.cast_vote(ballot(&asked, VoteVerdict::Approve)).await;
        assert_eq!(refused(vote), (Code::PermissionDenied, expected.to_owned()), "{claim} {value}");
        let admin = server.client_of(&token("alice")).await;
        let request = ReloadBundleRequest { request_id: fresh_id(), ..ReloadBundleRequest::default() };
        let published = admin.reload_bundle(request).await;
        assert_eq!(refused(published), (Code::PermissionDenied, expected.to_owned()), "{claim} {value}");
    }
    let records = records_of(&auditor).await.split_off(before);
    assert_eq!(records.iter().filter(|record| record.kind == "refusal").count(), 2 * count);
    let untouched = show(&agent, &asked.approval_id).await.unwrap();
    assert_eq!((untouched.state(), untouched.votes.len()), (ApprovalState::Pending, 0));

    let dana = server.client_of(&acme.issuer.token("dana")).await;
    vote(&dana, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(acme.bundle.files()["bundle.toml"], revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_not_trusted_with_it_answers_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let acme = Tenant::new("acme");
    let toml = production::toml(dir.path(), &[&acme], "");
    let (trusted, _) = toml.split_once("approving = ").unwrap();
    let options = crate::harness::Options {
        mode: crate::harness::Mode::Production(trusted.to_owned()),
        ..crate::harness::Options::default()
    };
    let server = Server::start(options).await;
    let agent = server.client_of(&acme.issuer.token(AGENT)).await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    let dana = server.client_of(&acme.issuer.token("dana")).await;
    let vote = vote(&dana, &asked.approval_id, VoteVerdict::Approve).await;
    assert_eq!(refused(vote), (Code::PermissionDenied, "ANSWERING_NOT_TRUSTED".to_owned()));
}
