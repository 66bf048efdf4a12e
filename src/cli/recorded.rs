//! The log of a server, or of a data directory that no server has open, record by record.

use std::path::Path;

use countersign::client::{Client, ClientError};
use countersign::proto::{ErrorReason, GetCheckpointRequest, ListRecordsRequest};
use countersign::tlog::{ArchiveError, archived};
use countersign_audit::{Frontier, leaf_hash};
use countersign_policy::{Bundle, Entities};
use countersign_store::StoreError;

use super::Failure;
use super::args::Connection;
use super::logcheck::server_head_at;
use super::output::Output;
use super::question::BundleArgs;

/// Why reading a log ended early.
pub enum Stopped {
    /// What the records are given to says so.
    Taking(Failure),
    /// The store does not give them.
    Store(StoreError),
    /// The copy does not.
    Copy(ArchiveError),
}

impl From<ArchiveError> for Stopped {
    fn from(error: ArchiveError) -> Self {
        Self::Copy(error)
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Taking(failure)
    }
}

impl From<StoreError> for Stopped {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Where records are read from.
#[derive(Debug, Clone, Copy)]
pub struct Log<'a> {
    /// A data directory; otherwise a server.
    pub data_dir: Option<&'a Path>,
    /// The first record to look at, by its index.
    pub start: u64,
    /// A copy of those that were dropped; without, they are passed over, and that is said.
    pub archive: Option<&'a Path>,
}

impl Log<'_> {
    /// What was said to lie in the store, or lies in that of the server. Beside a data directory, it is what the scenarios have.
    pub async fn stored(
        &self,
        args: &BundleArgs,
        bundle: &Bundle,
        connection: &Connection,
    ) -> Result<Entities, Failure> {
        match self.data_dir {
            Some(_) => args.stored(bundle),
            None => args.stored_now(bundle, connection).await,
        }
    }

    /// Looks at every record, in order, with its index; answers the first index.
    pub async fn each(
        &self,
        connection: &Connection,
        output: &mut Output,
        mut look: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
    ) -> Result<u64, Failure> {
        if let Some(dir) = self.data_dir {
            let unreadable = |error: &dyn std::fmt::Display| {
                Failure::new(format!("cannot read the log in `{}`: {error}", dir.display()))
            };
            let mut first = self.start;
            for log in countersign::wiring::offline_logs(dir).map_err(|error| unreadable(&error))? {
                let minimum = log.minimum_index().map_err(|error| unreadable(&error))?;
                first = first.max(minimum);
                if self.start < minimum {
                    passed_over(minimum, output);
                }
                log.read(self.start.max(minimum), |index, content, _| {
                    look(index, content)?;
                    if index.is_multiple_of(1_000) {
                        output.progress(&format!("{index} records"));
                    }
                    Ok(())
                })
                .map_err(|error: Stopped| match error {
                    Stopped::Taking(failure) => failure,
                    Stopped::Store(error) => unreadable(&error),
                    Stopped::Copy(error) => unreadable(&error),
                })?;
            }
            return Ok(first);
        }
        let client = connection.client().await?;
        let (first, start) = match self.archive {
            Some(dir) => {
                let minimum = client.get_checkpoint(GetCheckpointRequest::default()).await?.minimum_index;
                let mut edge = Frontier::empty();
                let read = archived(dir, 0, minimum, |index, content| {
                    edge.append(leaf_hash(content));
                    if index >= self.start { Ok(look(index, content)?) } else { Ok(()) }
                });
                read.map_err(|error: Stopped| match error {
                    Stopped::Taking(failure) => failure,
                    Stopped::Copy(error) => copy_failed(dir, &error),
                    Stopped::Store(error) => Failure::new(error.to_string()),
                })?;
                is_of(&client, dir, &edge).await?;
                (self.start, self.start.max(minimum))
            }
            None => {
                let start = first_kept(&client, self.start, output).await?;
                (start, start)
            }
        };
        let mut request = ListRecordsRequest { start, page_size: 1_000, page_token: String::new() };
        loop {
            let page = client.list_records(request).await?;
            for record in &page.records {
                look(record.index, &record.content)?;
            }
            if let Some(last) = page.records.last() {
                output.progress(&format!("{} records", last.index));
            }
            if page.next_page_token.is_empty() {
                return Ok(first);
            }
            request = ListRecordsRequest { start: 0, page_size: 1_000, page_token: page.next_page_token };
        }
    }
}

/// That the records of a copy are those that the server dropped.
async fn is_of(client: &Client, dir: &Path, edge: &Frontier) -> Result<(), Failure> {
    let size = edge.size();
    if size == 0 {
        return Ok(());
    }
    let (head, _) = server_head_at(client, None, size).await?;
    if head.size() == size && *head.root() == edge.root() {
        return Ok(());
    }
    Err(Failure::new(format!("the copy in `{}` is of another log, or was changed", dir.display()))
        .reason("ARCHIVE_REFUSED")
        .hint("`countersign audit verify --tiles DIR` says more; keep the copy as it is, and use another one"))
}

/// The first record from `start` on that a server has, and that those before it are passed over.
pub async fn first_kept(client: &Client, start: u64, output: &mut Output) -> Result<u64, Failure> {
    let minimum = client.get_checkpoint(GetCheckpointRequest::default()).await?.minimum_index;
    if start < minimum {
        passed_over(minimum, output);
    }
    Ok(start.max(minimum))
}

fn passed_over(minimum: u64, output: &mut Output) {
    output.remark(&format!(
        "the records before {minimum} were dropped, and are not looked at: see `countersign audit search --kind log_pruned`"
    ));
}

/// The records of an index from a copy.
pub fn one_archived(dir: &Path, index: u64) -> Result<Vec<u8>, Failure> {
    let mut found = None;
    let read = archived(dir, index, index.saturating_add(1), |_, content| {
        found = Some(content.to_vec());
        Ok::<_, ArchiveError>(())
    });
    read.map_err(|error| copy_failed(dir, &error))?;
    found.ok_or_else(|| copy_failed(dir, &ArchiveError::Missing(index)))
}

/// What is wrong with a copy.
pub fn copy_failed(dir: &Path, error: &ArchiveError) -> Failure {
    Failure::new(format!("the copy in `{}`: {error}", dir.display())).reason("ARCHIVE_REFUSED")
}

/// Whether a server refused for this reason.
pub fn is(error: &ClientError, reason: ErrorReason) -> bool {
    error.refusal().is_some_and(|refusal| refusal.reason() == Some(reason))
}
