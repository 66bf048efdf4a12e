//! Cedar, and nothing else: what a bundle of policies is, whether it is fit to decide, and what it decides.
//!
//! A bundle is read from a directory ([`Source`]), composed with the reserved schema, linted, validated and indexed once
//! ([`Bundle::load`]); from then on it is immutable. Together with the stored entities ([`Bundle::with`]) it answers
//! questions without I/O: [`View::decide`] for work, [`View::may_answer`] for approvals, [`View::administer`] for the
//! service's own API. No clock, no store, no network and no token may be named here. [`analysis`] hands out what proofs
//! work on, and is the one module whose types are Cedar's.

mod admin;
mod alike;
pub mod analysis;
mod answer;
mod answerable;
mod bundle;
mod cedar_test;
mod claimed;
mod clause;
mod closed_form;
mod compose;
mod decide;
mod entities;
mod evaluated;
mod explain;
mod finding;
mod format;
mod index;
mod kept;
mod lint;
mod manifest;
mod moment;
mod narrow;
mod policies;
mod question;
mod request;
pub mod scenario;
mod shape;
mod source;
mod stored;
mod view;

pub use admin::{AdminAction, AdminQuery};
pub use answer::{Answer, AnswerQuery, Answerers};
pub use bundle::{AskingRule, Bundle, PolicySource};
pub use cedar_test::CedarTest;
pub use clause::{Clause, Holds, Read};
pub use decide::{ApprovalFacts, DenyCause, Evaluation, Query, QueryError, SessionFacts, Verdict};
pub use evaluated::Evaluated;
pub use explain::{Account, Applies, Explanation, Outlook, Prospect};
pub use finding::{Finding, Refused, Severity};
pub use format::format;
pub use manifest::{PUBLISH_AUDIENCE, publish_input};
pub use narrow::NotNarrowed;
pub use policies::Kind as SetKind;
pub use question::{Question, RecordError, RecordedDecision, Replayed};
pub use source::{SIGNATURES, Source, SourceError, Stamp, can_decide};
pub use stored::{CheckedEntity, Entities, EntityData, EntityMisfit};
pub use view::{Reads, View};
