//! Publishes a log: tiles first, then the checkpoint that covers them.
//!
//! Everything comes from durable state, so no head is published before it is durable; and a head that is published is never
//! followed by one that is behind it, or that does not continue it (I9).

use std::path::Path;
use std::sync::Arc;

use countersign_audit::{CheckpointError, NodeId, NoteSignature, SignedCheckpoint, TILE_WIDTH, TileId, tiles_between};
use countersign_core::TenantId;
use countersign_engine::{Engine, Error, LogStanding};
use countersign_store::RocksKernel;

use super::directory::TileDirectory;
use super::witnesses::{Asked, WitnessClient};
use crate::http::metrics::{LOG_PUBLISHED, WITNESS_TOTAL};

/// How often is told how far a long catching up is, in tiles.
const TELL_EVERY: u64 = 1_000;

/// Why nothing was published. What was published before stays.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The log cannot be read.
    #[error(transparent)]
    Engine(#[from] Error),
    /// The directory cannot be written or read.
    #[error("cannot write the tiles: {0}")]
    Io(#[from] std::io::Error),
    /// What is there is not of this log.
    #[error(
        "the `checkpoint` that is there is none of this log ({0}): name a directory of its own, or move away what is there"
    )]
    NotOurs(CheckpointError),
    /// What is there is more than this log has: it was restored from an older copy.
    #[error(
        "a checkpoint of {published} records was published, and the log has {size}: it was restored from an older copy, and its \
         history is another one from now on. Nothing is published. Keep the directory as it is, tell those who rely on it, and name \
         another one"
    )]
    Behind {
        /// The size that was published.
        published: u64,
        /// The size of the log.
        size: u64,
    },
    /// What is there has another history.
    #[error(
        "the checkpoint of {published} records that was published is none of this log's history: the log was restored from an older \
         copy, or changed. Nothing is published. Keep the directory as it is, and compare the two"
    )]
    Fork {
        /// The size that was published.
        published: u64,
    },
    /// Too few witnesses cosigned.
    #[error(
        "{got} of {needed} witnesses cosigned the checkpoint of {size} records; it waits, and decisions do not: {problems}"
    )]
    Quorum {
        /// How many did.
        got: usize,
        /// How many must.
        needed: usize,
        /// The size.
        size: u64,
        /// Why the others did not.
        problems: String,
    },
    /// A signed note cannot be made.
    #[error("cannot add the cosignatures: {0}")]
    Note(CheckpointError),
    /// A task broke off.
    #[error("writing tiles broke off")]
    BrokeOff,
}

/// Publishes one tenant's log.
#[derive(Debug)]
pub struct Publisher {
    engine: Arc<Engine<RocksKernel>>,
    directory: TileDirectory,
    witnesses: Vec<WitnessClient>,
    /// How many must have cosigned before a checkpoint is published.
    quorum: usize,
    /// What others can see.
    published: Option<SignedCheckpoint>,
    /// Up to where tiles are written. Beyond what is published, they are written once more after a restart.
    written: u64,
    opened: bool,
}

impl Publisher {
    pub fn new(
        engine: Arc<Engine<RocksKernel>>,
        directory: TileDirectory,
        witnesses: Vec<WitnessClient>,
        quorum: usize,
    ) -> Self {
        Self { engine, directory, witnesses, quorum, published: None, written: 0, opened: false }
    }

    /// Whose log it is.
    pub fn tenant(&self) -> &TenantId {
        self.engine.tenant()
    }

    /// Where it is published.
    pub fn directory(&self) -> &Path {
        self.directory.root()
    }

    /// Publishes the log as it is now, if it has grown; answers the size that others can see.
    ///
    /// # Errors
    /// [`PublishError`]. It can be called again.
    pub async fn publish(&mut self) -> Result<u64, PublishError> {
        let before = self.published().await?;
        let head = self.engine.head().await?;
        let size = head.note.unverified().size();
        if let Some(published) = &self.published {
            let at = published.unverified();
            match self.engine.standing_to(at, size).await? {
                LogStanding::Continues => {}
                LogStanding::Behind => return Err(PublishError::Behind { published: at.size(), size }),
                LogStanding::Forked => return Err(PublishError::Fork { published: at.size() }),
            }
        }
        if size == before && self.published.is_some() {
            return Ok(size);
        }
        self.write(self.written.max(before), size).await?;
        self.written = size;
        let note = self.cosigned(before, head.note).await?;
        let (directory, text) = (self.directory.clone(), note.to_string());
        blocking(move || directory.publish(&text)).await?;
        self.tell(note);
        Ok(size)
    }

