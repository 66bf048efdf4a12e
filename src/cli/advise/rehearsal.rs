//! A narrower rule, tried on every recorded decision.

use std::collections::BTreeSet;

use countersign_core::Digest;
use countersign_policy::{Bundle, Entities, RecordedDecision, Replayed, Verdict, View};

use super::proposal::{Advice, Proposal};

/// A bundle with a narrower rule, and what it made of the decisions so far.
pub struct Rehearsal {
    bundle: Bundle,
    operation: String,
    decisions: u64,
    allowed: u64,
    incomparable: u64,
    /// What was denied, and would be allowed.
    widened: u64,
}

/// What a bundle says to a recorded decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Allow,
    NeedsApproval,
    Deny,
}

impl Rehearsal {
    /// Of what a proposal makes of the bundle. A proposal that makes no bundle is none.
    pub fn of(bundle: &Bundle, proposal: &mut Proposal) -> Option<Self> {
        let Advice::Narrow { exception, .. } = &proposal.advice else { return None };
        let narrowed = bundle.source().with_exception(&proposal.rule, exception).map_err(|error| error.to_string());
        let loaded = narrowed.and_then(|source| {
            Bundle::load(source).map_err(|refused| format!("a narrower rule does not fit the bundle: {refused}"))
        });
        match loaded {
            Ok(bundle) => Some(Self {
                bundle,
                operation: proposal.operation.clone(),
                decisions: 0,
                allowed: 0,
                incomparable: 0,
                widened: 0,
            }),
            Err(why) => {
                proposal.advice = Advice::Nothing(why);
                None
            }
        }
    }

    /// Lets the proposal stand with what came of it, or not at all.
    pub fn conclude(self, proposal: &mut Proposal) {
        let Advice::Narrow { decisions, allowed, incomparable, .. } = &mut proposal.advice else { return };
        (*decisions, *allowed, *incomparable) = (self.decisions, self.allowed, self.incomparable);
        if self.widened > 0 {
            let why = format!("a narrower rule would allow what was denied, {} of {}", self.widened, self.decisions);
            proposal.advice = Advice::Nothing(why);
        } else if self.allowed == 0 {
            let why = "a narrower rule would have made no recorded decision an ALLOW; other rules ask too".to_owned();
            proposal.advice = Advice::Nothing(why);
        }
    }
}

/// Has a record, if it is of a decision, decided again by each.
pub fn look(
    bundle: &Bundle,
    stored: &Entities,
    rehearsals: &mut [Rehearsal],
    denied: &BTreeSet<Digest>,
    content: &[u8],
) -> Result<(), String> {
    let Some(recorded) = RecordedDecision::read(content).map_err(|error| error.to_string())? else { return Ok(()) };
    let before = says(bundle.with(stored, None), &recorded);
    for rehearsal in rehearsals {
        rehearsal.decisions = rehearsal.decisions.saturating_add(1);
        // Against what the bundle says without the exception, which need not be what was recorded.
        let (Some(before), Some(after)) = (before, says(rehearsal.bundle.with(stored, None), &recorded)) else {
            // The exception is about this operation alone.
            let concerned = u64::from(recorded.question.operation == rehearsal.operation);
            rehearsal.incomparable = rehearsal.incomparable.saturating_add(concerned);
            continue;
        };
        if after != Says::Allow || before == Says::Allow {
            continue;
        }
        let refused = recorded.verdict == "DENY" || before == Says::Deny || denied.contains(&recorded.question.digest);
        let counts = if refused { &mut rehearsal.widened } else { &mut rehearsal.allowed };
        *counts = counts.saturating_add(1);
    }
    Ok(())
}

/// The verdict; nothing if the question cannot be asked.
fn says(view: View<'_>, recorded: &RecordedDecision) -> Option<Says> {
    match view.replay(recorded) {
        Replayed::Same => match recorded.verdict.as_str() {
            "ALLOW" => Some(Says::Allow),
            "NEEDS_APPROVAL" => Some(Says::NeedsApproval),
            _deny => Some(Says::Deny),
        },
        Replayed::Otherwise(evaluation) => Some(match evaluation.verdict {
            Verdict::Allow => Says::Allow,
            Verdict::NeedsApproval { .. } => Says::NeedsApproval,
            Verdict::Deny { .. } => Says::Deny,
        }),
        Replayed::Invalid(_) | Replayed::Incomparable(_) => None,
    }
}
