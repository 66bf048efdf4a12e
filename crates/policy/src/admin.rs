//! The service's own API, authorized by the same bundle.

use std::collections::BTreeSet;

use cedar_policy::{EntityUid, RestrictedExpression};
use countersign_core::{Digest, EntityRef, Timestamp};

use crate::answer::Answer;
use crate::decide::QueryError;
use crate::request::{Pairs, Pass, clock, evaluate, operator_of, persons};
use crate::view::View;

/// May `caller` do this to the service?
#[derive(Debug, Clone)]
pub struct AdminQuery<'a> {
    /// Who made the call: an `Agent`, `Service` or `Person`.
    pub caller: &'a EntityRef,
    /// What they want.
    pub action: AdminAction<'a>,
    /// The time that decides.
    pub now: Timestamp,
}

/// What the service's own API does, with what policies may know of it.
#[derive(Debug, Clone, Copy)]
pub enum AdminAction<'a> {
    /// `openSession`: open a session for `principal`.
    OpenSession {
        /// Who is to act in it.
        principal: &'a EntityRef,
        /// What it is for.
        purpose: &'a str,
        /// The person the principal acts for.
        operator: Option<&'a EntityRef>,
        /// How long it may last.
        seconds: u32,
    },
    /// `actFor`: name `principal` as the one who acts.
    ActFor {
        /// Who is named.
        principal: &'a EntityRef,
        /// The operation.
        operation: &'a str,
        /// The person the principal acts for.
        operator: Option<&'a EntityRef>,
    },
    /// `redeem`: spend a capability at an enforcement point.
    Redeem {
        /// The audience of the capability.
        enforcement_point: &'a EntityRef,
        /// The operation.
        operation: &'a str,
        /// The issuer of the caller's credential.
        issuer: Option<&'a str>,
    },
    /// `revoke`: revoke a capability, or an approval, of `principal`.
    Revoke {
        /// Whose it is.
        principal: &'a EntityRef,
    },
    /// `endSession`: end a session of `principal`.
    EndSession {
        /// Whose it is.
        principal: &'a EntityRef,
    },
    /// `publish`: make a bundle the active one.
    Publish {
        /// The tenant.
        tenant: &'a EntityRef,
        /// The bundle's digest.
        digest: Digest,
        /// The bundle's revision.
        revision: u64,
    },
    /// `readLog`: read the audit log.
    ReadLog {
        /// The tenant.
        tenant: &'a EntityRef,
    },
    /// `readApprovals`: read approval requests.
    ReadApprovals {
        /// The tenant.
        tenant: &'a EntityRef,
    },
    /// `manageKeys`: rotate and retire signing keys.
    ManageKeys {
        /// The tenant.
        tenant: &'a EntityRef,
    },
    /// `changeEntities`: change stored entities.
    ChangeEntities {
        /// The tenant.
        tenant: &'a EntityRef,
        /// The types of what changes.
        types: &'a BTreeSet<&'a str>,
        /// The persons whom the change binds.
        persons: &'a BTreeSet<EntityRef>,
    },
    /// `readEntities`: read stored entities.
    ReadEntities {
        /// The tenant.
        tenant: &'a EntityRef,
    },
    /// `manageNotifications`: have what a sink did not take tried again, or let it go.
    ManageNotifications {
        /// The tenant.
        tenant: &'a EntityRef,
    },
    /// `breakGlass`: act against the policies, on record.
    BreakGlass {
        /// The tenant.
        tenant: &'a EntityRef,
    },
}

