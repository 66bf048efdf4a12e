//! The check of a whole log names the first thing that is wrong.

use countersign_audit::{Checkpoint, Frontier, FsckError, Hash, LogVerifier, NodeId, check_node, leaf_hash};

use crate::Log;

const SIZE: u64 = 21;

fn records() -> Vec<(u64, Vec<u8>)> {
    (0..SIZE).map(|index| (index, index.to_be_bytes().to_vec())).collect()
}

fn checkpoint(size: u64, root: &Hash) -> Checkpoint {
    Checkpoint::new("example.com/log42", size, *root).unwrap()
}

/// The check as a caller runs it.
fn run(log: &Log, records: &[(u64, Vec<u8>)], checkpoint: &Checkpoint) -> Result<LogVerifier, FsckError> {
    let mut verifier = LogVerifier::new();
    for (index, record) in records {
        for node in verifier.push_at(*index, record)? {
            check_node(&node, log.nodes.get(&node.id).copied())?;
        }
    }
    verifier.compare(checkpoint)?;
    for id in log.nodes.keys() {
        verifier.check_stray(*id)?;
    }
    Ok(verifier)
}

fn healthy() -> (Log, Checkpoint) {
    let log = Log::counting(SIZE);
    let checkpoint = checkpoint(SIZE, &log.roots[SIZE as usize]);
    (log, checkpoint)
}

#[test]
fn a_healthy_log_passes() {
    let (log, checkpoint) = healthy();
    assert_eq!(run(&log, &records(), &checkpoint).unwrap().size(), SIZE);
    let empty = Log::counting(0);
    run(&empty, &[], &self::checkpoint(0, &empty.roots[0])).unwrap();
}

#[test]
fn every_changed_bit_of_a_record_is_found_at_its_index() {
    let (log, checkpoint) = healthy();
    for at in 0..SIZE {
        for bit in 0..64usize {
            let mut records = records();
            let record = &mut records[at as usize].1;
            record[bit / 8] ^= 1 << (bit % 8);
            let computed = leaf_hash(record);
            let stored = log.leaves[at as usize];
            let found = run(&log, &records, &checkpoint).unwrap_err();
            assert_eq!(found, FsckError::LeafMismatch { index: at, stored, computed });
        }
    }
}

#[test]
fn a_record_changed_together_with_all_of_its_nodes_is_found_by_the_checkpoint() {
    let (_, checkpoint) = healthy();
    let mut records = records();
    records[13].1 = b"rewritten".to_vec();
    let rewritten = Log::of(records.iter().map(|(_, record)| record));
    let found = run(&rewritten, &records, &checkpoint).unwrap_err();
    let computed = rewritten.roots[SIZE as usize];
    let signed = *checkpoint.root();
    assert_eq!(found, FsckError::RootMismatch { size: SIZE, signed, computed });
}

#[test]
fn a_gap_a_repetition_and_a_wrong_order_are_named() {
    let (log, checkpoint) = healthy();
    let check = |records: &[(u64, Vec<u8>)]| run(&log, records, &checkpoint).unwrap_err();
    let mut gap = records();
    gap.remove(5);
    assert_eq!(check(&gap), FsckError::MissingRecord { expected: 5, found: 6 });
    let mut late_start = records();
    late_start.remove(0);
    assert_eq!(check(&late_start), FsckError::MissingRecord { expected: 0, found: 1 });
    let mut repeated = records();
    let again = repeated[5].clone();
    repeated.insert(6, again);
    assert_eq!(check(&repeated), FsckError::RepeatedRecord { expected: 6, found: 5 });
}

#[test]
fn a_lost_end_and_an_uncovered_end_are_told_apart() {
    let (log, checkpoint) = healthy();
    let lost = &records()[..18];
    let found = run(&log, lost, &checkpoint).unwrap_err();
    assert_eq!(found, FsckError::CheckpointAhead { records: 18, checkpoint: SIZE });
    assert!(found.to_string().ends_with("record 18 is the first one missing"));

    let behind = self::checkpoint(18, &log.roots[18]);
    let found = run(&log, &records(), &behind).unwrap_err();
    assert_eq!(found, FsckError::CheckpointBehind { records: SIZE, checkpoint: 18 });
    assert!(found.to_string().ends_with("record 18 is the first one not covered"));
}

#[test]
fn damaged_missing_and_stray_nodes_are_named() {
    let id = NodeId { level: 2, index: 3 };
    let (mut log, checkpoint) = healthy();
    let computed = log.nodes[&id];
    let stored = leaf_hash(b"damage");
    log.nodes.insert(id, stored);
    assert_eq!(run(&log, &records(), &checkpoint).unwrap_err(), FsckError::NodeMismatch { id, stored, computed });
    log.nodes.remove(&id);
    assert_eq!(run(&log, &records(), &checkpoint).unwrap_err(), FsckError::MissingNode { id });
    log.nodes.insert(id, computed);
    run(&log, &records(), &checkpoint).unwrap();
    for id in [NodeId::leaf(SIZE), NodeId { level: 4, index: 1 }, NodeId { level: 99, index: 0 }] {
        log.nodes.insert(id, stored);
        assert_eq!(run(&log, &records(), &checkpoint).unwrap_err(), FsckError::StrayNode { id, size: SIZE });
        log.nodes.remove(&id);
    }
}

#[test]
fn with_damaged_nodes_only_the_records_still_match_the_checkpoint() {
    let (mut log, checkpoint) = healthy();
    log.nodes.insert(NodeId::leaf(4), leaf_hash(b"damage"));
    let mut verifier = LogVerifier::new();
    let mut found = Vec::new();
    for (index, record) in records() {
        for node in verifier.push_at(index, &record).unwrap() {
            found.extend(check_node(&node, log.nodes.get(&node.id).copied()).err());
        }
    }
    assert!(matches!(found[..], [FsckError::LeafMismatch { index: 4, .. }]));
    verifier.compare(&checkpoint).unwrap();
}

#[test]
fn each_older_checkpoint_is_compared_on_the_way() {
    let (log, _) = healthy();
    let mut verifier = LogVerifier::new();
    for (index, record) in records() {
        verifier.compare(&checkpoint(index, &log.roots[index as usize])).unwrap();
        verifier.push(&record);
    }
}

#[test]
fn a_refused_record_is_not_taken() {
    let mut verifier = LogVerifier::new();
    verifier.push(b"zero");
    assert!(verifier.push_at(2, b"two").is_err());
    assert!(verifier.push_at(0, b"zero").is_err());
    assert_eq!(verifier.size(), 1);
    assert!(verifier.push_at(1, b"one").is_ok());
}

#[test]
fn a_check_goes_on_after_a_trusted_frontier() {
    let (log, checkpoint) = healthy();
    let mut frontier = Frontier::empty();
    for leaf in &log.leaves[..10] {
        frontier.append(*leaf);
    }
    let mut verifier = LogVerifier::resume(frontier);
    for (index, record) in &records()[10..] {
        verifier.push_at(*index, record).unwrap();
    }
    verifier.compare(&checkpoint).unwrap();
}

#[test]
fn a_long_log_is_checked_with_a_handful_of_hashes() {
    let mut verifier = LogVerifier::new();
    let mut most = 0;
    for index in 0..200_000u64 {
        verifier.push(&index.to_be_bytes());
        most = most.max(verifier.frontier().nodes().len());
    }
    assert!(most <= 18, "{most} hashes were held");
}
