//! What is told of requests, held against the log: both are written in the commit that changes a request, so one says what
//! the other must hold.

use std::collections::BTreeMap;

use countersign_store::outbox::QueuedRow;
use countersign_store::repository::stored;
use countersign_store::{Kernel, Prefix};
use serde_json::Value as Json;

use crate::backend::acme;
use crate::driver::{Checked, ensure};
use crate::service::SINK;

/// The notifications of each request, and of each review, in their order.
type Told = BTreeMap<String, Vec<&'static str>>;

/// Every change of a request that the records tell of has its notifications, once, and in the order of the changes.
pub async fn each_change_is_told<K: Kernel>(kernel: &K, records: &[Json]) -> Checked<()> {
    let expected = expected(records);
    let (mut told, mut after) = (Told::new(), None);
    loop {
        let page = kernel.scan(&Prefix::queue(&acme(), SINK), after.as_ref(), 1_000).await;
        let page = page.map_err(|e| e.to_string())?;
        for (key, row) in &page.rows {
            let told_of = stored::<QueuedRow>(key, row).map_err(|e| e.to_string())?.value.notification;
            let about = told_of.approval.map(|id| id.to_string()).or_else(|| told_of.review.map(|id| id.to_string()));
            told.entry(about.unwrap_or_default()).or_default().push(told_of.kind.word());
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    ensure!(told == expected, "told is {told:?}, and the records tell of {expected:?} (I8)");
    Ok(())
}

fn expected(records: &[Json]) -> Told {
    let mut told = Told::new();
    for record in records {
        let text = |field: &str| record[field].as_str().unwrap_or_default();
        let words: &[&'static str] = match (text("kind"), text("state")) {
            // Whoever asks the same again is not told of, unless people see what they say.
            ("approval_requested", _) if !told.contains_key(text("approval")) || record["asked_again"] == true => {
                &["asked"]
            }
            ("vote", "approved" | "denied") => &["voted", "decided"],
            ("vote", "void") => &["voted", "void"],
            ("vote", _) => &["voted"],
            ("vote_withdrawn", "void") => &["withdrawn", "void"],
            ("vote_withdrawn", _) => &["withdrawn"],
            ("approval_cancelled", _) => &["cancelled"],
            ("approval_void", _) => &["void"],
            ("redeem" | "delegated", _) if record["approval"].is_string() => &["redeemed"],
            ("decision", _) if record["approval"].is_string() && record["minted"].is_null() => &["redeemed"],
            _ => &[],
        };
        let broken = record["glass_broken"]["review"].as_str();
        let reviewed = Some(text("review")).filter(|_| text("kind") == "review_closed");
        if let Some(review) = broken {
            told.entry(review.to_owned()).or_default().push("glass_broken");
        } else if let Some(review) = reviewed {
            told.entry(review.to_owned()).or_default().push("review_closed");
        }
        if !words.is_empty() {
            told.entry(text("approval").to_owned()).or_default().extend(words);
        }
    }
    told
}
