//! The data directory: made once, opened at each start, and restored from a copy.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_audit::NoteVerifier;
use countersign_core::time::SystemClock;
use countersign_core::{Clock as _, TenantId};
use countersign_engine::{Restoring, newest_key, renounce};
use countersign_store::{
    Config as StoreConfig, FileHead, HeadKeeper, Kernel as _, KnownHead, Mode, OutsideHead, RocksKernel, copy_store,
};
use countersign_token::KeyId;

use super::{WiringError, beside, os};
use crate::config::Config;
use crate::custody::{copy_tree, create_private};
use crate::head::CommandHead;
use crate::keystore::{self, KeyCipher};

/// Where a restore works until all of it is there.
const RESTORING: &str = "restoring";

pub(super) fn store_path(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// How the store of a configuration is opened.
fn store_config(config: &Config, begin: bool) -> StoreConfig {
    let mode = if config.is_development() { Mode::Development } else { Mode::Production };
    let head = &config.head;
    let keeper: Option<Arc<dyn HeadKeeper>> = match (&head.file, &head.command) {
        (Some(file), _) => Some(Arc::new(FileHead::new(file.clone()))),
        (None, Some(command)) => Some(Arc::new(CommandHead::new(command.clone()))),
        (None, None) => None,
    };
    let outside = keeper.map(|keeper| OutsideHead { keeper, every: head.every(), begin });
    StoreConfig { outside, ..StoreConfig::new(mode) }
}

/// Opens the store that is there. Only a development server makes one by itself: in production, one that is not there is one
/// that was lost, or a wrong directory.
pub(super) async fn open_store(config: &Config) -> Result<RocksKernel, WiringError> {
    let (data_dir, settings) = (config.server.data_dir.clone(), store_config(config, false));
    let development = config.is_development();
    blocking(move || {
        let path = store_path(&data_dir);
        if development {
            create_private(&data_dir).map_err(os("cannot make the data directory"))?;
            // A store is made where keys are not: keys without a store are what is left of one that was lost.
            if !path.exists() && !data_dir.join("keys").exists() {
                return Ok(RocksKernel::create(&path, &settings)?);
            }
        }
        if !path.exists() && data_dir.join(RESTORING).exists() {
            return Err(refused("a restore was interrupted here; run `countersign restore` again"));
        }
        Ok(RocksKernel::open(&path, &settings)?)
    })
    .await
}

/// Makes the data directory of a new service: store, stamp, keys, and the head that is kept outside. With `begin_head`, only the
/// latter, for a store that is there and had none so far.
///
/// # Errors
/// [`WiringError`]. What is there already is not changed.
pub async fn init(config: &Config, begin_head: bool) -> Result<(), WiringError> {
    let cipher = KeyCipher::configured(&config.keys)?;
    let (data_dir, settings) = (config.server.data_dir.clone(), store_config(config, begin_head));
    let tenants: Vec<_> =
        config.tenants.iter().map(|(name, tenant)| (name.clone(), tenant.log_origin.clone())).collect();
    blocking(move || {
        let path = store_path(&data_dir);
        if begin_head {
            let Some(outside) = &settings.outside else {
                return Err(refused("no head is configured; name a `head.file` or a `head.command`"));
            };
            let unreadable = |error| WiringError::Os { what: "cannot read the head", reason: format!("{error}") };
            if outside.keeper.read().map_err(unreadable)?.is_some() {
                return Err(refused(
                    "the head was begun before; if it refuses the store, `countersign restore` says why",
                ));
            }
            RocksKernel::open(&path, &settings)?.shutdown();
            return Ok(());
        }
        if path.exists() || data_dir.join("keys").exists() || data_dir.join(RESTORING).exists() {
            return Err(WiringError::Os {
                what: "there is a service already, or what is left of one",
                reason: format!("in `{}`; name another data directory", data_dir.display()),
            });
        }
        create_private(&data_dir).map_err(os("cannot make the data directory"))?;
        let made = || -> Result<(), WiringError> {
            let kernel = RocksKernel::create(&path, &settings)?;
            for (tenant, origin) in tenants {
                keystore::open(&data_dir, &tenant, &origin, true, &cipher)?;
            }
            kernel.shutdown();
            Ok(())
        };
        made().inspect_err(|_| {
            // Neither was there before. Half a service is one that neither this nor `serve` would accept.
            for part in [path.clone(), data_dir.join("keys")] {
                if let Err(error) = fs::remove_dir_all(&part)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %part.display(), %error, "cannot remove what was begun");
                }
            }
        })
    })
    .await
}

