//! What every kernel must do. A new backend inherits all of it with one line: `contract!(ItsBackend);`.

mod faults;
mod log;
mod rows;
mod watching;

pub(crate) use faults::*;
pub(crate) use log::*;
pub(crate) use rows::*;
pub(crate) use watching::*;

use countersign_core::{SessionId, TenantId};

use crate::fail::FailPoint;
use crate::kernel::{Committed, Kernel, Revision};
use crate::{Commit, Key};

/// A store with its life around it.
pub(crate) trait Backend {
    type Kernel: Kernel;

    /// An empty store.
    fn new() -> Self;
    /// The store, as this process sees it.
    fn kernel(&self) -> &Self::Kernel;
    /// The store's faults.
    fn fail(&self) -> &FailPoint;
    /// Ends in order.
    fn shutdown(&self);
    /// Starts again, as a new process would.
    fn restart(&mut self);
}

/// Runs the whole contract against a backend.
macro_rules! contract {
    ($backend:ty) => {
        $crate::contract::contract! { $backend:
            a_row_is_read_back_with_the_revision_of_its_commit,
            a_write_without_a_guard_is_refused,
            a_guard_that_does_not_hold_changes_nothing,
            a_guard_on_a_row_that_is_only_read_counts,
            a_row_that_was_deleted_and_made_again_is_another_one,
            a_commit_that_comes_too_late_changes_nothing,
            commits_of_one_call_have_outcomes_of_their_own,
            what_exceeds_a_limit_is_refused_before_anything_happens,
            a_commit_stays_within_its_tenant,
            scans_are_in_order_and_paged_both_ways,
            a_page_ends_when_it_has_enough_bytes,
            concurrent_increments_are_all_counted,
            of_many_that_spend_one_row_one_succeeds,
            records_are_contiguous_and_hash_to_the_reference_root,
            a_page_of_records_ends_when_it_has_enough_bytes,
            stored_nodes_prove_inclusion_and_consistency,
            logs_of_tenants_are_apart,
            what_is_pruned_is_gone_and_the_tree_is_as_it_was,
            nothing_is_pruned_untold_twice_or_ahead,
            a_prune_whose_guard_does_not_hold_drops_nothing,
            a_watch_shows_what_changed_and_then_what_changes,
            a_watch_resumes_after_the_last_revision_seen,
            a_watch_that_fell_behind_is_caught_up,
            whoever_does_not_wait_is_told_when_there_is_no_more,
            a_watch_ends_with_the_store,
            a_failed_sync_stops_the_store,
            what_a_failed_sync_kept_is_there_after_a_restart,
            a_crash_before_the_write_leaves_nothing,
            a_crash_after_the_write_leaves_everything,
            a_restart_keeps_everything,
            a_raised_epoch_stays_raised,
            an_orderly_end_answers_that_it_ended,
        }
    };
    ($backend:ty: $($behaviour:ident,)+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                $crate::contract::$behaviour::<$backend>().await;
            }
        )+
    };
}
pub(crate) use contract;

pub(crate) fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

/// A session's key that orders by the number.
pub(crate) fn key(number: u64) -> Key {
    Key::session(&acme(), &session(number))
}

pub(crate) fn session(number: u64) -> SessionId {
    SessionId::from_bytes(u128::from(number).to_be_bytes())
}

pub(crate) fn create(number: u64, value: &str) -> Commit {
    Commit::new(acme()).create(key(number), value.to_owned())
}

pub(crate) fn replace(number: u64, read: Revision, value: &str) -> Commit {
    Commit::new(acme()).replace(key(number), read, value.to_owned())
}

pub(crate) async fn done(kernel: &impl Kernel, commit: Commit) -> Committed {
    kernel.commit(commit).await.unwrap()
}

/// The value of a row as text.
pub(crate) async fn value(kernel: &impl Kernel, number: u64) -> Option<String> {
    let row = kernel.get(&key(number)).await.unwrap();
    row.map(|row| String::from_utf8(row.value.to_vec()).unwrap())
}
