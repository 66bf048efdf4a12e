//! The newest head of each log, signed and kept beside the store, for offline checks.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use countersign_audit::{Checkpoint, NoteVerifier, SignedCheckpoint};
use countersign_core::TenantId;
use countersign_engine::{Engine, LogStanding};
use countersign_store::RocksKernel;

use super::{WiringError, os};
use crate::keystore;

/// Where the head of a tenant's log is.
pub(super) fn path(data_dir: &Path, tenant: &TenantId) -> PathBuf {
    data_dir.join("checkpoints").join(tenant.as_str())
}

/// The head that is kept, if one is under the name of that key. One of another name is of a log that ended under it.
pub(super) fn kept(data_dir: &Path, tenant: &TenantId, key: &NoteVerifier) -> Result<Option<Checkpoint>, WiringError> {
    let path = path(data_dir, tenant);
    let note = match std::fs::read(&path) {
        Ok(note) => note,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(os("cannot read the head of the log")(error)),
    };
    let refused = |error| WiringError::Head {
        path: path.clone(),
        reason: format!("{error}; keep it, and move it out of the way"),
    };
    let note = SignedCheckpoint::parse(&note).map_err(refused)?;
    if note.unverified().origin() != key.name() {
        return Ok(None);
    }
    note.verify(key.name(), std::slice::from_ref(key)).map(|head| Some(head.clone())).map_err(refused)
}

/// That the log continues the head that is kept: one that was published is never followed by one that is behind it, or of another
/// history (I9).
pub(super) async fn continues(engine: &Engine<RocksKernel>, data_dir: &Path) -> Result<(), WiringError> {
    let tenant = engine.tenant();
    let Some(kept) = kept(data_dir, tenant, engine.log_verifier())? else { return Ok(()) };
    let failed = |source| WiringError::Engine { tenant: tenant.clone(), source };
    let size = engine.head().await.map_err(failed)?.note.unverified().size();
    let reason = match engine.standing_to(&kept, size).await.map_err(failed)? {
        LogStanding::Continues => return Ok(()),
        LogStanding::Behind => format!(
            "it is of {} records, and the log has {size}: the store is an older copy, and what was spent since may be spent again; restore it, or a \
             newer backup, with `countersign restore`",
            kept.size()
        ),
        LogStanding::Forked => format!(
            "its {} records are none of this log's history: the store is another one; restore the right one, or a backup, with `countersign \
             restore`",
            kept.size()
        ),
    };
    Err(WiringError::Head { path: path(data_dir, tenant), reason })
}

/// Writes the head as it is now.
pub(super) async fn publish(engine: &Engine<RocksKernel>, data_dir: &Path) -> Result<(), String> {
    let head = engine.head().await.map_err(|e| e.to_string())?;
    let path = path(data_dir, engine.tenant());
    let note = head.note.to_string();
    let write = move || {
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        keystore::write_atomically(&path, note.as_bytes(), 0o644)
    };
    tokio::task::spawn_blocking(write).await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}
