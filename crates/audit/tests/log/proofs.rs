//! Proofs hold for what is true and for nothing else.

use std::convert::Infallible;
use std::io;

use countersign_audit::{
    EMPTY_ROOT, Frontier, Hash, MAX_SIZE, Node, NodeId, ProofError, VerifyError, consistency_proof, frontier_before,
    inclusion_proof, leaf_hash, node_hash, nodes_needed, verify_consistency, verify_inclusion,
};
use proptest::prelude::*;

use crate::{Log, reference};

/// Every size up to this one is tried in full.
const ALL: u64 = 36;

/// Proofs that differ from this one by one bit, one hash or the order of two.
fn corrupted(proof: &[Hash], bit: usize) -> Vec<Vec<Hash>> {
    let mut all = Vec::new();
    for (at, hash) in proof.iter().enumerate() {
        let mut changed = proof.to_vec();
        changed[at] = flipped(hash, bit);
        all.push(changed);
        let mut without = proof.to_vec();
        without.remove(at);
        all.push(without);
        let mut doubled = proof.to_vec();
        doubled.insert(at, *hash);
        all.push(doubled);
        if at > 0 {
            let mut swapped = proof.to_vec();
            swapped.swap(at - 1, at);
            all.push(swapped);
        }
    }
    all.push([proof, &[EMPTY_ROOT]].concat());
    all.push([&[EMPTY_ROOT], proof].concat());
    all
}

fn flipped(hash: &Hash, bit: usize) -> Hash {
    let mut bytes = *hash.as_bytes();
    bytes[bit / 8 % 32] ^= 1 << (bit % 8);
    Hash::from_bytes(bytes)
}

#[test]
fn the_frontier_and_the_proofs_agree_with_the_words_of_the_rfc() {
    let log = Log::counting(ALL);
    for size in 0..=ALL {
        let leaves = &log.leaves[..size as usize];
        assert_eq!(log.roots[size as usize], reference::root(leaves));
        for index in 0..size {
            let proof = inclusion_proof(index, size, log.src()).unwrap();
            assert_eq!(proof, reference::path(index as usize, leaves), "{index} in {size}");
        }
        for old in 1..size {
            let proof = consistency_proof(old, size, log.src()).unwrap();
            assert_eq!(proof, reference::proof(old as usize, leaves), "{old} to {size}");
        }
    }
}

#[test]
fn an_inclusion_proof_holds_for_its_own_leaf_and_tree_only() {
    let log = Log::counting(ALL);
    for size in 1..=ALL {
        for index in 0..size {
            let proof = inclusion_proof(index, size, log.src()).unwrap();
            for other in 0..=size {
                let leaf = &log.leaves[index as usize];
                let holds = verify_inclusion(leaf, other, size, &proof, &log.roots[size as usize]);
                assert_eq!(holds.is_ok(), other == index, "{index} as {other} in {size}");
            }
            for other in 0..=ALL {
                let leaf = &log.leaves[index as usize];
                let holds = verify_inclusion(leaf, index, other, &proof, &log.roots[other as usize]);
                assert_eq!(holds.is_ok(), other == size, "{index} in {size} as {other}");
            }
        }
    }
}

#[test]
fn a_consistency_proof_holds_for_its_own_trees_only() {
    const FEW: u64 = 20;
    let log = Log::counting(FEW);
    let root = |size: u64| &log.roots[size as usize];
    for new in 2..=FEW {
        for old in 1..new {
            let proof = consistency_proof(old, new, log.src()).unwrap();
            for other in 0..=FEW {
                let holds = verify_consistency(other, root(other), new, root(new), &proof);
                assert_eq!(holds.is_ok(), other == old, "{old} to {new} as from {other}");
                let holds = verify_consistency(old, root(old), other, root(other), &proof);
                assert_eq!(holds.is_ok(), other == new, "{old} to {new} as to {other}");
            }
        }
    }
}

#[test]
fn a_proof_of_another_length_is_refused_for_its_length() {
    let log = Log::counting(ALL);
    let longer = |proof: &[Hash]| [proof, &[EMPTY_ROOT]].concat();
    for size in 1..=ALL {
        let root = &log.roots[size as usize];
        for index in 0..size {
            let leaf = &log.leaves[index as usize];
            let proof = inclusion_proof(index, size, log.src()).unwrap();
            let len = proof.len() + 1;
            let found = verify_inclusion(leaf, index, size, &longer(&proof), root);
            assert_eq!(found, Err(VerifyError::TooLong { len }));
            for len in 0..proof.len() {
                let found = verify_inclusion(leaf, index, size, &proof[..len], root);
                assert_eq!(found, Err(VerifyError::TooShort { len }));
            }
        }
        for old in 0..=size {
            let old_root = &log.roots[old as usize];
            let proof = consistency_proof(old, size, log.src()).unwrap();
            let len = proof.len() + 1;
            let found = verify_consistency(old, old_root, size, root, &longer(&proof));
            assert_eq!(found, Err(VerifyError::TooLong { len }));
            for len in 0..proof.len() {
                let found = verify_consistency(old, old_root, size, root, &proof[..len]);
                assert_eq!(found, Err(VerifyError::TooShort { len }));
            }
        }
    }
}

