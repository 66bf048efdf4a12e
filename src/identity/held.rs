//! The keys of one issuer as they are now, wherever they come from.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use countersign_core::Timestamp;

use super::error::CredentialError;
use super::keys::Keys;

/// The keys of one issuer. Read by every verification and never locked; replaced as a whole.
pub(super) struct KeySet(ArcSwap<Held>);

struct Held {
    keys: Option<Arc<Keys>>,
    /// When they are too old to be believed. Absent: never, because they lie here.
    until: Option<Timestamp>,
    /// Why there are no newer ones.
    failure: &'static str,
}

impl KeySet {
    /// Keys that hold until they are replaced.
    pub(super) fn of(keys: Keys) -> Self {
        Self(ArcSwap::from_pointee(Held { keys: Some(Arc::new(keys)), until: None, failure: "" }))
    }

    /// No keys yet, because of `failure`.
    pub(super) fn none(failure: &'static str) -> Self {
        Self(ArcSwap::from_pointee(Held { keys: None, until: None, failure }))
    }

    /// The keys to verify with.
    pub(super) fn usable(&self, now: Timestamp) -> Result<Arc<Keys>, CredentialError> {
        let held = self.0.load();
        match &held.keys {
            Some(keys) if held.until.is_none_or(|until| !now.reached(until)) => Ok(Arc::clone(keys)),
            Some(_) | None => Err(CredentialError::IssuerUnavailable(held.failure)),
        }
    }

    /// Whether what was verified by `keys` still is: they are the ones in use, and not too old.
    pub(super) fn still(&self, keys: &Weak<Keys>, now: Timestamp) -> bool {
        let held = self.0.load();
        // As long as there is a `Weak` to it, nothing else lies at the place.
        held.keys.as_ref().is_some_and(|held| std::ptr::eq(Arc::as_ptr(held), keys.as_ptr()))
            && held.until.is_none_or(|until| !now.reached(until))
    }

    /// Takes keys that were read or fetched, to hold until then. Answers whether they are others than before: the same ones
    /// stay the same, so that nothing has to be verified again.
    pub(super) fn take(&self, keys: Keys, until: Option<Timestamp>) -> bool {
        let held = self.0.load();
        let same = held.keys.as_ref().filter(|held| held.is_same_as(&keys)).map(Arc::clone);
        let changed = same.is_none();
        let keys = same.unwrap_or_else(|| Arc::new(keys));
        self.0.store(Arc::new(Held { keys: Some(keys), until, failure: "its keys were not fetched for too long" }));
        changed
    }

    /// Keeps what there is, and why there is nothing newer. Answers whether it can still be used.
    pub(super) fn keep(&self, failure: &'static str, now: Timestamp) -> bool {
        let held = self.0.load();
        self.0.store(Arc::new(Held { keys: held.keys.clone(), until: held.until, failure }));
        self.usable(now).is_ok()
    }
}
