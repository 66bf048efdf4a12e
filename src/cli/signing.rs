//! Signing one's own votes: `countersign approvals approve --sign`.

use std::time::{SystemTime, UNIX_EPOCH};

use countersign::proto::vote_signature::Signature;
use countersign::proto::{Approval, VoteSignature, VoteVerdict};
use countersign_audit::{Note, NoteSigner};
use countersign_core::approval::{Verdict, VoteStatement};
use countersign_core::{Digest, EntityRef, Timestamp};
use zeroize::Zeroizing;

use super::Failure;
use super::args::read_secret;

pub const KEYGEN_EXAMPLES: &str = "\
The file holds the secret and belongs to its owner alone. The line that is printed is public: it belongs into the tag `vote-key` of the \
person in the directory, from where a server and whoever checks evidence later take it.

Examples:
  countersign approvals keygen dana --out ~/.config/countersign/dana.key
  countersign approvals approve APR --sign @~/.config/countersign/dana.key";

/// A person's key.
pub struct Signing {
    signer: NoteSigner,
    person: EntityRef,
}

impl Signing {
    /// Reads it. The name of the key is the id of the person.
    pub fn read(key: &str) -> Result<Self, Failure> {
        let text = Zeroizing::new(read_secret(key, "sign")?);
        let signer: NoteSigner = text.trim().parse().map_err(|error| Failure::usage(format!("`--sign`: {error}")))?;
        let person = EntityRef::new("Person", signer.name());
        let person = person.map_err(|error| Failure::usage(format!("`--sign`: the key names no person: {error}")))?;
        Ok(Self { signer, person })
    }

    /// The signature of a vote on exactly what was shown.
    pub fn vote(
        &self,
        shown: &Approval,
        digest: &Digest,
        verdict: VoteVerdict,
        comment: &str,
        request: &str,
    ) -> Result<VoteSignature, Failure> {
        let bad =
            |what: &str, error: &dyn std::fmt::Display| Failure::new(format!("the {what} is not usable: {error}"));
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| bad("clock", &error))?.as_millis();
        let at = Timestamp::from_millis(i64::try_from(millis).map_err(|error| bad("clock", &error))?);
        let statement = VoteStatement {
            approval: shown.approval_id.parse().map_err(|error| bad("request's id", &error))?,
            digest: *digest,
            view: Digest::parse(&shown.view_digest).map_err(|error| bad("view digest", &error))?,
            verdict: match verdict {
                VoteVerdict::Approve => Verdict::Approve,
                VoteVerdict::Deny | VoteVerdict::Unspecified => Verdict::Deny,
            },
            comment,
            person: &self.person,
            request,
            at,
        };
        let note = Note::sign(&statement.text(), &[&self.signer]).map_err(|error| bad("vote", &error))?.to_string();
        let line = note.trim_end().rsplit('\n').next().unwrap_or_default().to_owned();
        let signed_at = Some(prost_types::Timestamp {
            seconds: at.millis().div_euclid(1_000),
            nanos: i32::try_from(at.millis().rem_euclid(1_000) * 1_000_000).map_err(|error| bad("clock", &error))?,
        });
        Ok(VoteSignature { signed_at, signature: Some(Signature::Ed25519(line)) })
    }
}