    /// The size that others can see. Looked up once: nobody else writes there.
    async fn published(&mut self) -> Result<u64, PublishError> {
        if !self.opened {
            let directory = self.directory.clone();
            if let Some(note) = blocking(move || directory.checkpoint()).await? {
                let note = SignedCheckpoint::parse(&note).map_err(PublishError::NotOurs)?;
                let key = self.engine.log_verifier();
                note.verify(key.name(), std::slice::from_ref(key)).map_err(PublishError::NotOurs)?;
                self.tell(note);
            }
            self.opened = true;
        }
        Ok(self.published.as_ref().map_or(0, |note| note.unverified().size()))
    }

    fn tell(&mut self, note: SignedCheckpoint) {
        #[allow(clippy::cast_precision_loss, reason = "a gauge is a double")]
        metrics::gauge!(LOG_PUBLISHED, "tenant" => self.engine.tenant().to_string())
            .set(note.unverified().size() as f64);
        self.engine.tell_published(note.clone());
        self.published = Some(note);
    }

    /// Writes what a log of `new` records has and one of `old` has not, tile by tile: however much it is, there is one tile and
    /// its records in memory.
    async fn write(&self, old: u64, new: u64) -> Result<(), PublishError> {
        // Of records that were dropped there are the hashes, and no entries (C2SP tlog-tiles, Pruning).
        let minimum = self.engine.minimum_index().await?;
        for (count, tile) in (1_u64..).zip(tiles_between(old, new)) {
            let ids: Vec<NodeId> = tile.nodes().collect();
            let hashes = self.engine.log_hashes(&ids).await?;
            let dropped = tile.level() == 0 && tile.start() < minimum;
            let records = if tile.level() == 0 && !dropped { Some(self.records(tile).await?) } else { None };
            let directory = self.directory.clone();
            blocking(move || {
                if let Some(records) = records.filter(|records| !records.is_empty()) {
                    directory.write_entries(tile, &records)?;
                }
                directory.write_tile(tile, &hashes)?;
                // The full one serves for those that it replaces. Whatever there are, from this life or one before, go; but the only
                // copy of records that were dropped stays.
                if tile.is_full() && !dropped { directory.remove_partial(tile) } else { Ok(()) }
            })
            .await?;
            if count.is_multiple_of(TELL_EVERY) {
                let (records, of) = (tile.start(), new);
                tracing::info!(tenant = %self.engine.tenant(), level = tile.level(), records, of, "writing tiles");
            }
        }
        Ok(())
    }

    /// The records of a tile.
    async fn records(&self, tile: TileId) -> Result<Vec<bytes::Bytes>, PublishError> {
        let (mut next, end) = (tile.start(), tile.start().saturating_add(tile.width().into()));
        let mut records = Vec::new();
        while next < end {
            let limit = usize::try_from(end.saturating_sub(next).min(TILE_WIDTH)).unwrap_or(usize::MAX);
            let page = self.engine.log_records(next, limit).await?;
            if page.is_empty() {
                return Err(Error::Internal(format!("record {next} of the log is not there")).into());
            }
            for (index, record) in page {
                records.push(record);
                next = index.saturating_add(1);
            }
        }
        Ok(records)
    }

    /// The checkpoint with what the witnesses say of it. They are asked all at once, each within its own time.
    async fn cosigned(&mut self, before: u64, note: SignedCheckpoint) -> Result<SignedCheckpoint, PublishError> {
        let asking = self.witnesses.iter_mut().map(|witness| witness.cosign(&self.engine, before, &note));
        let (mut lines, mut problems) = (Vec::<NoteSignature>::new(), Vec::new());
        for Asked { name, answer } in futures::future::join_all(asking).await {
            let tenant = self.engine.tenant().to_string();
            let result = if answer.is_ok() { "cosigned" } else { "failed" };
            metrics::counter!(WITNESS_TOTAL, "tenant" => tenant, "witness" => name.clone(), "result" => result)
                .increment(1);
            match answer {
                Ok(line) => lines.push(line),
                Err(error) => {
                    tracing::warn!(witness = name, %error, tenant = %self.engine.tenant(), "a witness did not cosign");
                    problems.push(format!("`{name}`: {error}"));
                }
            }
        }
        if lines.len() < self.quorum {
            let (got, needed, size) = (lines.len(), self.quorum, note.unverified().size());
            return Err(PublishError::Quorum { got, needed, size, problems: problems.join("; ") });
        }
        note.with_signatures(lines).map_err(PublishError::Note)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, PublishError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| PublishError::BrokeOff)??)
}
