//! The tenants' logs.

use countersign_audit::{
    EMPTY_ROOT, Frontier, Hash, NodeId, consistency_proof, inclusion_proof, leaf_hash, verify_consistency,
    verify_inclusion,
};

use super::*;
use crate::kernel::{MAX_PAGE_BYTES, MAX_RECORD_BYTES};
use crate::{CommitError, StoreError};

fn reference(records: &[String]) -> Frontier {
    let mut frontier = Frontier::empty();
    for record in records {
        frontier.append(leaf_hash(record.as_bytes()));
    }
    frontier
}

pub(crate) async fn records_are_contiguous_and_hash_to_the_reference_root<B: Backend>() {
    let mut store = B::new();
    let empty = store.kernel().log_frontier(&acme()).await.unwrap();
    assert_eq!((empty.size(), empty.root()), (0, EMPTY_ROOT));
    assert_eq!(store.kernel().log_entries(&acme(), 0, 10).await.unwrap(), []);
    let mut records: Vec<String> = Vec::new();
    for round in 0..20_usize {
        let mut commit = Commit::new(acme());
        let before = records.len();
        for part in 0..round % 5 + 1 {
            records.push(format!("record {round} {part}"));
            commit = commit.record(records.last().unwrap().clone());
        }
        let committed = done(store.kernel(), commit).await;
        assert_eq!(committed.first_log_index, u64::try_from(before).unwrap());
        assert_eq!(committed.log_size, u64::try_from(records.len()).unwrap());
        assert_eq!(store.kernel().log_size(&acme()).await.unwrap(), committed.log_size);
        assert_eq!(store.kernel().log_frontier(&acme()).await.unwrap(), reference(&records));
        if round % 7 == 6 {
            store.restart();
        }
    }
    let (mut read, mut from) = (Vec::new(), 0);
    loop {
        let page = store.kernel().log_entries(&acme(), from, 7).await.unwrap();
        let Some((last, _)) = page.last() else {
            break;
        };
        from = last + 1;
        read.extend(page);
    }
    for (position, ((index, record), expected)) in read.iter().zip(&records).enumerate() {
        assert_eq!(*index, u64::try_from(position).unwrap());
        assert_eq!(record.as_ref(), expected.as_bytes());
    }
    assert_eq!(read.len(), records.len());
    assert_eq!(store.kernel().log_entries(&acme(), u64::MAX, 7).await.unwrap(), []);
}

pub(crate) async fn a_page_of_records_ends_when_it_has_enough_bytes<B: Backend>() {
    let store = B::new();
    let enough = MAX_PAGE_BYTES / MAX_RECORD_BYTES;
    for _ in 0..=enough {
        done(store.kernel(), Commit::new(acme()).record(vec![7; MAX_RECORD_BYTES])).await;
    }
    let page = store.kernel().log_entries(&acme(), 0, usize::MAX).await.unwrap();
    assert_eq!(page.len(), enough);
    let rest = store.kernel().log_entries(&acme(), page.last().unwrap().0 + 1, usize::MAX).await.unwrap();
    assert_eq!(rest.len(), 1);
}

pub(crate) async fn stored_nodes_prove_inclusion_and_consistency<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let records: Vec<String> = (0..13).map(|number| format!("record {number}")).collect();
    for record in &records {
        done(kernel, Commit::new(acme()).record(record.clone())).await;
    }
    let size = 13;
    let root = kernel.log_frontier(&acme()).await.unwrap().root();
    let ids: Vec<NodeId> = (0..5).flat_map(|level| (0..size).map(move |index| NodeId { level, index })).collect();
    let hashes = kernel.log_nodes(&acme(), &ids).await.unwrap();
    for (id, hash) in ids.iter().zip(&hashes) {
        assert_eq!(hash.is_some(), id.is_complete_in(size), "{id}");
        assert_eq!(kernel.log_node(&acme(), *id).await.unwrap(), *hash);
    }
    let source = |id: NodeId| {
        let position = ids.iter().position(|other| *other == id);
        Ok::<Option<Hash>, ()>(position.and_then(|position| hashes[position]))
    };
    for (index, record) in (0..).zip(&records) {
        let proof = inclusion_proof(index, size, source).unwrap();
        verify_inclusion(&leaf_hash(record.as_bytes()), index, size, &proof, &root).unwrap();
    }
    let old = reference(&records[..6]).root();
    verify_consistency(6, &old, size, &root, &consistency_proof(6, size, source).unwrap()).unwrap();
}

