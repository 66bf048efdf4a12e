//! Nothing that looks like a capability is one: not altered, not extended, not re-encoded, not signed by somebody else.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use biscuit_auth::builder::BlockBuilder;
use biscuit_auth::datalog::SymbolTable;
use biscuit_auth::{Algorithm, Biscuit, KeyPair, PublicKey};
use countersign::client::Client;
use countersign::proto::*;
use futures::future::join_all;
use tonic::Code;

use crate::approvals::shared::{Ledger, capabilities, denied, query};
use crate::harness::Server;
use crate::harness::flow::{decide, describe, must_mint, open, redeem, refused};

const INVALID: &str = "CAPABILITY_INVALID";

/// A genuine token, whoever may spend it, and what a forger can learn of it.
struct Scene {
    server: Server,
    agent: Client,
    warehouse: Client,
    session: String,
    genuine: String,
    bytes: Vec<u8>,
    source: String,
}

impl Scene {
    async fn new() -> Self {
        let server = Server::dev().await;
        let (agent, warehouse) = (server.etl_bot().await, server.warehouse().await);
        let session = open(&agent).await;
        let genuine = must_mint(&agent, &session, &query(), "").await.token;
        let bytes = URL_SAFE_NO_PAD.decode(genuine.strip_prefix("csn_").unwrap()).unwrap();
        let keys = agent.list_public_keys(ListPublicKeysRequest {}).await.unwrap().keys;
        let public = PublicKey::from_bytes(&keys[0].public_key, Algorithm::Ed25519).unwrap();
        let source = Biscuit::from(&bytes, public).unwrap().print_block_source(0).unwrap();
        Self { server, agent, warehouse, session, genuine, bytes, source }
    }

    /// Each of these is refused as no token of ours, is recorded, and spends nothing; then the genuine one is spent.
    async fn refuses(&self, hostile: &[String]) {
        let mut ledger = Ledger::of(&self.server).await;
        for token in hostile {
            let result = redeem(&self.warehouse, token, &query()).await;
            assert_eq!(refused(result), denied(INVALID), "{token}");
        }
        ledger.expect(&[("refusal", u64::try_from(hostile.len()).unwrap())]).await;
        assert_eq!(capabilities(&self.agent, &self.session).await, [CapabilityState::Minted]);
        redeem(&self.warehouse, &self.genuine, &query()).await.unwrap();
        ledger.expect(&[("redeem", 1)]).await;
    }

    /// Blocks of this Datalog under the forger's own root key, which claims to be ours.
    fn forged(&self, source: &str) -> Biscuit {
        Biscuit::builder()
            .root_key_id(1)
            .code(source)
            .unwrap()
            .build_with_key_pair(&KeyPair::new(), SymbolTable::new(), &KeyPair::new())
            .unwrap()
    }
}

