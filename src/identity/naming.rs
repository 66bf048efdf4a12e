//! Whom a token names: from claims to a subject that the engine knows what to make of.

use countersign_core::visible::Visible;
use countersign_engine::credential::Subject;
use unicode_normalization::UnicodeNormalization as _;

use super::error::CredentialError;
use super::json::{Json, Object, at};
use crate::config::{IssuerConfig, SubjectConfig, SubjectKind};

/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// How one issuer's subjects and actors are read.
#[derive(Debug)]
pub(super) struct Naming {
    rule: Rule,
    /// In front of the id of every agent and service.
    id_prefix: String,
}

#[derive(Debug)]
enum Rule {
    /// `agent:NAME`, `service:NAME`, else an account; of these kinds.
    Prefix(Vec<SubjectKind>),
    /// One claim names somebody of one kind.
    Fixed(SubjectConfig),
}

impl Naming {
    pub(super) fn new(config: &IssuerConfig) -> Self {
        let rule = config.subject.clone().map_or_else(|| Rule::Prefix(config.subjects.clone()), Rule::Fixed);
        Self { rule, id_prefix: config.id_prefix.clone() }
    }

    /// By prefix, anybody.
    pub(super) fn anybody() -> Self {
        let kinds = vec![SubjectKind::Person, SubjectKind::Agent, SubjectKind::Service];
        Self { rule: Rule::Prefix(kinds), id_prefix: String::new() }
    }

    /// The subject of a token.
    pub(super) fn subject(&self, payload: &Object) -> Result<Subject, CredentialError> {
        match &self.rule {
            Rule::Prefix(kinds) => match payload.get("sub") {
                Some(Json::Text(text)) => self.by_prefix(text, kinds),
                _ => Err(CredentialError::Claim { claim: "sub", problem: "is missing or not a string" }),
            },
            Rule::Fixed(SubjectConfig { kind, claim, starts_with, actors: _ }) => {
                let text = at(payload, claim).and_then(Json::text);
                let text = text.ok_or(CredentialError::Subject("is missing or not a string"))?;
                if !text.starts_with(starts_with.as_str()) {
                    return Err(CredentialError::Subject("does not begin as the server's `subject.starts_with` says"));
                }
                spelled(text).map_err(CredentialError::Subject)?;
                Ok(self.named(*kind, text))
            }
        }
    }

    /// An actor in the `act` chain, by its `sub`.
    pub(super) fn actor(&self, name: &str) -> Result<Subject, CredentialError> {
        match &self.rule {
            Rule::Prefix(kinds) => self.by_prefix(name, kinds),
            Rule::Fixed(SubjectConfig { actors: Some(kind), .. }) => {
                spelled(name).map_err(|problem| CredentialError::Claim { claim: "sub", problem })?;
                Ok(self.named(*kind, name))
            }
            Rule::Fixed(SubjectConfig { actors: None, .. }) => {
                Err(CredentialError::Delegation("is not expected of its issuer, whose `subject` has no `actors`"))
            }
        }
    }

    fn by_prefix(&self, text: &str, kinds: &[SubjectKind]) -> Result<Subject, CredentialError> {
        let wrong = |problem| CredentialError::Claim { claim: "sub", problem };
        spelled(text).map_err(wrong)?;
        let (kind, name) = match (text.strip_prefix("agent:"), text.strip_prefix("service:")) {
            (Some(name), _) => (SubjectKind::Agent, name),
            (_, Some(name)) => (SubjectKind::Service, name),
            (None, None) => (SubjectKind::Person, text),
        };
        if name.is_empty() || name.trim() != name {
            return Err(wrong("has no name right after its prefix"));
        }
        if !kinds.contains(&kind) {
            return Err(CredentialError::Kind(match kind {
                SubjectKind::Person => "person",
                SubjectKind::Agent => "agent",
                SubjectKind::Service => "service",
            }));
        }
        Ok(self.named(kind, name))
    }

    /// Accounts have their issuer in them, and no two issuers have one. Agents and services have the prefix of theirs.
    fn named(&self, kind: SubjectKind, name: &str) -> Subject {
        match kind {
            SubjectKind::Person => Subject::Account(name.to_owned()),
            SubjectKind::Agent => Subject::Agent(format!("{}{name}", self.id_prefix)),
            SubjectKind::Service => Subject::Service(format!("{}{name}", self.id_prefix)),
        }
    }
}

/// Two spellings that look alike must not be two names: one human would count twice.
pub(crate) fn spelled(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES {
        return Err("is not 1 to 256 bytes long");
    }
    let shown = text.replace('\\', "");
    if text.trim() != text || Visible::new(&shown).to_string() != shown || !text.nfkc().eq(text.chars()) {
        return Err(
            "has invisible, control or look-alike characters (it must be in Unicode NFKC), or spaces at its ends",
        );
    }
    Ok(())
}
