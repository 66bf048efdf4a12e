//! Finding the records about one action.

use std::collections::BTreeSet;
use std::path::Path;

use countersign::client::Client;
use countersign::evidence::{Gather, Lead};
use countersign::proto::{GetCheckpointRequest, Record, SearchRecordsRequest};
use countersign_core::visible::Visible;

use crate::cli::Failure;
use crate::cli::args::Connection;
use crate::cli::audit::search;
use crate::cli::output::Output;
use crate::cli::recorded::{Log, first_kept};

/// The indices of the records about a subject, ascending: by searches where there is something to search by, and otherwise by reading
/// all of the log, as also where a copy has a part of it.
pub async fn find(
    subject: &str,
    archive: Option<&Path>,
    connection: &Connection,
    output: &mut Output,
) -> Result<Vec<u64>, Failure> {
    let mut gather = Gather::default();
    match by_id(subject) {
        Some(first) if archive.is_none() => {
            let client = connection.client().await?;
            let kept = first_kept(&client, 0, output).await?;
            follow(&mut gather, subject, first, &client).await?;
            if client.get_checkpoint(GetCheckpointRequest::default()).await?.minimum_index > kept {
                return Err(Failure::new("records were dropped while they were searched")
                    .reason("RECORD_PRUNED")
                    .hint("export again"));
            }
        }
        Some(_) | None => {
            let log = Log { data_dir: None, start: 0, archive };
            let look = |index, content: &[u8]| {
                gather.record(index, content);
                Ok(())
            };
            log.each(connection, output, look).await?;
        }
    }
    let indices = gather.about(subject);
    if indices.is_empty() {
        return Err(Failure::new(format!("the log has nothing about `{}`", Visible::new(subject)))
            .hint("name a capability, an approval request or a decision"));
    }
    Ok(indices)
}

/// The search for what names an id, unless nothing is found by ids of its kind.
fn by_id(id: &str) -> Option<SearchRecordsRequest> {
    let any = SearchRecordsRequest::default();
    let id = id.to_owned();
    match id.split('_').next() {
        Some("cap") => Some(SearchRecordsRequest { capability_id: id, ..any }),
        Some("apr") => Some(SearchRecordsRequest { approval_id: id, ..any }),
        Some("rev") => Some(SearchRecordsRequest { review_id: id, ..any }),
        Some(_) | None => None,
    }
}

fn by(lead: &Lead) -> Option<SearchRecordsRequest> {
    let any = SearchRecordsRequest::default();
    match lead {
        Lead::Id(id) => by_id(id),
        Lead::Session(session) => Some(SearchRecordsRequest { session_id: session.clone(), ..any }),
        Lead::Bundle(bundle) => {
            Some(SearchRecordsRequest { bundle_digest: bundle.clone(), kind: "bundle_activated".to_owned(), ..any })
        }
    }
}

/// Searches by whatever the records lead to, until nothing is new.
async fn follow(
    gather: &mut Gather,
    subject: &str,
    first: SearchRecordsRequest,
    client: &Client,
) -> Result<(), Failure> {
    let keys = SearchRecordsRequest { kind: "key".to_owned(), ..SearchRecordsRequest::default() };
    let mut searches = vec![first, keys];
    let mut followed = BTreeSet::from([Lead::Id(subject.to_owned())]);
    while !searches.is_empty() {
        for search in &searches {
            let take = |record: Record| {
                gather.record(record.index, &record.content);
                Ok(())
            };
            search::each(client, search, usize::MAX, take).await?;
        }
        let new: Vec<Lead> = gather.leads(subject).difference(&followed).cloned().collect();
        searches = new.iter().filter_map(by).collect();
        followed.extend(new);
    }
    Ok(())
}
