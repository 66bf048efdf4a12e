//! Faults on demand, so that tests of crashes and failed syncs need no luck.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What happens in place of a write and its sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The sync reports a failure, and nothing was written.
    SyncFails,
    /// The sync reports a failure, and everything is there after a restart all the same.
    SyncFailsButKept,
    /// The process dies before it writes.
    CrashBefore,
    /// The process dies when the write is durable, before anyone is answered.
    CrashAfter,
}

/// A handle on the faults of one store. Clones are the same handle; the default one never fails.
#[doc(hidden)]
#[derive(Debug, Clone, Default)]
pub struct FailPoint(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    armed: Mutex<Option<(u64, Fault)>>,
    held: Mutex<bool>,
    released: Condvar,
}

impl FailPoint {
    /// Lets the next write that reaches the disk meet this fault.
    pub fn arm(&self, fault: Fault) {
        self.arm_nth(1, fault);
    }

    /// Lets the `n`th write from now meet this fault; the first is 1.
    pub fn arm_nth(&self, n: u64, fault: Fault) {
        *lock(&self.0.armed) = Some((n, fault));
    }

    /// Keeps the writer from starting another group until the hold is dropped: what is sent meanwhile is one group.
    #[must_use]
    pub fn hold(&self) -> Hold {
        *lock(&self.0.held) = true;
        Hold(self.clone())
    }

    /// The fault that this write meets, if any.
    pub(crate) fn take(&self) -> Option<Fault> {
        let mut armed = lock(&self.0.armed);
        match *armed {
            Some((1, fault)) => {
                *armed = None;
                Some(fault)
            }
            Some((n, fault)) => {
                *armed = Some((n.saturating_sub(1), fault));
                None
            }
            None => None,
        }
    }

    /// Waits while the writer is held.
    pub(crate) fn wait(&self) {
        let mut held = lock(&self.0.held);
        while *held {
            held = self.0.released.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Holds the writer while it lives.
#[doc(hidden)]
#[derive(Debug)]
pub struct Hold(FailPoint);

impl Drop for Hold {
    fn drop(&mut self) {
        *lock(&self.0.0.held) = false;
        self.0.0.released.notify_all();
    }
}

/// Locks, whoever panicked while holding it: every value behind these locks is replaced as a whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
