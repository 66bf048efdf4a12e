//! The rows of heartbeats. They lie beside the sessions: a beat changes nothing that an action in the session guards.

use countersign_core::session::Heartbeat;
use countersign_core::{SessionId, TenantId};

use crate::error::StoreError;
use crate::kernel::Kernel;
use crate::layout::{Key, Kind};
use crate::repository::{Repository, Stored, Value};

impl Value for Heartbeat {
    const KIND: Kind = Kind::Heartbeat;
    fn key(&self, tenant: &TenantId) -> Key {
        Key::heartbeat(tenant, &self.session)
    }
}

impl<K: Kernel> Repository<K> {
    /// When a session with a heartbeat gave the last sign of life; absent before the first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn heartbeat(&self, session: SessionId) -> Result<Option<Stored<Heartbeat>>, StoreError> {
        self.read(&Key::heartbeat(self.tenant(), &session)).await
    }
}
