//! The log of a server, or of a data directory that no server has open, record by record.

use std::path::Path;

use countersign::proto::ListRecordsRequest;
use countersign_policy::{Bundle, Entities};
use countersign_store::StoreError;

use super::Failure;
use super::args::Connection;
use super::output::Output;
use super::question::BundleArgs;

/// Why reading a log ended early.
pub enum Stopped {
    /// What the records are given to says so.
    Taking(Failure),
    /// The store does not give them.
    Store(StoreError),
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

    /// Looks at every record, in order, with its index.
    pub async fn each(
        &self,
        connection: &Connection,
        output: &mut Output,
        mut look: impl FnMut(u64, &[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if let Some(dir) = self.data_dir {
            let unreadable = |error: &dyn std::fmt::Display| {
                Failure::new(format!("cannot read the log in `{}`: {error}", dir.display()))
            };
            for log in countersign::wiring::offline_logs(dir).map_err(|error| unreadable(&error))? {
                log.read(self.start, |index, content, _| {
                    look(index, content)?;
                    if index.is_multiple_of(1_000) {
                        output.progress(&format!("{index} records"));
                    }
                    Ok(())
                })
                .map_err(|error: Stopped| match error {
                    Stopped::Taking(failure) => failure,
                    Stopped::Store(error) => unreadable(&error),
                })?;
            }
            return Ok(());
        }
        let client = connection.client().await?;
        let mut request = ListRecordsRequest { start: self.start, page_size: 1_000, page_token: String::new() };
        loop {
            let page = client.list_records(request).await?;
            for record in &page.records {
                look(record.index, &record.content)?;
            }
            if let Some(last) = page.records.last() {
                output.progress(&format!("{} records", last.index));
            }
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            request = ListRecordsRequest { start: 0, page_size: 1_000, page_token: page.next_page_token };
        }
    }
}
