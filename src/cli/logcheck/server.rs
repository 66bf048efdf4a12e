//! Checking the log that a server has.

use std::path::Path;

use countersign::client::Client;
use countersign::proto::{
    GetCheckpointRequest, GetConsistencyProofRequest, GetInclusionProofRequest, ListRecordsRequest,
};
use countersign_audit::{Checkpoint, Frontier, Hash, NoteVerifier, frontier_before, verify_consistency};

use super::super::Failure;
use super::{LogCheck, Report, Stored, head};

/// How many records are asked for at once.
const PAGE: i32 = 500;

/// The server's head, under the key that was given, else the server's own.
pub async fn server_head(client: &Client, key: Option<NoteVerifier>) -> Result<(Checkpoint, NoteVerifier), Failure> {
    server_head_at(client, key, 0).await
}

/// As [`server_head`], of the log when it had so many records; 0 is now.
pub async fn server_head_at(
    client: &Client,
    key: Option<NoteVerifier>,
    tree_size: u64,
) -> Result<(Checkpoint, NoteVerifier), Failure> {
    let answer = client.get_checkpoint(GetCheckpointRequest { published: false, tree_size }).await?;
    let key = match key {
        Some(key) => key,
        None => answer.verifier_key.parse().map_err(|error| Failure::new(format!("the server's log key: {error}")))?,
    };
    Ok((head(&answer.note, &key)?, key))
}

/// Checks a server's log up to its head, and that it continues the older heads in `notes`. Records that were dropped are read from
/// `archive`, if there is one.
pub async fn check_server(
    client: &Client,
    key: Option<NoteVerifier>,
    notes: &[String],
    archive: Option<&Path>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, Failure> {
    let key_unproven = key.is_none();
    let minimum = client.get_checkpoint(GetCheckpointRequest::default()).await?.minimum_index;
    let (checkpoint, key) = server_head(client, key).await?;
    let size = checkpoint.size();
    let mut heads = vec![checkpoint.clone()];
    for note in notes {
        heads.push(head(note, &key)?);
    }
    let mut check = match archive {
        Some(dir) => {
            let mut check = LogCheck::new(heads);
            check.archived(dir, minimum, |done| progress(done, size))?;
            check
        }
        None if minimum == 0 => LogCheck::new(heads),
        None => {
            let (older, newer): (Vec<_>, Vec<_>) = heads.into_iter().partition(|head| head.size() < minimum);
            let mut check = LogCheck::after(before(client, minimum, size).await?, newer);
            for old in older {
                check.older(client, &old, &checkpoint).await?;
            }
            check
        }
    };
    while check.size() < size {
        let request = ListRecordsRequest { start: check.size(), page_size: PAGE, page_token: String::new() };
        let page = client.list_records(request).await?;
        if page.records.is_empty() {
            break; // the head then covers records that are not there, which is a fault
        }
        for record in page.records {
            if check.size() == size {
                break; // appended after the head was signed
            }
            check.record(record.index, &record.content, Stored::Leaf(record.leaf_hash.parse().ok()))?;
        }
        progress(check.size(), size);
    }
    Ok(check.finish(key.name(), key_unproven))
}

/// The right edge of the log before the first record that a server has, from the proof that this one is in it.
async fn before(client: &Client, minimum: u64, size: u64) -> Result<Frontier, Failure> {
    let request = GetInclusionProofRequest { index: minimum, tree_size: size };
    let hashes = hashes(&client.get_inclusion_proof(request).await?.hashes)?;
    frontier_before(minimum, size, &hashes).map_err(|error| malformed(&error))
}

fn hashes(bytes: &[Vec<u8>]) -> Result<Vec<Hash>, Failure> {
    bytes.iter().map(|hash| Hash::try_from(hash.as_slice()).map_err(|error| malformed(&error))).collect()
}

fn malformed(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("the server's proof is malformed: {error}")).reason("LOG_BROKEN")
}

impl LogCheck {
    /// Notes whether the log continues a head of fewer records than were dropped, by the server's proof of that.
    async fn older(&mut self, client: &Client, old: &Checkpoint, head: &Checkpoint) -> Result<(), Failure> {
        let mut proof = Vec::new();
        if old.size() > 0 {
            let request = GetConsistencyProofRequest { old_tree_size: old.size(), new_tree_size: head.size() };
            proof = hashes(&client.get_consistency_proof(request).await?.hashes)?;
        }
        match verify_consistency(old.size(), old.root(), head.size(), head.root(), &proof) {
            Ok(()) => self.proved(old.clone()),
            Err(error) => {
                self.problem(format!("the log does not continue the head of {} records: {error}", old.size()))
            }
        }
        Ok(())
    }
}
