//! The service's own API, authorized by the same bundle.

use std::collections::BTreeSet;

use cedar_policy::{EntityUid, RestrictedExpression};
use countersign_core::{Digest, EntityRef, Timestamp};

use crate::answer::Answer;
use crate::decide::QueryError;
use crate::request::{Pairs, Pass, clock, evaluate, operator_of, person, persons, strings};
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
    /// `takeBackup`: have a backup of the store made.
    TakeBackup {
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
    /// `breakGlass`: do at once, on record, what rules would have asked people about.
    BreakGlass {
        /// The tenant.
        tenant: &'a EntityRef,
        /// The operation.
        operation: &'a str,
        /// The ids of the rules that are lifted.
        rules: &'a BTreeSet<String>,
    },
    /// `reviewBreakGlass`: close the review of that.
    ReviewBreakGlass {
        /// The tenant.
        tenant: &'a EntityRef,
        /// Who broke the glass.
        person: &'a EntityRef,
        /// The operation.
        operation: &'a str,
        /// The ids of the rules that were lifted.
        rules: &'a BTreeSet<String>,
        /// Who could not have answered for the action.
        excluded: &'a BTreeSet<EntityRef>,
    },
}

impl View<'_> {
    /// Whether the caller may use the service's own API like this. Any error makes it a no.
    #[must_use]
    pub fn administer(&self, query: &AdminQuery<'_>) -> Answer {
        Answer::of(self.administered(query))
    }

    fn administered(&self, query: &AdminQuery<'_>) -> Result<Pass, QueryError> {
        let Asked { name, resource, mut context, operator, persons: named } = query.action.asked();
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
        match named {
            Named::Nobody => {}
            Named::Bound(bound) => context.push(("persons".to_owned(), persons(bundle, bound, "persons")?)),
            Named::Reviewed { person: who, excluded } => {
                context.push(("person".to_owned(), person(bundle, who, "person")?));
                context.push(("excluded".to_owned(), persons(bundle, excluded, "excluded")?));
            }
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
    persons: Named<'a>,
}

/// Whom the context of an action names, beside an operator.
enum Named<'a> {
    Nobody,
    /// Whom a change binds.
    Bound(&'a BTreeSet<EntityRef>),
    /// Who broke the glass, and who could not have answered.
    Reviewed {
        person: &'a EntityRef,
        excluded: &'a BTreeSet<EntityRef>,
    },
}

impl<'a> AdminAction<'a> {
    fn asked(self) -> Asked<'a> {
        let text = |name: &str, value: &str| (name.to_owned(), RestrictedExpression::new_string(value.to_owned()));
        let long = |name: &str, value: i64| (name.to_owned(), RestrictedExpression::new_long(value));
        let plain =
            |name, resource| Asked { name, resource, context: Vec::new(), operator: None, persons: Named::Nobody };
        match self {
            Self::OpenSession { principal, purpose, operator, seconds } => Asked {
                name: "openSession",
                resource: principal,
                context: vec![text("purpose", purpose), long("seconds", i64::from(seconds))],
                operator,
                persons: Named::Nobody,
            },
            Self::ActFor { principal, operation, operator } => Asked {
                name: "actFor",
                resource: principal,
                context: vec![text("operation", operation)],
                operator,
                persons: Named::Nobody,
            },
            Self::Redeem { enforcement_point, operation, issuer } => {
                let issuer = issuer.map(|issuer| text("issuer", issuer));
                let context = std::iter::once(text("operation", operation)).chain(issuer).collect();
                Asked { name: "redeem", resource: enforcement_point, context, operator: None, persons: Named::Nobody }
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
                persons: Named::Nobody,
            },
            Self::ReadLog { tenant } => plain("readLog", tenant),
            Self::ReadApprovals { tenant } => plain("readApprovals", tenant),
            Self::ManageKeys { tenant } => plain("manageKeys", tenant),
            Self::TakeBackup { tenant } => plain("takeBackup", tenant),
            Self::ChangeEntities { tenant, types, persons } => {
                let types = types.iter().map(|kind| RestrictedExpression::new_string((*kind).to_owned()));
                let context = vec![("types".to_owned(), RestrictedExpression::new_set(types))];
                Asked {
                    name: "changeEntities",
                    resource: tenant,
                    context,
                    operator: None,
                    persons: Named::Bound(persons),
                }
            }
            Self::ReadEntities { tenant } => plain("readEntities", tenant),
            Self::ManageNotifications { tenant } => plain("manageNotifications", tenant),
            Self::BreakGlass { tenant, operation, rules } => Asked {
                name: "breakGlass",
                resource: tenant,
                context: vec![text("operation", operation), ("rules".to_owned(), strings(rules))],
                operator: None,
                persons: Named::Nobody,
            },
            Self::ReviewBreakGlass { tenant, person, operation, rules, excluded } => Asked {
                name: "reviewBreakGlass",
                resource: tenant,
                context: vec![text("operation", operation), ("rules".to_owned(), strings(rules))],
                operator: None,
                persons: Named::Reviewed { person, excluded },
            },
        }
    }
}