/// What a restore led to.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    /// The epoch from now on.
    pub epoch: u64,
    /// The revision that the copy had.
    pub revision: u64,
    /// The newest revision that the head outside knows of, if there is one.
    pub acknowledged: Option<u64>,
    /// How many sessions were open in the copy, and are ended.
    pub sessions: u64,
}

/// Restores a backup, or the data directory of a server that has ended, into a data directory that is empty. Everything that
/// was handed out before is dead afterwards (I11). The data directory has no store until all of it is done.
///
/// # Errors
/// [`WiringError`]. It can be tried again.
pub async fn restore(config: &Config, from: &Path, keys: Option<&Path>) -> Result<Restored, WiringError> {
    let (data_dir, from) = (config.server.data_dir.clone(), from.to_owned());
    let keys = keys.map_or_else(|| from.join("keys"), Path::to_owned);
    let cipher = KeyCipher::configured(&config.keys)?;
    let (target, settings) = (data_dir.clone(), StoreConfig { restored: true, ..store_config(config, false) });
    let (kernel, known) = blocking(move || {
        stage(&target, &from, &keys)?;
        let unreadable = |error| WiringError::Os { what: "cannot read the head outside", reason: format!("{error}") };
        let known = settings.outside.as_ref().map(|outside| outside.keeper.read().map_err(unreadable)).transpose()?;
        Ok((Arc::new(RocksKernel::open(&store_path(&target.join(RESTORING)), &settings)?), known.flatten()))
    })
    .await?;
    let staging = data_dir.join(RESTORING);
    let failed = |error: countersign_store::StoreError| WiringError::Os {
        what: "cannot read the copy",
        reason: error.to_string(),
    };
    let (revision, epoch) = (kernel.found().get(), kernel.epoch());
    let acknowledged = known.as_ref().map(|known| known.revision.get());
    let mut restored = Restored { epoch, revision, acknowledged, sessions: 0 };
    let restoring = Restoring { epoch, revision, acknowledged };
    let clock = SystemClock::default();
    for tenant in kernel.logs().await.map_err(failed)? {
        continues(config, &staging, &kernel, known.as_ref(), &tenant).await?;
        let engine = |source| WiringError::Engine { tenant: tenant.clone(), source };
        let newest = newest_key(Arc::clone(&kernel), &tenant).await.map_err(engine)?;
        let key = keystore::make_signing_key(&staging, &tenant, KeyId(newest.saturating_add(1)), &cipher)?;
        let ended = renounce(Arc::clone(&kernel), &tenant, &key, restoring, clock.wall()).await.map_err(engine)?;
        restored.sessions = restored.sessions.saturating_add(ended);
        if let Some(settings) = config.tenants.get(&tenant) {
            // Whatever does not open is found now, and not when nothing else is left.
            keystore::open(&staging, &tenant, &settings.log_origin, false, &cipher)?;
        }
    }
    let settings = store_config(config, true);
    blocking(move || {
        kernel.shutdown();
        drop(kernel);
        let (moving, syncing) =
            (os("cannot move what was restored to its place"), os("cannot sync the data directory"));
        let put = || -> std::io::Result<()> {
            // The store comes last: without it, nothing is served.
            for part in ["checkpoints", "keys", "store"] {
                if staging.join(part).exists() {
                    fs::rename(staging.join(part), data_dir.join(part))?;
                }
            }
            fs::remove_dir_all(&staging)
        };
        put().map_err(moving)?;
        fs::File::open(&data_dir).and_then(|dir| dir.sync_all()).map_err(syncing)?;
        // From here on the head outside is this store's, and the old one's no more.
        RocksKernel::open(&store_path(&data_dir), &settings)?.shutdown();
        Ok(restored)
    })
    .await
}

