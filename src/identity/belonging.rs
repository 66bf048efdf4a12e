//! What a token says of whoever acts beside who they are: the groups they are in, and who is answerable for them. The
//! configuration says which claims, and what their values mean; nothing else that a token says counts.

use std::collections::{BTreeMap, BTreeSet};

use countersign_core::EntityRef;
use countersign_engine::Claims;
use countersign_engine::credential::Subject;

use super::error::CredentialError;
use super::json::{Json, Object, at};
use super::naming::spelled;
use crate::config::{GroupsConfig, IssuerConfig, OwnerConfig};

/// The most values that a claim with groups may have: more is what no policy was written for.
const MAX_VALUES: usize = 256;

/// How one issuer's claims about groups and owners are read.
#[derive(Debug, Default)]
pub(super) struct Belonging {
    groups: Option<Groups>,
    owner: Option<Owner>,
}

#[derive(Debug)]
struct Groups {
    claim: String,
    /// By the exact value of the claim.
    map: BTreeMap<String, EntityRef>,
}

#[derive(Debug)]
struct Owner {
    claim: String,
    /// Whose subject the value is.
    issuer: String,
}

impl Belonging {
    pub(super) fn new(config: &IssuerConfig) -> Self {
        let groups = config.groups.as_ref().map(|GroupsConfig { claim, map }| Groups {
            claim: claim.clone(),
            // What is no id was refused with the configuration.
            map: map
                .iter()
                .filter_map(|(value, id)| Some((value.clone(), EntityRef::new("Group", id).ok()?)))
                .collect(),
        });
        let owner = config.owner.as_ref().map(|OwnerConfig { claim, issuer }| Owner {
            claim: claim.clone(),
            issuer: issuer.clone().unwrap_or_else(|| config.issuer.clone()),
        });
        Self { groups, owner }
    }

    /// Whether something of that name is read of whoever acts.
    pub(super) fn reads(&self, name: &str) -> bool {
        let claims = self.groups.iter().map(|groups| &groups.claim).chain(self.owner.iter().map(|owner| &owner.claim));
        claims.into_iter().any(|claim| outermost(claim) == name)
    }

    /// What is said of `who`, about whom `said` is: the claims of a token, or those of its current actor.
    pub(super) fn read(&self, said: &Object, who: &Subject) -> Result<Claims, CredentialError> {
        let groups = self.groups.as_ref().map(|groups| groups.read(said)).transpose()?.unwrap_or_default();
        let owner = match (&self.owner, who) {
            (Some(owner), Subject::Agent(_) | Subject::Service(_)) => Some(owner.read(said)?),
            (_, Subject::Account(_)) | (None, Subject::Agent(_) | Subject::Service(_)) => None,
        };
        Ok(Claims { groups, owner })
    }
}

impl Groups {
    /// A value that the configuration does not map means nothing, whatever it looks like.
    fn read(&self, said: &Object) -> Result<BTreeSet<EntityRef>, CredentialError> {
        let wrong = CredentialError::Groups("is not a text or a list of texts");
        let values = match at(said, &self.claim) {
            None => return Ok(BTreeSet::new()),
            Some(Json::Text(value)) => vec![value.as_str()],
            Some(Json::List(values)) if values.len() > MAX_VALUES => {
                return Err(CredentialError::Groups("has more than 256 values"));
            }
            Some(Json::List(values)) => {
                values.iter().map(|value| value.text().ok_or(wrong.clone())).collect::<Result<_, _>>()?
            }
            Some(Json::Natural(_) | Json::Object(_) | Json::Bool(_) | Json::Other) => return Err(wrong),
        };
        Ok(values.into_iter().filter_map(|value| self.map.get(value).cloned()).collect())
    }
}

impl Owner {
    /// The account. An owner who is not named could not be kept from answering for what they own.
    fn read(&self, said: &Object) -> Result<String, CredentialError> {
        let name = at(said, &self.claim).and_then(Json::text);
        let name = name.ok_or(CredentialError::Owner("is missing or not a string"))?;
        spelled(name).map_err(CredentialError::Owner)?;
        Ok(format!("{}#{name}", self.issuer))
    }
}

/// The member that a claim is, or lies in.
fn outermost(claim: &str) -> &str {
    let Some(path) = claim.strip_prefix('/') else { return claim };
    path.split('/').next().unwrap_or(path)
}
