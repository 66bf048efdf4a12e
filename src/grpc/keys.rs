//! `KeyService` and `BackupService`.

use std::sync::Arc;

use countersign_engine::{Error, KeyChange, KeysChanged, Replayable};
use countersign_token::KeyId;
use tonic::{Request, Response, Status};

use super::call::{Backend, Verified, to_its_end};
use super::errors::Failure;
use crate::custody::{Custody, PARTIAL};
use crate::proto::backup_service_server::BackupService;
use crate::proto::key_service_server::KeyService;
use crate::proto::{
    CreateBackupRequest, CreateBackupResponse, MarkKeyCompromisedRequest, MarkKeyCompromisedResponse, RetireKeyRequest,
    RetireKeyResponse, RotateKeyRequest, RotateKeyResponse,
};

/// Changes signing keys.
#[derive(Clone)]
pub struct SigningKeys(pub Backend, pub Arc<Custody>);

/// Has backups made.
#[derive(Clone)]
pub struct Backups(pub Backend, pub Arc<Custody>);

impl SigningKeys {
    async fn change(&self, verified: Verified, change: KeyChange) -> Result<Replayable<KeysChanged>, Failure> {
        let custody = Arc::clone(&self.1);
        let changed = to_its_end(async move {
            let Verified { engine, call, .. } = verified;
            let tenant = engine.tenant();
            let changed = engine.change_keys(&call, &change, |id| custody.make_signing_key(tenant, id)).await?;
            let KeysChanged { key, active, discard } = changed.answer;
            if discard {
                // Done again for a retry: the answer may have been lost with the process before the file was gone.
                custody.discard_signing_key(tenant, KeyId(key)).await?;
            }
            tracing::warn!(%tenant, key, active, ?change, replayed = changed.replayed, "signing keys changed");
            Ok(changed)
        });
        changed.await
    }
}

#[tonic::async_trait]
impl KeyService for SigningKeys {
    async fn rotate_key(&self, request: Request<RotateKeyRequest>) -> Result<Response<RotateKeyResponse>, Status> {
        let run = |verified: Verified, RotateKeyRequest { request_id: _ }: RotateKeyRequest| async move {
            let Replayable { answer, replayed } = self.change(verified, KeyChange::Rotate).await?;
            Ok(RotateKeyResponse { active_key_id: answer.active, retired_key_id: answer.key, replayed })
        };
        self.0.handle("RotateKey", request, |m| &m.request_id, run).await
    }

    async fn retire_key(&self, request: Request<RetireKeyRequest>) -> Result<Response<RetireKeyResponse>, Status> {
        let run = |verified: Verified, RetireKeyRequest { key_id, request_id: _ }: RetireKeyRequest| async move {
            let Replayable { answer, replayed } = self.change(verified, KeyChange::Retire(KeyId(key_id))).await?;
            Ok(RetireKeyResponse { active_key_id: answer.active, replayed })
        };
        self.0.handle("RetireKey", request, |m| &m.request_id, run).await
    }

    async fn mark_key_compromised(
        &self,
        request: Request<MarkKeyCompromisedRequest>,
    ) -> Result<Response<MarkKeyCompromisedResponse>, Status> {
        let run = |verified: Verified, message| async move {
            let MarkKeyCompromisedRequest { key_id, reason, request_id: _ } = message;
            let change = KeyChange::Compromised { key: KeyId(key_id), reason };
            let Replayable { answer, replayed } = self.change(verified, change).await?;
            Ok(MarkKeyCompromisedResponse { active_key_id: answer.active, replayed })
        };
        self.0.handle("MarkKeyCompromised", request, |m| &m.request_id, run).await
    }
}

#[tonic::async_trait]
impl BackupService for Backups {
    async fn create_backup(
        &self,
        request: Request<CreateBackupRequest>,
    ) -> Result<Response<CreateBackupResponse>, Status> {
        let run = |verified: Verified, CreateBackupRequest { name, request_id: _ }: CreateBackupRequest| async move {
            if !is_name(&name) {
                return Err(Failure::field(
                    "name",
                    "expected 1 to 64 letters, digits, `-`, `_` and `.`, a letter or digit first",
                ));
            }
            let custody = Arc::clone(&self.1);
            let made = to_its_end(async move {
                let Verified { engine, call, .. } = verified;
                let made = engine.back_up(&call, &name, || custody.back_up(&name)).await?;
                tracing::info!(tenant = %engine.tenant(), path = made.answer.path, replayed = made.replayed, "backed up");
                Ok::<_, Error>(made)
            });
            let Replayable { answer, replayed } = made.await?;
            Ok(CreateBackupResponse { path: answer.path, revision: answer.revision, keys: answer.keys, replayed })
        };
        self.0.handle("CreateBackup", request, |m| &m.request_id, run).await
    }
}

/// One step of a path that leads nowhere else.
fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        // What is not finished ends so.
        && !name.ends_with(PARTIAL)
}
