//! Votes that their persons sign with a key of their own: what is signed, and what is kept of it.

use serde::{Deserialize, Serialize};

use super::vote::Verdict;
use crate::digest::Digest;
use crate::entity::EntityRef;
use crate::id::ApprovalId;
use crate::time::Timestamp;

/// How far the time in a signature may be from the server's, in milliseconds.
pub const SIGNING_TOLERANCE_MILLIS: u64 = 5 * 60 * 1_000;

/// What stands for the request in the statement of a vote that nobody signed: no request id.
pub const UNSIGNED: &str = "-";

/// What a person signs: one vote, and nothing else. The tenant, the session and the action are in the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoteStatement<'a> {
    /// The request.
    pub approval: ApprovalId,
    /// The digest that was shown.
    pub digest: Digest,
    /// The digest of everything that was shown.
    pub view: Digest,
    /// What was said.
    pub verdict: Verdict,
    /// The person's words; their digest is what is signed.
    pub comment: &'a str,
    /// Who signs.
    pub person: &'a EntityRef,
    /// The id of the attempt to vote, so that a signature is good for one.
    pub request: &'a str,
    /// When, by the clock of whoever signs.
    pub at: Timestamp,
}

impl VoteStatement<'_> {
    /// The text of the statement: the text of a C2SP signed note. Its first line is of nothing else that is signed here.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { approval, digest, view, verdict, comment, person, request, at } = self;
        let verdict = match verdict {
            Verdict::Approve => "approve",
            Verdict::Deny => "deny",
        };
        let (comment, at) = (Digest::of(comment.as_bytes()), at.millis());
        format!(
            "countersign-vote/v1\napproval {approval}\ndigest {digest}\nview {view}\nverdict {verdict}\ncomment {comment}\n\
             person {person}\nrequest {request}\nat {at}\n"
        )
    }
}

/// A signature under a vote. Another kind, such as a passkey's assertion, is another variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum VoteSignature {
    /// A line of a C2SP signed note, whose text is that of the [`VoteStatement`].
    Ed25519 {
        /// The public key, `name+id+key`, as the directory had it when the vote was cast.
        key: String,
        /// The signature line, without its line feed.
        line: String,
        /// The id of the attempt that is in the statement.
        request: String,
        /// The time that is in the statement.
        at: Timestamp,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_vote_is_in_its_statement() {
        let person = EntityRef::new("Person", "dana").unwrap();
        let approval: ApprovalId = "apr_01a1f788-4cc5-7138-bf3c-bea738ea5c35".parse().unwrap();
        let statement = VoteStatement {
            approval,
            digest: Digest::of(b"action"),
            view: Digest::of(b"view"),
            verdict: Verdict::Approve,
            comment: "fine\nverdict deny",
            person: &person,
            request: "r",
            at: Timestamp::from_millis(7),
        };
        let text = statement.text();
        assert_eq!(text.lines().count(), 9, "a comment adds no line: {text}");
        assert!(text.ends_with("person Person::\"dana\"\nrequest r\nat 7\n"), "{text}");
        let other = EntityRef::new("Person", "dave").unwrap();
        for changed in [
            VoteStatement { digest: Digest::of(b"x"), ..statement },
            VoteStatement { view: Digest::of(b"x"), ..statement },
            VoteStatement { verdict: Verdict::Deny, ..statement },
            VoteStatement { comment: "", ..statement },
            VoteStatement { person: &other, ..statement },
            VoteStatement { request: "s", ..statement },
            VoteStatement { at: Timestamp::from_millis(8), ..statement },
        ] {
            assert_ne!(changed.text(), text);
        }
    }
}
