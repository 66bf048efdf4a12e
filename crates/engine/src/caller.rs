//! Who called, and for whom: names from credentials, given a meaning by the active bundle.

use std::collections::BTreeSet;

use countersign_core::visible::Visible;
use countersign_core::{Digest, EntityRef};
use countersign_policy::View;
use serde::Serialize;

use crate::credential::{Credential, Subject};
use crate::error::Error;

/// A credential's bearer, as an entity of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who acts: the agent, service or person at the wire.
    pub entity: EntityRef,
    /// The person acted for; `None` when nobody delegated.
    pub operator: Option<EntityRef>,
    /// The links between operator and the one who acts, the nearest first.
    pub chain: Vec<EntityRef>,
    /// The account: issuer and subject.
    pub account: String,
    /// The issuer.
    pub issuer: String,
    /// SHA-256 of the credential.
    pub credential: Digest,
}

/// How records name a caller: never the credential, always its hash.
#[derive(Debug, Clone, Serialize)]
pub struct CallerRecord<'a> {
    entity: &'a EntityRef,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<&'a EntityRef>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    chain: &'a [EntityRef],
    account: &'a str,
    credential: Digest,
}

impl Caller {
    /// Gives the names of a credential their meaning.
    ///
    /// # Errors
    /// [`Error::PrincipalUnknown`] if any of them is not in the bundle: somebody unknown has no owner who could answer for
    /// what they do.
    pub fn resolve(credential: &Credential, view: View<'_>) -> Result<Self, Error> {
        let entity = |subject: &Subject| entity_of(subject, &credential.issuer, view);
        let subject = entity(&credential.subject)?;
        let mut actors = credential.actors.iter().map(entity).collect::<Result<Vec<_>, _>>()?.into_iter();
        let (entity, operator, chain) = match actors.next() {
            None => (subject, None, Vec::new()),
            Some(actor) if subject.kind() == "Person" => (actor, Some(subject), actors.collect()),
            Some(actor) => (actor, None, actors.chain([subject]).collect()),
        };
        countersign_core::action::check_chain(&entity, operator.as_ref(), &chain)?;
        Ok(Self {
            entity,
            operator,
            chain,
            account: account(&credential.issuer, &subject_name(&credential.subject)),
            issuer: credential.issuer.clone(),
            credential: credential.hash,
        })
    }

    /// The person, if the caller is one who acts directly. Whoever acts for somebody, or through somebody, is not.
    pub fn as_person(&self) -> Option<&EntityRef> {
        (self.entity.kind() == "Person" && self.acts_directly()).then_some(&self.entity)
    }

    /// Whether the caller is one of these, in a matter of `operator`'s. Whoever acts for one person is no part of what is done
    /// for another, though the agent be the same.
    pub(crate) fn is_among<'a>(
        &self,
        operator: Option<&'a EntityRef>,
        parties: impl IntoIterator<Item = &'a EntityRef>,
    ) -> bool {
        let foreign = self.operator.is_some() && self.operator.as_ref() != operator;
        !foreign && parties.into_iter().chain(operator).any(|party| *party == self.entity)
    }

    /// Whether nobody is acted for, and nobody acted before.
    pub const fn acts_directly(&self) -> bool {
        self.operator.is_none() && self.chain.is_empty()
    }

    /// The caller, whom it acts for, and through whom.
    pub(crate) fn parties(&self) -> impl Iterator<Item = &EntityRef> {
        std::iter::once(&self.entity).chain(&self.operator).chain(&self.chain)
    }

    /// What request ids are scoped to: the account, and for whom and through whom it acts. The same agent for another
    /// operator is another caller.
    pub fn key(&self) -> Digest {
        let links = self.operator.iter().chain(&self.chain).chain([&self.entity]).map(EntityRef::to_string);
        let parts: Vec<String> = std::iter::once(self.account.clone()).chain(links).collect();
        Digest::of_parts(&parts.iter().map(String::as_bytes).collect::<Vec<_>>())
    }

    /// How records name it.
    pub fn record(&self) -> CallerRecord<'_> {
        CallerRecord {
            entity: &self.entity,
            operator: self.operator.as_ref(),
            chain: &self.chain,
            account: &self.account,
            credential: self.credential,
        }
    }
}

/// An account as the bundle's persons list it: issuer and subject.
fn account(issuer: &str, subject: &str) -> String {
    format!("{issuer}#{subject}")
}

/// The subject as its issuer wrote it: an agent is no account of the same name.
fn subject_name(subject: &Subject) -> String {
    match subject {
        Subject::Agent(name) => format!("agent:{name}"),
        Subject::Service(name) => format!("service:{name}"),
        Subject::Account(name) => name.clone(),
    }
}

fn entity_of(subject: &Subject, issuer: &str, view: View<'_>) -> Result<EntityRef, Error> {
    let named = |kind: &str, name: &str| {
        let entity = EntityRef::new(kind, name).map_err(|e| Error::PrincipalUnknown(e.to_string()))?;
        if view.contains(&entity) { Ok(entity) } else { Err(Error::PrincipalUnknown(entity.to_string())) }
    };
    match subject {
        Subject::Agent(name) => named("Agent", name),
        Subject::Service(name) => named("Service", name),
        Subject::Account(name) => {
            let account = account(issuer, name);
            view.person_of(&account)
                .ok_or_else(|| Error::PrincipalUnknown(format!("the account `{}`", Visible::cut(&account, 300))))
        }
    }
}

/// The persons whose approval counts for nothing for an action of these (I2): every person among them, and the owner of
/// everybody else.
pub fn excluded<'a>(view: View<'_>, parties: impl IntoIterator<Item = &'a EntityRef>) -> BTreeSet<EntityRef> {
    parties
        .into_iter()
        .flat_map(|party| {
            let person = (party.kind() == "Person").then(|| party.clone());
            [person, view.owner_of(party)]
        })
        .flatten()
        .collect()
}