impl View<'_> {
    /// Whether the caller may use the service's own API like this. Any error makes it a no.
    #[must_use]
    pub fn administer(&self, query: &AdminQuery<'_>) -> Answer {
        Answer::of(self.administered(query))
    }

    fn administered(&self, query: &AdminQuery<'_>) -> Result<Pass, QueryError> {
        let Asked { name, resource, mut context, operator, persons: bound } = query.action.asked();
        let missing = |field: &str, entity: &EntityRef| QueryError::Invalid {
            field: field.to_owned(),
            reason: format!("`{entity}` has no known type"),
        };
        let bundle = self.bundle;
        let action = bundle
            .reserved
            .get(name)
            .ok_or_else(|| QueryError::UnknownOperation { operation: name.to_owned(), closest: Vec::new() })?;
        let caller = bundle.directory.uid(query.caller).ok_or_else(|| missing("caller", query.caller))?;
        let resource = bundle.directory.uid(resource).ok_or_else(|| missing("resource", resource))?;
        context.extend(operator_of(bundle, operator)?);
        if let Some(bound) = bound {
            context.push(("persons".to_owned(), persons(bundle, bound, "persons")?));
        }
        context.push(("now".to_owned(), clock(query.now)?));
        let operator = operator.and_then(|operator| bundle.directory.uid(operator));
        let roots: Vec<&EntityUid> = [&caller, &resource].into_iter().chain(&operator).collect();
        let slice = self.slice(&roots, &action.uid)?;
        evaluate(*self, &slice, (caller, action.uid.clone(), resource), context, &action.policies)
    }
}

/// An action of the service, as the reserved schema declares it.
struct Asked<'a> {
    name: &'static str,
    resource: &'a EntityRef,
    context: Pairs,
    operator: Option<&'a EntityRef>,
    persons: Option<&'a BTreeSet<EntityRef>>,
}

impl<'a> AdminAction<'a> {
    fn asked(self) -> Asked<'a> {
        let text = |name: &str, value: &str| (name.to_owned(), RestrictedExpression::new_string(value.to_owned()));
        let long = |name: &str, value: i64| (name.to_owned(), RestrictedExpression::new_long(value));
        let plain = |name, resource| Asked { name, resource, context: Vec::new(), operator: None, persons: None };
        match self {
            Self::OpenSession { principal, purpose, operator, seconds } => Asked {
                name: "openSession",
                resource: principal,
                context: vec![text("purpose", purpose), long("seconds", i64::from(seconds))],
                operator,
                persons: None,
            },
            Self::ActFor { principal, operation, operator } => Asked {
                name: "actFor",
                resource: principal,
                context: vec![text("operation", operation)],
                operator,
                persons: None,
            },
            Self::Redeem { enforcement_point, operation, issuer } => {
                let issuer = issuer.map(|issuer| text("issuer", issuer));
                let context = std::iter::once(text("operation", operation)).chain(issuer).collect();
                Asked { name: "redeem", resource: enforcement_point, context, operator: None, persons: None }
            }
            Self::Revoke { principal } => plain("revoke", principal),
            Self::EndSession { principal } => plain("endSession", principal),
            Self::Publish { tenant, digest, revision } => Asked {
                name: "publish",
                resource: tenant,
                // A loaded bundle's revision fits; the largest number stands for one that does not.
                context: vec![
                    text("digest", &digest.to_string()),
                    long("revision", i64::try_from(revision).unwrap_or(i64::MAX)),
                ],
                operator: None,
                persons: None,
            },
            Self::ReadLog { tenant } => plain("readLog", tenant),
            Self::ReadApprovals { tenant } => plain("readApprovals", tenant),
            Self::ManageKeys { tenant } => plain("manageKeys", tenant),
            Self::ChangeEntities { tenant, types, persons } => {
                let types = types.iter().map(|kind| RestrictedExpression::new_string((*kind).to_owned()));
                let context = vec![("types".to_owned(), RestrictedExpression::new_set(types))];
                Asked { name: "changeEntities", resource: tenant, context, operator: None, persons: Some(persons) }
            }
            Self::ReadEntities { tenant } => plain("readEntities", tenant),
            Self::ManageNotifications { tenant } => plain("manageNotifications", tenant),
            Self::BreakGlass { tenant } => plain("breakGlass", tenant),
        }
    }
}
