//! Who called, and for whom: names from credentials, given a meaning by the active bundle.

use std::collections::BTreeSet;

use countersign_core::visible::Visible;
use countersign_core::{Claimed, Digest, EntityRef};
use countersign_policy::View;
use serde::Serialize;

use crate::credential::{Claims, Credential, Subject};
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
    /// Who is answerable for the caller by its credential. They count beside the one whom the directory names.
    pub owner: Option<EntityRef>,
    /// The groups that the caller is in by its credential, and not by the directory.
    pub claimed: Option<Claimed>,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a EntityRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed: Option<&'a Claimed>,
}

impl Caller {
    /// Gives the names of a credential their meaning.
    ///
    /// # Errors
    /// [`Error::PrincipalUnknown`] if any of them is not in the bundle: somebody unknown has no owner who could answer for
    /// what they do. [`Error::OwnerUnknown`] if the credential names an owner who is nobody there: they could not be excluded.
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
        let Claims { groups, owner } = &credential.claims;
        let owner = owner.as_ref().filter(|_| entity.kind() != "Person").map(|account| {
            let shown = || Error::OwnerUnknown(Visible::cut(account, 300).to_string());
            view.person_of(account).ok_or_else(shown)
        });
        // A group that nobody knows is none. One that the directory has them in is theirs without the credential.
        let adds = |group: &&EntityRef| view.contains(group) && !view.is_in(&entity, group);
        let claimed = Claimed::new(groups.iter().filter(adds).cloned().collect(), credential.expires_at);
        Ok(Self {
            owner: owner.transpose()?,
            claimed,
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

    /// The persons behind it (I2), whoever is answerable by its credential included.
    pub(crate) fn behind(&self, view: View<'_>) -> BTreeSet<EntityRef> {
        let mut persons = excluded(view, self.parties());
        persons.extend(self.owner.clone());
        persons
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
            owner: self.owner.as_ref(),
            claimed: self.claimed.as_ref(),
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