#[test]
fn trees_without_a_proof_in_the_rfc_are_compared_by_their_roots() {
    let log = Log::counting(5);
    let (two, five) = (&log.roots[2], &log.roots[5]);
    assert_eq!(consistency_proof(0, 5, log.src()).unwrap(), []);
    assert_eq!(consistency_proof(5, 5, log.src()).unwrap(), []);
    verify_consistency(0, &EMPTY_ROOT, 5, five, &[]).unwrap();
    verify_consistency(0, &EMPTY_ROOT, 0, &EMPTY_ROOT, &[]).unwrap();
    verify_consistency(5, five, 5, five, &[]).unwrap();
    let refused = |old, old_root, new, new_root, proof: &[Hash]| {
        verify_consistency(old, old_root, new, new_root, proof).unwrap_err()
    };
    assert_eq!(refused(0, two, 5, five, &[]), VerifyError::OldRootMismatch { expected: *two, computed: EMPTY_ROOT });
    assert_eq!(refused(5, two, 5, five, &[]), VerifyError::RootMismatch { expected: *five, computed: *two });
    assert!(matches!(refused(0, two, 0, two, &[]), VerifyError::OldRootMismatch { .. }));
    assert_eq!(refused(0, &EMPTY_ROOT, 5, five, &[*two]), VerifyError::TooLong { len: 1 });
    assert_eq!(refused(5, five, 5, five, &[*two]), VerifyError::TooLong { len: 1 });
    assert_eq!(refused(2, two, 5, five, &[]), VerifyError::TooShort { len: 0 });
    assert_eq!(refused(3, two, 5, five, &[]), VerifyError::TooShort { len: 0 });
    assert_eq!(refused(5, five, 2, two, &[]), VerifyError::SizesReversed { old: 5, new: 2 });
}

#[test]
fn a_proof_that_cannot_be_made_names_the_cause() {
    let mut log = Log::counting(8);
    assert_eq!(inclusion_proof(8, 8, log.src()).unwrap_err(), ProofError::IndexOutsideTree { index: 8, size: 8 });
    assert_eq!(inclusion_proof(0, 0, log.src()).unwrap_err(), ProofError::IndexOutsideTree { index: 0, size: 0 });
    assert_eq!(consistency_proof(9, 8, log.src()).unwrap_err(), ProofError::SizesReversed { old: 9, new: 8 });
    let id = NodeId { level: 2, index: 1 };
    log.nodes.remove(&id);
    assert_eq!(inclusion_proof(0, 8, log.src()).unwrap_err(), ProofError::MissingNode { id });
    assert_eq!(consistency_proof(3, 8, log.src()).unwrap_err(), ProofError::MissingNode { id });
    let broken = |_| Err(io::Error::other("the disk is gone"));
    let error = inclusion_proof(0, 8, broken).unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "the disk is gone");
}

#[test]
fn sizes_at_the_limit_of_the_number_are_refused_or_answered_but_never_overflow() {
    let mut asked = 0;
    let src = |_| {
        asked += 1;
        Ok::<_, Infallible>(Some(EMPTY_ROOT))
    };
    let proof = inclusion_proof(0, u64::MAX, src).unwrap();
    assert_eq!(proof.len(), 64);
    assert!(asked <= 128, "{asked} nodes were asked for");
    for (index, size) in [(0, u64::MAX), (u64::MAX - 1, u64::MAX), (u64::MAX, u64::MAX)] {
        let holds = verify_inclusion(&EMPTY_ROOT, index, size, &[EMPTY_ROOT; 200], &EMPTY_ROOT);
        assert!(holds.is_err());
    }
    for old in [1, 1 << 63, u64::MAX - 1] {
        let roots = (&EMPTY_ROOT, &EMPTY_ROOT);
        let long = [EMPTY_ROOT; 200];
        assert!(verify_consistency(old, roots.0, u64::MAX, roots.1, &long).is_err());
        let src = |_| Ok::<_, Infallible>(Some(EMPTY_ROOT));
        assert!(consistency_proof(old, u64::MAX, src).is_ok());
    }
}

/// A log of equal records, of any size: the hash of a complete subtree depends on its level only.
struct Uniform(Vec<Hash>);

impl Uniform {
    fn new() -> Self {
        let mut levels = vec![leaf_hash(b"the same record")];
        for _ in 0..63 {
            let below = levels[levels.len() - 1];
            levels.push(node_hash(&below, &below));
        }
        Self(levels)
    }

    fn src(&self) -> impl FnMut(NodeId) -> Result<Option<Hash>, Infallible> {
        |id| Ok(Some(self.0[usize::from(id.level)]))
    }

    fn root(&self, size: u64) -> Hash {
        let needed = nodes_needed(size).into_iter();
        let nodes = needed.map(|id| Node { id, hash: self.0[usize::from(id.level)] });
        Frontier::from_nodes(size, nodes).unwrap().root()
    }
}

