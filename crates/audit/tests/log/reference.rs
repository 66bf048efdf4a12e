//! RFC 9162 §2.1 written down as the document words it, over all leaves at once.

use countersign_audit::{EMPTY_ROOT, Hash, node_hash};

/// The largest power of two below `n`.
fn split(n: usize) -> usize {
    let mut k = 1;
    while k * 2 < n {
        k *= 2;
    }
    k
}

/// MTH (§2.1.1).
pub(crate) fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => EMPTY_ROOT,
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// PATH (§2.1.3.1).
pub(crate) fn path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut proof, sibling) = if m < k { (path(m, left), root(right)) } else { (path(m - k, right), root(left)) };
    proof.push(sibling);
    proof
}

/// PROOF (§2.1.4.1), for `0 < m < n`.
pub(crate) fn proof(m: usize, leaves: &[Hash]) -> Vec<Hash> {
    subproof(m, leaves, true)
}

fn subproof(m: usize, leaves: &[Hash], known: bool) -> Vec<Hash> {
    if m == leaves.len() {
        return if known { Vec::new() } else { vec![root(leaves)] };
    }
    let k = split(leaves.len());
    let (left, right) = leaves.split_at(k);
    let (mut proof, sibling) =
        if m <= k { (subproof(m, left, known), root(right)) } else { (subproof(m - k, right, false), root(left)) };
    proof.push(sibling);
    proof
}