pub(crate) async fn logs_of_tenants_are_apart<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    let names = ["a", "a-b", "ab", "b"].map(|name| TenantId::new(name).unwrap());
    for (count, tenant) in (1..).zip(&names) {
        for _ in 0..count {
            done(kernel, Commit::new(tenant.clone()).record(tenant.as_str().to_owned())).await;
        }
    }
    // A tenant without records has no log.
    done(kernel, create(1, "x")).await;
    assert_eq!(kernel.logs().await.unwrap(), names);
    for (count, tenant) in (1..).zip(&names) {
        assert_eq!(kernel.log_size(tenant).await.unwrap(), count);
        let records = kernel.log_entries(tenant, 0, 100).await.unwrap();
        assert!(records.iter().all(|(_, record)| record.as_ref() == tenant.as_str().as_bytes()));
        assert_eq!(records.len(), usize::try_from(count).unwrap());
    }
    assert_eq!(kernel.log_size(&acme()).await.unwrap(), 0);
}

/// A log of `size` records, each in a commit of its own.
async fn grown(kernel: &impl Kernel, size: usize) -> Vec<String> {
    let records: Vec<String> = (0..size).map(|number| format!("record {number}")).collect();
    for record in &records {
        done(kernel, Commit::new(acme()).record(record.clone())).await;
    }
    records
}

pub(crate) async fn what_is_pruned_is_gone_and_the_tree_is_as_it_was<B: Backend>() {
    let mut store = B::new();
    let mut records = grown(store.kernel(), 9).await;
    let before = store.kernel().log_frontier(&acme()).await.unwrap();
    assert_eq!(store.kernel().log_minimum_index(&acme()).await.unwrap(), 0);
    for minimum in [4, 5, 9] {
        let told = format!("pruned {minimum}");
        let committed = done(store.kernel(), Commit::new(acme()).record(told.clone()).prune(minimum)).await;
        records.push(told);
        assert_eq!(committed.log_size, u64::try_from(records.len()).unwrap());
        for _ in 0..2 {
            let kernel = store.kernel();
            assert_eq!(kernel.log_minimum_index(&acme()).await.unwrap(), minimum);
            assert_eq!(kernel.log_frontier(&acme()).await.unwrap(), reference(&records));
            for from in 0..minimum {
                let refused = StoreError::Pruned { from, minimum };
                assert_eq!(kernel.log_entries(&acme(), from, 100).await, Err(refused));
            }
            let kept = kernel.log_entries(&acme(), minimum, 100).await.unwrap();
            let expected = (minimum..).zip(&records[usize::try_from(minimum).unwrap()..]);
            assert!(
                kept.iter()
                    .map(|(index, record)| (*index, record.as_ref()))
                    .eq(expected.map(|(i, r)| (i, r.as_bytes())))
            );
            store.restart();
        }
    }
    // What is gone is proved to have stood there all the same.
    let kernel = store.kernel();
    let ids: Vec<NodeId> = (0..4).flat_map(|level| (0..9).map(move |index| NodeId { level, index })).collect();
    let hashes = kernel.log_nodes(&acme(), &ids).await.unwrap();
    let source = |id: NodeId| Ok::<_, ()>(ids.iter().position(|other| *other == id).and_then(|place| hashes[place]));
    for (index, record) in (0..9).zip(&records) {
        let proof = inclusion_proof(index, 9, source).unwrap();
        verify_inclusion(&leaf_hash(record.as_bytes()), index, 9, &proof, &before.root()).unwrap();
    }
}

pub(crate) async fn nothing_is_pruned_untold_twice_or_ahead<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    grown(kernel, 5).await;
    let prune = |minimum| Commit::new(acme()).record("told").prune(minimum);
    let untold = Commit::new(acme()).create(key(1), "x").prune(2);
    assert_eq!(kernel.commit(untold).await, Err(CommitError::PruneUntold));
    assert_eq!(value(kernel, 1).await, None);
    let refused = |prune, minimum, size| Err(CommitError::NothingToPrune { prune, minimum, size });
    assert_eq!(kernel.commit(prune(0)).await, refused(0, 0, 5));
    assert_eq!(kernel.commit(prune(6)).await, refused(6, 0, 5));
    done(kernel, prune(3)).await;
    for again in [1, 3] {
        assert_eq!(kernel.commit(prune(again)).await, refused(again, 3, 6));
    }
    // In one call too, each after the one before it.
    let outcomes = kernel.commit_many(vec![prune(6), prune(5), prune(7)]).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert_eq!(outcomes[1], refused(5, 6, 7));
    let left = kernel.log_entries(&acme(), 7, 100).await.unwrap();
    assert_eq!(left, [(7, "told".into())]);
    assert_eq!(kernel.log_size(&acme()).await.unwrap(), 8);
}

pub(crate) async fn a_prune_whose_guard_does_not_hold_drops_nothing<B: Backend>() {
    let store = B::new();
    let kernel = store.kernel();
    grown(kernel, 5).await;
    done(kernel, create(1, "there")).await;
    let late = create(1, "again").record("told").prune(3);
    assert!(matches!(kernel.commit(late).await, Err(CommitError::Conflict { .. })));
    assert_eq!(kernel.log_minimum_index(&acme()).await.unwrap(), 0);
    assert_eq!(kernel.log_entries(&acme(), 0, 100).await.unwrap().len(), 5);
}
