//! Proofs, checked by the verifier that a stranger would use.

use countersign::client::Client;
use countersign::proto::*;
use countersign_audit::{
    Hash, LogVerifier, NoteVerifier, SignedCheckpoint, leaf_hash, verify_consistency, verify_inclusion,
};
use tonic::Code;

use crate::harness::flow::{refused, *};
use crate::harness::{AuditRecord, Server};

fn hashes(hashes: &[Vec<u8>]) -> Vec<Hash> {
    hashes.iter().map(|hash| Hash::try_from(hash.as_slice()).unwrap()).collect()
}

/// The head, with its signature checked by this key.
async fn head(auditor: &Client, verifier: &NoteVerifier) -> (u64, Hash) {
    let answer = auditor.get_checkpoint(GetCheckpointRequest::default()).await.unwrap();
    let signed = SignedCheckpoint::parse(answer.note.as_bytes()).unwrap();
    let checkpoint = signed.verify(verifier.name(), std::slice::from_ref(verifier)).unwrap();
    assert_eq!(checkpoint.size(), answer.tree_size);
    (checkpoint.size(), *checkpoint.root())
}

async fn scene() -> (Server, Client, NoteVerifier) {
    let server = Server::dev().await;
    let auditor = server.person("aaron").await;
    let key = auditor.get_checkpoint(GetCheckpointRequest::default()).await.unwrap().verifier_key;
    // The key that lies beside the store is the same: whoever runs the server can hand it on.
    let beside = std::fs::read_to_string(server.data_dir().join("keys/dev/log.pub")).unwrap();
    assert_eq!(beside.trim(), key);
    (server, auditor, key.parse().unwrap())
}

async fn work(server: &Server, rounds: usize) {
    let agent = server.client(AGENT, Some(OPERATOR), &[]).await;
    let session = open(&agent).await;
    for n in 0..rounds {
        decide(&agent, &session, &export(n as i64 + 1)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_proved_to_be_in_the_signed_tree() {
    let (server, auditor, verifier) = scene().await;
    work(&server, 20).await;
    let records: Vec<AuditRecord> = server.whole_log().await;
    let (size, root) = head(&auditor, &verifier).await;
    assert_eq!(records.len() as u64, size);
    let mut check = LogVerifier::new();
    for record in &records {
        check.push_at(record.index, &record.bytes).unwrap();
        let leaf = leaf_hash(&record.bytes);
        assert_eq!(leaf.to_string(), record.leaf_hash);
        let request = GetInclusionProofRequest { index: record.index, tree_size: size };
        let proof = auditor.get_inclusion_proof(request).await.unwrap();
        assert_eq!(proof.leaf_hash, leaf.as_bytes());
        let proof = hashes(&proof.hashes);
        verify_inclusion(&leaf, record.index, size, &proof, &root).unwrap();
        // The proof of one entry proves no other.
        let other = (record.index + 1) % size;
        assert!(verify_inclusion(&leaf, other, size, &proof, &root).is_err());
        let other = leaf_hash(&records[other as usize].bytes);
        assert!(verify_inclusion(&other, record.index, size, &proof, &root).is_err());
    }
    assert_eq!(check.frontier().root(), root);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_head_continues_every_earlier_one_also_across_a_restart() {
    let (mut server, auditor, verifier) = scene().await;
    let mut heads = vec![head(&auditor, &verifier).await];
    for round in 1..6 {
        work(&server, round).await;
        if round == 3 {
            server.restart().await;
        }
        if round == 4 {
            server.kill().await;
            server.restart().await;
        }
        heads.push(head(&server.person("aaron").await, &verifier).await);
    }
    let auditor = server.person("aaron").await;
    for (i, (old, old_root)) in heads.iter().enumerate() {
        for (new, new_root) in &heads[i..] {
            let request = GetConsistencyProofRequest { old_tree_size: *old, new_tree_size: *new };
            let proof = hashes(&auditor.get_consistency_proof(request).await.unwrap().hashes);
            verify_consistency(*old, old_root, *new, new_root, &proof).unwrap();
            if old < new {
                assert!(verify_consistency(*old, new_root, *new, old_root, &proof).is_err());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_log_is_not_proved() {
    let (server, auditor, verifier) = scene().await;
    server.whole_log().await;
    let (size, _) = head(&auditor, &verifier).await;
    for (index, tree_size) in [(size, size), (0, size + 1), (u64::MAX, u64::MAX), (0, 0), (size, 1)] {
        let proof = auditor.get_inclusion_proof(GetInclusionProofRequest { index, tree_size }).await;
        assert_eq!(refused(proof), (Code::OutOfRange, "NOT_IN_LOG".to_owned()), "{index} of {tree_size}");
    }
    for (old, new) in [(size, size + 1), (size, 1), (u64::MAX, u64::MAX)] {
        let request = GetConsistencyProofRequest { old_tree_size: old, new_tree_size: new };
        let proof = auditor.get_consistency_proof(request).await;
        assert_eq!(refused(proof), (Code::OutOfRange, "NOT_IN_LOG".to_owned()), "{old} to {new}");
    }
}
