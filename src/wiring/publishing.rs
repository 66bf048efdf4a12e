//! Publishing the logs: one publisher for each tenant, which nothing waits for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::TenantId;
use countersign_engine::Engine;
use countersign_store::RocksKernel;
use tokio::time::MissedTickBehavior;

use super::WiringError;
use crate::config::LogConfig;
use crate::tlog::{Publisher, TileDirectory, WitnessClient};

/// The publishers of these tenants' logs, if they are published.
pub(super) fn publishers(
    config: &LogConfig,
    engines: &[(Arc<Engine<RocksKernel>>, PathBuf)],
) -> Result<BTreeMap<TenantId, Publisher>, WiringError> {
    let Some(tiles) = &config.tiles else { return Ok(BTreeMap::new()) };
    let publisher = |(engine, _): &(Arc<Engine<RocksKernel>>, PathBuf)| {
        let witnesses: Result<Vec<WitnessClient>, String> = config.witnesses.iter().map(WitnessClient::new).collect();
        let witnesses = witnesses.map_err(|reason| WiringError::Os { what: "a witness cannot be asked", reason })?;
        let directory = TileDirectory::new(tiles.join(engine.tenant().as_str()));
        Ok((engine.tenant().clone(), Publisher::new(Arc::clone(engine), directory, witnesses, config.needed())))
    };
    engines.iter().map(publisher).collect()
}

/// Publishes a log whenever it has grown. What cannot be published is told once for each reason, and tried again.
pub(super) async fn publish_log(mut publisher: Publisher, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        ticks.tick().await;
        match publisher.publish().await {
            Ok(_) => told.clear(),
            Err(error) => {
                let error = error.to_string();
                if error != told {
                    tracing::error!(%error, tenant = %publisher.tenant(), directory = %publisher.directory().display(), "the log is not published");
                }
                told = error;
            }
        }
    }
}
