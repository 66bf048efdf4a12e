//! What a pre-approval lets somebody do, in words that nobody who votes on it can miss.

use countersign::proto::{Approval, PreApproval as Shown, PreApprovalBounds, PreApprovalUse};
use countersign_core::PreApproval;
use countersign_core::pre_approval::Bounds;
use countersign_core::visible::Visible;

use crate::cli::output::{WARN, paint};
use crate::cli::text::{Lines, count};
use crate::cli::when::relative;

/// The bounds that the server states, if they are such.
pub fn stated(approval: &Approval) -> Option<Bounds> {
    let bounds = approval.pre_approval.as_ref()?.bounds.as_ref()?;
    let duration = bounds.duration.as_ref().filter(|duration| duration.nanos == 0)?;
    Some(Bounds { uses: bounds.uses, seconds: duration.seconds.try_into().ok()? })
}

/// When the server says that it is over at the latest, in milliseconds.
pub fn latest(approval: &Approval) -> Option<i64> {
    let until = approval.pre_approval.as_ref()?.until.as_ref()?;
    until.seconds.checked_mul(1_000)?.checked_add(i64::from(until.nanos / 1_000_000))
}

/// Whether what the server states beside the canonical text is not what stands in it.
pub fn differ(approval: &Approval, pre: Option<&PreApproval>) -> bool {
    let Some(pre) = pre else { return approval.pre_approval.is_some() };
    let rules = approval.rules.iter().map(|rule| &rule.rule_id).ne(&pre.rules);
    rules || stated(approval) != Some(pre.bounds) || latest(approval) != Some(pre.until.millis())
}

/// What whoever approves it approves, and what was done with it.
pub fn show(text: &mut Lines, approval: &Approval, pre: &PreApproval) {
    let Bounds { uses, seconds } = pre.bounds;
    let until = approval.pre_approval.as_ref().and_then(|shown| shown.until.as_ref());
    text.heading("PRE-APPROVAL: not one action, but every one like it");
    let most = format!(
        "Whoever approves this approves up to {} of the operation below on the resource below, with ANY input and",
        count(uses, "use", "uses"),
    );
    text.line(paint(WARN, format!("  {most}")));
    let long = format!("environment, for {} once it is approved, without being asked again.", exact(seconds));
    text.line(paint(WARN, format!("  {long}")));
    text.line(
        "  Each use is decided anew; the rules below are lifted, and no other. A vote can be withdrawn, which ends it.",
    );
    text.field("at most", count(uses, "use", "uses"));
    text.field("for", format!("{} from its approval on", exact(seconds)));
    text.field("ends with", format!("its session: {}", relative(until)));
    let Some(Shown { charged, last_uses, .. }) = &approval.pre_approval else { return };
    text.field("used", format!("{charged} of {uses}"));
    for PreApprovalUse { number, capability_id, decision_id, used_at } in last_uses {
        let by = if capability_id.is_empty() { decision_id } else { capability_id };
        text.line(format!("    {number}: {} {}", relative(used_at.as_ref()), Visible::new(by)));
    }
}

/// What somebody is asked before they approve.
pub fn consent(approval: &Approval) -> String {
    match stated(approval) {
        Some(Bounds { uses, seconds }) => {
            let uses = count(uses, "use", "uses");
            format!("Approve up to {uses} within {}, with ANY input?", exact(seconds))
        }
        None => "Approve exactly this?".to_owned(),
    }
}

/// In the line of a list: that it is a pre-approval, and how much of it is used.
pub fn used(approval: &Approval) -> String {
    let Some(Shown { bounds, charged, .. }) = &approval.pre_approval else { return String::new() };
    let uses = bounds.as_ref().map_or(0, |bounds| bounds.uses);
    format!("  {}", paint(WARN.bold(), format!("PRE-APPROVAL of any input, {charged} of {uses} used")))
}

/// Within which bounds a rule can be pre-approved.
pub fn offer(bounds: &PreApprovalBounds) -> String {
    let seconds = bounds.duration.as_ref().and_then(|duration| u64::try_from(duration.seconds).ok());
    format!("{} within {}", count(bounds.uses, "use", "uses"), exact(seconds.unwrap_or_default()))
}

/// A time in full: what is voted on is not rounded.
fn exact(seconds: u64) -> String {
    let parts = [(seconds / 3_600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let parts = parts.into_iter().filter(|(number, _)| *number > 0).map(|(number, unit)| format!("{number}{unit}"));
    parts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_voted_on_is_not_rounded() {
        assert_eq!(exact(5_420), "1h 30m 20s");
        assert_eq!(exact(7_200), "2h");
        assert_eq!(exact(86_400), "24h");
    }
}
