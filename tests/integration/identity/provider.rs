//! Tokens of an OpenID Provider that somebody else wrote.

use countersign::client::Client;
use countersign::proto::*;
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::{Bundle, Mode, Options, PATIENCE, Person, Provider, Server};

/// A server that believes the provider about everybody.
async fn server(provider: &Provider) -> Server {
    server_with(provider, "").await
}

/// As [`server`], with more keys of the issuer's configuration.
async fn server_with(provider: &Provider, more: &str) -> Server {
    let issuer = provider.issuer();
    let bundle = Bundle::example().edit(|files| {
        let entities = files.get_mut("entities.json").unwrap();
        *entities = entities.replace(countersign::config::DEV_ISSUER, &issuer);
    });
    let toml = format!(
        "[server]\ndata_dir = \"{{data}}\"\n[tenants.acme]\nbundle = \"{{bundle}}\"\nlog_origin = \"countersign.example.com/acme\"\n\
         [[tenants.acme.issuers]]\nissuer = {issuer:?}\naudience = \"countersign\"\nalgorithms = [\"ES256\"]\ndiscovery = true\n\
         subjects = [\"person\", \"agent\", \"service\"]\nmax_age_seconds = 3600\n\
         approving = {{ audience = \"countersign-approve\", max_age_seconds = 3600, amr = [\"hwk\", \"mfa\"] }}\n{more}\n"
    );
    Server::start(Options { bundle, mode: Mode::Production(toml), ..Options::default() }).await
}

/// Waits until the server answers this credential so, which it does when it has newer keys.
async fn until_answered(client: &Client, expected: (Code, &str)) {
    let waiting = async {
        loop {
            let answer = client.get_bundle(GetBundleRequest {}).await;
            if (code(&answer), reason(&answer).as_str()) == expected {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never {expected:?}"));
}

const BELIEVED: (Code, &str) = (Code::Ok, "");
const REFUSED: (Code, &str) = (Code::Unauthenticated, "CREDENTIAL_INVALID");

#[tokio::test(flavor = "multi_thread")]
async fn its_tokens_decide_vote_and_redeem_while_it_changes_its_keys_and_dies() {
    let mut provider = Provider::start().await;
    let server = server(&provider).await;
    let client = async |token: &str| server.client_of(token).await;
    let first = client(&provider.machine(AGENT).await).await;
    let session = open(&first).await;
    let asked = ask(&first, &session, &export(5)).await.unwrap();

    let dana = Person { sub: "dana", amr: "hwk", age: 0, approves: true };
    for (person, expected) in [
        (Person { approves: false, ..dana }, "ANSWERING_AUDIENCE"),
        (Person { age: 7_200, ..dana }, "AUTHENTICATION_STALE"),
        (Person { amr: "pwd", ..dana }, "AUTHENTICATION_WEAK"),
    ] {
        let voter = client(&provider.person(person).await).await;
        let vote = vote(&voter, &asked.approval_id, VoteVerdict::Approve).await;
        assert_eq!(refused(vote), (Code::PermissionDenied, expected.to_owned()));
    }
    let fresh = client(&provider.person(dana).await).await;
    vote(&fresh, &asked.approval_id, VoteVerdict::Approve).await.unwrap();

    provider.rotate().await;
    // Its key is in nobody's set yet, and is fetched when it is used.
    let dave = client(&provider.person(Person { sub: "dave", ..dana }).await).await;
    until_answered(&dave, BELIEVED).await;
    let approved = vote(&dave, &asked.approval_id, VoteVerdict::Approve).await.unwrap();
    assert_eq!(approved.state(), ApprovalState::Approved);
    // What the old key signed is worth nothing any more, though it was believed a moment ago.
    until_answered(&first, REFUSED).await;

    let second = client(&provider.machine(AGENT).await).await;
    let gateway = client(&provider.machine(REDEEMER).await).await;
    let minted = must_mint(&second, &session, &export(5), &asked.approval_id).await;
    provider.kill().await;
    // Without it, what it signed is believed as long as its keys are.
    redeem(&gateway, &minted.token, &export(5)).await.unwrap();
    assert!(server.metrics().await.contains("countersign_issuer_keys_total"));

    provider.run().await;
    let third = client(&provider.machine(AGENT).await).await;
    until_answered(&third, BELIEVED).await;
    until_answered(&second, REFUSED).await;
    assert_eq!(decide(&third, &session, &describe()).await.unwrap().verdict(), Verdict::Allow);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_groups_vote_as_they_are_mapped_and_the_owner_it_names_does_not() {
    let provider = Provider::start().await;
    let claims =
        "groups = { claim = \"groups\", map = { \"cs-owners\" = \"data-owners\" } }\nowner = { claim = \"owner\" }";
    let server = server_with(&provider, claims).await;
    let client = async |token: String| server.client_of(&token).await;
    let agent = client(provider.machine(AGENT).await).await;
    let session = open(&agent).await;
    let asked = ask(&agent, &session, &export(5)).await.unwrap();
    let person = |sub| Person { sub, amr: "hwk", age: 0, approves: true };
    let yes = async |groups: &[&str], sub| {
        let voter = client(provider.member(person(sub), groups).await).await;
        vote(&voter, &asked.approval_id, VoteVerdict::Approve).await
    };
    let refusal = |reason: &str| (Code::PermissionDenied, reason.to_owned());
    // The agent's token says that it is dave's, whom the directory knows as one of the data owners.
    assert_eq!(refused(yes(&[], "dave").await), refusal("VOTER_EXCLUDED"));
    for unmapped in [&[][..], &["data-owners"], &["CS-Owners", "cs-owners "]] {
        assert_eq!(refused(yes(unmapped, "rita").await), refusal("VOTER_NOT_ELIGIBLE"), "{unmapped:?}");
    }
    yes(&["staff", "cs-owners"], "rita").await.unwrap();
    let approved = yes(&[], "dana").await.unwrap();
    assert_eq!(approved.state(), ApprovalState::Approved);
    let by_claim: Vec<bool> = approved.votes.iter().map(|vote| vote.claimed_until.is_some()).collect();
    assert_eq!(by_claim, [true, false], "{approved:?}");
    let minted = must_mint(&agent, &session, &export(5), &asked.approval_id).await;
    let gateway = client(provider.machine(REDEEMER).await).await;
    redeem(&gateway, &minted.token, &export(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_its_issuer_and_believes_it_when_it_is_there() {
    let mut provider = Provider::new();
    let server = server(&provider).await;
    let early = provider.issuer();
    // Nobody's key, in the name of the issuer: it cannot even be known that it is wrong.
    let forged = crate::harness::Issuer::new(&early, "countersign");
    let header = serde_json::json!({"alg": "ES256", "kid": "k1"});
    let client = server.client_of(&forged.sign(&header, &forged.claims(AGENT).to_string())).await;
    until_answered(&client, (Code::Unavailable, "ISSUER_UNAVAILABLE")).await;
    provider.run().await;
    let agent = server.client_of(&provider.machine(AGENT).await).await;
    until_answered(&agent, BELIEVED).await;
    until_answered(&client, REFUSED).await;
}
