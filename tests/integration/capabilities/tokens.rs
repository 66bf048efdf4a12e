//! Tokens: reissued with identical bytes, nowhere at rest, and verifiable by a stranger.

use std::path::Path;

use countersign::proto::*;
use countersign_core::{Digest, TenantId, Timestamp};
use countersign_token::{KeyId, KeyRing, KeyState, Limits, Presented, PublicKey, verify};
use futures::future::join_all;

use crate::approvals::shared::{Ledger, approved, query};
use crate::harness::Server;
use crate::harness::flow::{AUDIENCE, export, mint, must_mint, open, question, redeem, refused};

#[tokio::test]
async fn a_lost_reply_to_a_mint_is_given_again_with_the_identical_token() {
    let mut server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let mut ledger = Ledger::of(&server).await;
    let request = DecideRequest { mint: true, ..question(&session, &query()) };
    let answers = join_all((0..20).map(|_| agent.decide(request.clone()))).await;
    let answers: Vec<DecideResponse> = answers.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    let first = answers[0].capability.clone().unwrap();
    for answer in &answers {
        assert_eq!(answer.capability.as_ref(), Some(&first));
    }
    ledger.expect(&[("minted", 1)]).await;

    // Nothing but the committed row is needed for it: also not the process that minted.
    server.restart().await;
    let agent = server.etl_bot().await;
    let again = agent.decide(request.clone()).await.unwrap();
    assert_eq!((again.replayed, again.capability), (true, Some(first.clone())));
    redeem(&server.warehouse().await, &first.token, &query()).await.unwrap();
    let spent = agent.decide(request).await.unwrap();
    let second =
        redeem(&server.warehouse().await, &spent.capability.map(|c| c.token).unwrap_or_default(), &query()).await;
    refused(second);
}

fn files(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}

#[tokio::test]
async fn no_token_and_no_credential_lies_at_rest_or_in_the_log() {
    let mut server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let approval = approved(&server, &agent, &session, &export(5)).await;
    let minted = must_mint(&agent, &session, &export(5), &approval.approval_id).await;
    let unspent = must_mint(&agent, &session, &query(), "").await;
    let warehouse = server.warehouse().await;
    refused(redeem(&warehouse, &minted.token, &export(6)).await);
    refused(redeem(&warehouse, &format!("{}A", minted.token), &export(5)).await);
    redeem(&warehouse, &minted.token, &export(5)).await.unwrap();
    refused(redeem(&warehouse, &minted.token, &export(5)).await);
    mint(&agent, &session, &query(), "").await.unwrap();
    let records: Vec<u8> = server.audit_records().await.into_iter().flat_map(|record| record.bytes).collect();
    server.terminate().await;

    let mut found = Vec::new();
    files(server.data_dir(), &mut found);
    assert!(found.len() > 3, "the store is where it is looked for");
    found.push(("the records".to_owned(), records));
    found.push(("the process' own log".to_owned(), server.logs().into_bytes()));
    let jwt = server.token("agent:etl-bot", Some("olivia"), &[]);
    let header = jwt.split('.').next().unwrap();
    // The signature part of each token, too: bytes in the store need not be spelled as text.
    for secret in ["csn_", &minted.token[200..260], &unspent.token[200..260], header] {
        for (name, bytes) in &found {
            let holds = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!holds, "{name} holds {secret}");
        }
    }
    server.log_verifies_offline().await;
}

#[tokio::test]
async fn a_stranger_verifies_a_token_with_the_public_keys_alone() {
    let server = Server::dev().await;
    let agent = server.etl_bot().await;
    let session = open(&agent).await;
    let answer = mint(&agent, &session, &query(), "").await.unwrap();
    let minted = answer.capability.unwrap();
    let keys = agent.list_public_keys(ListPublicKeysRequest {}).await.unwrap().keys;
    let ring = KeyRing::new(keys.iter().map(|key| {
        assert_eq!((key.algorithm.as_str(), key.state()), ("Ed25519", countersign::proto::KeyState::Active));
        let public = PublicKey::from_bytes(key.public_key.clone().try_into().unwrap()).unwrap();
        (KeyId(key.key_id), public, KeyState::Active)
    }))
    .unwrap();
    let now = server.now();
    let verified = verify(&minted.token, &ring, now, &Limits::default()).unwrap();
    let claims = verified.claims();
    assert_eq!(claims.token_id.to_string(), minted.capability_id);
    assert_eq!(claims.digest.to_string(), answer.digest);
    assert_eq!((claims.session.to_string(), claims.audience.as_str()), (session, AUDIENCE));
    assert!(claims.development, "a token of a development server says so");
    let tenant = TenantId::new("dev").unwrap();
    let (session, digest) = (claims.session, claims.digest);
    let presented = Presented { tenant: &tenant, session, audience: AUDIENCE, digest, holder: None, now };
    assert_eq!(verified.authorize(&presented), Ok(()));
    let elsewhere = Presented { digest: Digest::of(b"elsewhere"), ..presented };
    assert!(verified.authorize(&elsewhere).is_err());
    let expiry = minted.expires_at.unwrap();
    let over = Timestamp::from_millis(expiry.seconds * 1_000 + i64::from(expiry.nanos / 1_000_000));
    assert!(verify(&minted.token, &ring, over, &Limits::default()).is_err());
    // Verifying offline spends nothing, and a spent token still verifies: which is why it authorizes nothing.
    redeem(&server.warehouse().await, &minted.token, &query()).await.unwrap();
    assert!(verify(&minted.token, &ring, server.now(), &Limits::default()).is_ok());
}