/// Copies everything to where it is worked on. What an earlier attempt left is removed.
fn stage(data_dir: &Path, from: &Path, keys: &Path) -> Result<(), WiringError> {
    let staging = data_dir.join(RESTORING);
    let begun = staging.exists();
    let occupied = fs::read_dir(data_dir).is_ok_and(|mut entries| entries.next().is_some());
    if store_path(data_dir).exists() || (occupied && !begun) {
        return Err(WiringError::Os {
            what: "a copy is restored into an empty data directory only",
            reason: format!("`{}` is not empty; move what is there out of the way, and keep it", data_dir.display()),
        });
    }
    if begun {
        for part in ["checkpoints", "keys", RESTORING] {
            match fs::remove_dir_all(data_dir.join(part)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(os("cannot remove what an earlier restore left")(error));
                }
                Ok(()) | Err(_) => {}
            }
        }
    }
    create_private(data_dir).map_err(os("cannot make the data directory"))?;
    create_private(&staging).map_err(os("cannot make the data directory"))?;
    copy_store(&store_path(from), &store_path(&staging))?;
    if !keys.exists() {
        return Err(refused("there are no keys in the copy; name the directory `keys` of the service with `--keys`"));
    }
    let has_key = |entry: std::io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.path().join("log.key").exists());
    if !fs::read_dir(keys).map_err(os("cannot read the keys"))?.any(has_key) {
        return Err(refused(&format!(
            "there are no private keys below `{}` (`TENANT/log.key`); name a copy of the service's directory `keys` with `--keys`",
            keys.display()
        )));
    }
    let copying = os("cannot copy the keys");
    copy_tree(keys, &staging.join("keys"), &|_| true).map_err(copying)?;
    let checkpoints = from.join("checkpoints");
    if checkpoints.exists() {
        copy_tree(&checkpoints, &staging.join("checkpoints"), &|_| true).map_err(os("cannot copy the heads"))?;
    }
    Ok(())
}

/// That the log may go on under its name: no head that was published under it is ahead of what is there (I9). Otherwise it needs
/// another name, under which what is there is published anew.
async fn continues(
    config: &Config,
    staging: &Path,
    kernel: &RocksKernel,
    known: Option<&KnownHead>,
    tenant: &TenantId,
) -> Result<(), WiringError> {
    let Some(settings) = config.tenants.get(tenant) else { return Ok(()) };
    let published: NoteVerifier = keystore::log_verifier(staging, tenant)?;
    let renamed = published.name() != settings.log_origin;
    let size = kernel.log_size(tenant).await;
    let size = size.map_err(|error| WiringError::Os { what: "cannot read the copy", reason: error.to_string() })?;
    let seen = known.and_then(|known| known.logs.get(tenant)).map_or(0, |(size, _)| *size);
    // So does the head in the copy: a store that lost its end comes with one.
    let seen = seen.max(beside::kept(staging, tenant, &published)?.map_or(0, |head| head.size()));
    if seen > size && !renamed {
        return Err(WiringError::Os {
            what: "the log cannot go on under its name",
            reason: format!(
                "heads up to {seen} records of the log of `{tenant}` may be published, and the copy has {size}; give it \
                 another name as `tenants.{tenant}.log_origin`, and keep `{}` as the old one's",
                published
            ),
        });
    }
    if renamed {
        // Under the new name no head was published, so none is gone back on.
        let old = staging.join("keys").join(tenant.as_str()).join("log.pub");
        fs::remove_file(old).map_err(os("cannot give the log its new name"))?;
    }
    Ok(())
}

fn refused(reason: &str) -> WiringError {
    WiringError::Os { what: "refused", reason: reason.to_owned() }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WiringError> + Send + 'static,
) -> Result<T, WiringError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| WiringError::Os { what: "cannot open the store", reason: e.to_string() })?
}
