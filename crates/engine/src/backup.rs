//! A backup of the store, for whom the `takeBackup` policies permit it. Where it goes, and what is in it, is not known here.

use countersign_policy::AdminAction;
use countersign_store::{Commit, Kernel};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::ask::require_request_id;
use crate::engine::{Call, Engine, Replayable, Scene, tenant_entity};
use crate::error::Error;
use crate::record::Event;

/// A backup that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Where it lies, on the server's machine.
    pub path: String,
    /// The revision that it holds.
    pub revision: u64,
    /// Whether the key files are in it.
    pub keys: bool,
}

impl<K: Kernel> Engine<K> {
    /// Has a backup made, and records it. `make` is called once at most, and only for a caller who may.
    ///
    /// # Errors
    /// [`Error::AdministrationDenied`], and those of `make`.
    pub async fn back_up<F>(
        &self,
        call: &Call,
        name: &str,
        make: impl Fn() -> F + Send + Sync,
    ) -> Result<Replayable<Backup>, Error>
    where
        F: Future<Output = Result<Backup, Error>> + Send,
    {
        self.require(call, require_request_id(call)).await?;
        let (make, made) = (&make, &OnceCell::new());
        let attempt = |scene: Scene| async move {
            let scene = &scene;
            if let Some(backup) = self.replay::<Backup>(scene).await? {
                return Ok(Replayable::replayed(backup));
            }
            let tenant = tenant_entity(self.tenant())?;
            let permitted = self.administer(scene, AdminAction::TakeBackup { tenant: &tenant }, "takeBackup")?;
            let backup: &Backup = made.get_or_try_init(make).await?;
            let event = Event::BackedUp { backup: name, revision: backup.revision, determining: &permitted.policies };
            self.commit(scene, Commit::new(self.tenant().clone()), event, backup).await?;
            Ok(Replayable::fresh(backup.clone()))
        };
        self.settle(call, Some(name), attempt).await
    }
}