fn encode(bytes: &[u8]) -> String {
    format!("csn_{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn sealed(token: &Biscuit) -> String {
    encode(&token.seal().unwrap().to_vec().unwrap())
}

/// The top-level fields of a token: root key id, authority, further blocks, proof.
fn fields(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut fields = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (begin, tag) = (at, bytes[at]);
        at += 1;
        let mut value = 0_usize;
        for shift in (0..).step_by(7) {
            let byte = bytes[at];
            at += 1;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if tag & 7 == 2 {
            at += value;
        }
        fields.push(bytes[begin..at].to_vec());
    }
    fields
}

#[tokio::test]
async fn no_block_can_be_appended() {
    let scene = Scene::new().await;
    let facts = "digest(hex:00); presented_digest(hex:00); audience(\"other\"); token_id(\"other\")";
    let mut hostile = Vec::new();
    for code in ["", "check if true", facts, "presented_tenant(\"other\") <- tenant($t)"] {
        let block = BlockBuilder::new().code(code).unwrap();
        let appended = scene.forged(&scene.source).append(block).unwrap();
        hostile.extend([sealed(&appended), encode(&appended.to_vec().unwrap())]);
        // The genuine authority block with the forger's block and proof behind it.
        let ([id, authority], [.., block, proof]) =
            (&fields(&scene.bytes)[..2], &fields(&appended.to_vec().unwrap())[..])
        else {
            panic!("a token has another form");
        };
        let genuine_proof = fields(&scene.bytes).pop().unwrap();
        for proof in [proof, &genuine_proof] {
            hostile.push(encode(&[&id[..], authority, block, proof].concat()));
        }
    }
    // The token's maker left no key to append with.
    let keys = scene.agent.list_public_keys(ListPublicKeysRequest {}).await.unwrap().keys;
    let public = PublicKey::from_bytes(&keys[0].public_key, Algorithm::Ed25519).unwrap();
    assert!(Biscuit::from(&scene.bytes, public).unwrap().append(BlockBuilder::new()).is_err());
    scene.refuses(&hostile).await;
}

#[tokio::test]
async fn no_signature_can_be_changed_and_no_key_invented() {
    let scene = Scene::new().await;
    let mut hostile = vec![
        // The same words under another key, that calls itself ours, and under ids that are nobody's.
        sealed(&scene.forged(&scene.source)),
        encode(&scene.forged(&scene.source).to_vec().unwrap()),
    ];
    for id in [0_u8, 2, 9, 0x7f] {
        let mut bytes = scene.bytes.clone();
        bytes[1] = id;
        hostile.push(encode(&bytes));
    }
    hostile.push(encode(&scene.bytes[2..]));
    // One bit in each of a hundred places, the last ones in the two signatures among them.
    for place in (0..scene.bytes.len()).step_by(scene.bytes.len() / 60).chain(scene.bytes.len() - 40..scene.bytes.len())
    {
        let mut bytes = scene.bytes.clone();
        bytes[place] ^= 1 << (place % 8);
        hostile.push(encode(&bytes));
    }
    // Another genuine token's proof.
    let other = must_mint(&scene.agent, &open(&scene.agent).await, &query(), "").await.token;
    let other = URL_SAFE_NO_PAD.decode(other.strip_prefix("csn_").unwrap()).unwrap();
    let (mine, theirs) = (fields(&scene.bytes), fields(&other));
    hostile.push(encode(&[&mine[0][..], &mine[1], &theirs[2]].concat()));
    scene.refuses(&hostile).await;
}

#[tokio::test]
async fn a_token_has_one_spelling() {
    let scene = Scene::new().await;
    let (text, bytes) = (&scene.genuine, &scene.bytes);
    let parts = fields(bytes);
    let mut hostile = vec![
        format!("{text}="),
        format!("{text}\n"),
        format!(" {text}"),
        format!("{text}A"),
        format!("{text}{text}"),
        text.replacen("csn_", "CSN_", 1),
        text.replacen("csn_", "csn_csn_", 1),
        text.replacen("csn_", "biscuit:", 1),
        text.replacen("csn_", "", 1),
        text[..text.len() - 1].to_owned(),
        String::new(),
        "csn_".to_owned(),
        // Protocol Buffers know many spellings of one message; here one is read.
        encode(&[bytes, &[0x7a, 0x00][..]].concat()),
        encode(&[&[0x7a, 0x00][..], bytes].concat()),
        encode(&[&parts[1][..], &parts[2], &parts[0]].concat()),
        encode(&[&parts[0][..], &parts[0], &parts[1], &parts[2]].concat()),
        encode(&[&[0x08, 0x81, 0x00][..], &parts[1], &parts[2]].concat()),
        encode(&[bytes, &parts[2][..]].concat()),
        encode(&bytes.repeat(2)),
    ];
    for other in [format!("csn_{}", URL_SAFE.encode(bytes)), format!("csn_{}", STANDARD_NO_PAD.encode(bytes))] {
        if other != *text {
            hostile.push(other);
        }
    }
    scene.refuses(&hostile).await;
}

#[tokio::test]
async fn forged_facts_are_believed_nowhere() {
    let scene = Scene::new().await;
    let mut hostile = Vec::new();
    for more in [
        "digest(hex:00)",
        "audience(\"vault\")",
        "expires_at(9999999999999)",
        "principal(\"Agent\", \"ops-bot\")",
        "operation(\"grant_role\")",
        "tenant(\"other\")",
        "check if true",
        "x(1)",
    ] {
        hostile.push(sealed(&scene.forged(&format!("{}\n{more};", scene.source))));
        let block = BlockBuilder::new().code(more).unwrap();
        hostile.push(sealed(&scene.forged(&scene.source).append(block).unwrap()));
    }
    scene.refuses(&hostile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bombs_are_refused_and_hold_up_nobody() {
    let scene = Scene::new().await;
    let numbers: String = (0..40).map(|n| format!("n({n});\n")).collect();
    let join_bomb = format!(
        "{}\n{numbers}p($a, $b, $c, $d, $e) <- n($a), n($b), n($c), n($d), n($e);\n\
         check if n($a), n($b), n($c), n($d), n($e), n($f), $a + $b + $c + $d + $e + $f === 1000;",
        scene.source
    );
    let regex_bomb = format!("{}\ncheck if \"{}\".matches(\"((a{{9}}){{9}}){{99}}b\");", scene.source, "a".repeat(900));
    let nested = format!("{}\ncheck if {}true{};", scene.source, "(".repeat(40), ")".repeat(40));
    let appended = scene.forged(&scene.source).append(BlockBuilder::new()).unwrap().to_vec().unwrap();
    let parts = fields(&appended);
    let blocks = |n: usize| {
        let repeated = parts[2].repeat(n);
        encode(&[&parts[0][..], &parts[1], &repeated, &parts[3]].concat())
    };
    let bombs = [
        sealed(&scene.forged(&join_bomb)),
        sealed(&scene.forged(&regex_bomb)),
        sealed(&scene.forged(&nested)),
        blocks(10),
        blocks(5_000),
        format!("csn_{}", "A".repeat(500_000)),
    ];
    let mut ledger = Ledger::of(&scene.server).await;
    let attackers = join_all((0..4).map(|_| scene.server.warehouse())).await;
    let operation = query();
    let attack = async {
        let hostile = (0..100).map(|n| redeem(&attackers[n % 4], &bombs[n % bombs.len()], &operation));
        join_all(hostile).await
    };
    // Others are served all the while: neither is bounded by a time here, because both must end.
    let others = async {
        for _ in 0..50 {
            let answer = decide(&scene.agent, &scene.session, &describe()).await.unwrap();
            assert_eq!(answer.verdict(), Verdict::Allow);
        }
    };
    let (results, ()) = tokio::join!(attack, others);
    for result in results {
        assert_eq!(refused(result), denied(INVALID));
    }
    ledger.expect(&[("refusal", 100), ("ALLOW", 50)]).await;
    // More than a message may hold does not reach the handler at all.
    let (code, _) = refused(redeem(&scene.warehouse, &blocks(20_000), &query()).await);
    assert!([Code::OutOfRange, Code::ResourceExhausted].contains(&code), "{code:?}");
    redeem(&scene.warehouse, &scene.genuine, &query()).await.unwrap();
}