/// Sizes of all magnitudes, not only those near the largest one.
fn sizes() -> impl Strategy<Value = u64> {
    (0..=62u32, 0..=MAX_SIZE).prop_map(|(shift, size)| (size >> shift).max(1))
}

proptest! {
    #[test]
    fn a_changed_bit_hash_index_or_size_breaks_an_inclusion_proof(
        size in 1..600u64, at in any::<prop::sample::Index>(), bit in 0..256usize,
    ) {
        let index = at.index(size as usize) as u64;
        let log = Log::counting(size);
        let (leaf, root) = (&log.leaves[index as usize], &log.roots[size as usize]);
        let proof = inclusion_proof(index, size, log.src()).unwrap();
        prop_assert_eq!(verify_inclusion(leaf, index, size, &proof, root), Ok(()));
        prop_assert!(verify_inclusion(&flipped(leaf, bit), index, size, &proof, root).is_err());
        prop_assert!(verify_inclusion(leaf, index, size, &proof, &flipped(root, bit)).is_err());
        for other in [index + 1, index.wrapping_sub(1), index ^ 2, size, index + size] {
            prop_assert!(verify_inclusion(leaf, other, size, &proof, root).is_err());
        }
        for other in [size * 2, size / 2, 0] {
            prop_assert!(verify_inclusion(leaf, index, other, &proof, root).is_err());
        }
        for changed in corrupted(&proof, bit) {
            prop_assert!(verify_inclusion(leaf, index, size, &changed, root).is_err());
        }
    }

    #[test]
    fn the_proof_of_a_record_holds_the_tree_before_it(
        size in 1..600u64, at in any::<prop::sample::Index>(), bit in 0..256usize,
    ) {
        let index = at.index(size as usize) as u64;
        let log = Log::counting(size);
        let proof = inclusion_proof(index, size, log.src()).unwrap();
        let mut frontier = frontier_before(index, size, &proof).unwrap();
        prop_assert_eq!((frontier.size(), frontier.root()), (index, log.roots[index as usize]));
        for leaf in &log.leaves[index as usize..size as usize] {
            frontier.append(*leaf);
        }
        prop_assert_eq!(frontier.root(), log.roots[size as usize]);
        // Whatever is changed of what was taken leads elsewhere than to the signed root.
        for changed in corrupted(&proof, bit) {
            let Ok(mut other) = frontier_before(index, size, &changed) else { continue };
            let same = other == frontier_before(index, size, &proof).unwrap();
            for leaf in &log.leaves[index as usize..size as usize] {
                other.append(*leaf);
            }
            prop_assert_eq!(other.root() == log.roots[size as usize], same);
        }
        prop_assert!(frontier_before(size, size, &proof).is_err());
    }

    #[test]
    fn a_changed_bit_hash_or_size_breaks_a_consistency_proof(
        new in 2..600u64, at in any::<prop::sample::Index>(), bit in 0..256usize,
    ) {
        let old = 1 + at.index(new as usize - 1) as u64;
        let log = Log::counting(new);
        let (old_root, new_root) = (&log.roots[old as usize], &log.roots[new as usize]);
        let proof = consistency_proof(old, new, log.src()).unwrap();
        prop_assert_eq!(verify_consistency(old, old_root, new, new_root, &proof), Ok(()));
        prop_assert!(verify_consistency(old, &flipped(old_root, bit), new, new_root, &proof).is_err());
        prop_assert!(verify_consistency(old, old_root, new, &flipped(new_root, bit), &proof).is_err());
        prop_assert!(verify_consistency(old, new_root, new, old_root, &proof).is_err());
        prop_assert!(verify_consistency(new, old_root, old, new_root, &proof).is_err());
        prop_assert!(verify_consistency(old, old_root, new * 2, new_root, &proof).is_err());
        prop_assert!(verify_consistency(0, old_root, new, new_root, &proof).is_err());
        for changed in corrupted(&proof, bit) {
            prop_assert!(verify_consistency(old, old_root, new, new_root, &changed).is_err());
        }
    }

    #[test]
    fn proofs_hold_in_trees_of_any_size(a in sizes(), b in sizes(), bit in 0..256usize) {
        let (old, new) = (a.min(b), a.max(b));
        let log = Uniform::new();
        let (old_root, new_root) = (log.root(old), log.root(new));
        let proof = consistency_proof(old, new, log.src()).unwrap();
        prop_assert_eq!(verify_consistency(old, &old_root, new, &new_root, &proof), Ok(()));
        let index = old - 1;
        let proof = inclusion_proof(index, new, log.src()).unwrap();
        prop_assert_eq!(verify_inclusion(&log.0[0], index, new, &proof, &new_root), Ok(()));
        for (at, hash) in proof.iter().enumerate() {
            let mut changed = proof.clone();
            changed[at] = flipped(hash, bit);
            prop_assert!(verify_inclusion(&log.0[0], index, new, &changed, &new_root).is_err());
        }
    }
}
