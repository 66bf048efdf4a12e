//! The rows of what stays of what was done.

use countersign_core::TenantId;
use countersign_core::ledger::{Ledger, Subject};

use crate::error::StoreError;
use crate::kernel::Kernel;
use crate::layout::{Key, Kind};
use crate::repository::{Repository, Stored, Value};

impl Value for Ledger {
    const KIND: Kind = Kind::Ledger;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::ledger(tenant, &self.subject)
    }
}

impl<K: Kernel> Repository<K> {
    /// What stays of what a subject did.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ledger(&self, subject: &Subject) -> Result<Option<Stored<Ledger>>, StoreError> {
        self.read(&Key::ledger(self.tenant(), subject)).await
    }
}
