//! Whether the records about an action begin where it did.

use std::collections::BTreeSet;

use countersign::evidence::Proved;
use serde_json::Value;

use crate::cli::Failure;

/// That nothing is missing on which a record rests: what was asked before it was voted on, and minted before it was spent. In a log that is whole,
/// nothing is.
pub fn begins(records: &[Proved]) -> Result<(), Failure> {
    let (mut asked, mut minted) = (BTreeSet::new(), BTreeSet::new());
    for proved in records {
        let record: Value = serde_json::from_str(&proved.content).unwrap_or_default();
        let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let kind = text("/kind").unwrap_or_default();
        let joined = record.get("joined").is_some();
        if kind == "approval_requested" && !joined {
            asked.extend(text("/approval"));
        }
        minted.extend(text("/minted/id"));
        let on = text("/approval").filter(|approval| !asked.contains(approval));
        let spent = matches!(kind.as_str(), "redeem" | "delegated" | "complete");
        let of = text("/capability").filter(|capability| spent && !minted.contains(capability));
        if let Some(id) = on.or(of) {
            return Err(Failure::new(format!("record {} rests on what was dropped of `{id}`", proved.index))
                .reason("RECORD_PRUNED")
                .hint("give a copy of the records that were dropped: `--archive DIR`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(contents: &[&str]) -> bool {
        let proved = |(index, content): (u64, &&str)| Proved { index, proof: vec![], content: (*content).to_owned() };
        begins(&(0..).zip(contents).map(proved).collect::<Vec<_>>()).is_ok()
    }

    #[test]
    fn what_rests_on_a_dropped_record_is_no_evidence() {
        let asked = r#"{"kind":"approval_requested","approval":"apr_1"}"#;
        let joined = r#"{"kind":"approval_requested","approval":"apr_1","joined":true}"#;
        let vote = r#"{"kind":"vote","approval":"apr_1"}"#;
        let minted = r#"{"kind":"decision","approval":"apr_1","minted":{"id":"cap_1"}}"#;
        let spent = r#"{"kind":"redeem","approval":"apr_1","capability":"cap_1"}"#;
        let reported = r#"{"kind":"complete","capability":"cap_1"}"#;
        let whole = [asked, joined, vote, minted, spent, reported];
        assert!(begin(&whole));
        for dropped in 1..whole.len() {
            assert!(!begin(&whole[dropped..]), "without the first {dropped}");
        }
    }
}
