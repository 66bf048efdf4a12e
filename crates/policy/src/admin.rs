//! The service's own API, authorized by the same bundle.

use std::collections::BTreeSet;

use cedar_policy::{EntityUid, RestrictedExpression};
use countersign_core::{Digest, EntityRef, HolderKind, Timestamp};

use crate::answer::Answer;
use crate::decide::QueryError;
use crate::request::{Pairs, Pass, clock, evaluate, holder_of, operator_of, person, persons, strings};
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
        /// How many sessions it is opened below.
        depth: u32,
    },
    /// `startClean`: open a session for `principal` in which the labels of before do not count.
    StartClean {
        /// Who is to act in it.
        principal: &'a EntityRef,
        /// What it is for.
        purpose: &'a str,
        /// The labels that would count.
        labels: &'a BTreeSet<String>,
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
    /// `stayOpen`: be given a capability that its holder may narrow without asking.
    StayOpen {
        /// The audience of the capability.
        enforcement_point: &'a EntityRef,
        /// The operation.
        operation: &'a str,
        /// How whoever it is bound to proves it, if it is.
        holder: Option<HolderKind>,
    },
    /// `revoke`: revoke a capability, or an approval, of `principal`.
    Revoke {
        /// Whose it is.
        principal: &'a EntityRef,
    },
    /// `revokeAll`: revoke all that a bundle allowed, or everything.
    RevokeAll {
        /// The tenant.
        tenant: &'a EntityRef,
        /// The bundle; everything without one.
        bundle: Option<Digest>,
    },
    /// `readRevocations`: be told of every revocation.
    ReadRevocations {
        /// The tenant.
        tenant: &'a EntityRef,
    },
    /// `resolveOutcome`: say what came of what `principal` did and nobody reported.
    ResolveOutcome {
        /// Whose it was.
        principal: &'a EntityRef,
        /// The operation.
        operation: &'a str,
        /// The persons behind it.
        persons: &'a BTreeSet<EntityRef>,
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
    /// `pruneLog`: drop the oldest records of the audit log.
    PruneLog {
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
        let Asked { name, resource, mut context, operator, holder, persons: named } = query.action.asked();
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
        context.extend(holder_of(holder)?);
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
    holder: Option<HolderKind>,
    persons: Named<'a>,
}

/// Whom the context of an action names, beside an operator.
enum Named<'a> {
    Nobody,
    /// Whom a change binds, or who stands behind what is resolved.
    Bound(&'a BTreeSet<EntityRef>),
    /// Who broke the glass, and who could not have answered.
    Reviewed {
        person: &'a EntityRef,
        excluded: &'a BTreeSet<EntityRef>,
    },
}

impl<'a> AdminAction<'a> {
    /// The reserved action, as policies name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.asked().name
    }

    fn asked(self) -> Asked<'a> {
        let text = |name: &str, value: &str| (name.to_owned(), RestrictedExpression::new_string(value.to_owned()));
        let long = |name: &str, value: i64| (name.to_owned(), RestrictedExpression::new_long(value));
        let plain = |name, resource| Asked {
            name,
            resource,
            context: Vec::new(),
            operator: None,
            holder: None,
            persons: Named::Nobody,
        };
        match self {
            Self::OpenSession { principal, purpose, operator, seconds, depth } => Asked {
                name: "openSession",
                resource: principal,
                context: vec![
                    text("purpose", purpose),
                    long("seconds", i64::from(seconds)),
                    long("depth", i64::from(depth)),
                ],
                operator,
                holder: None,
                persons: Named::Nobody,
            },
            Self::StartClean { principal, purpose, labels, operator, seconds } => Asked {
                name: "startClean",
                resource: principal,
                context: vec![
                    text("purpose", purpose),
                    ("labels".to_owned(), strings(labels)),
                    long("seconds", i64::from(seconds)),
                ],
                operator,
                holder: None,
                persons: Named::Nobody,
            },
            Self::ActFor { principal, operation, operator } => Asked {
                name: "actFor",
                resource: principal,
                context: vec![text("operation", operation)],
                operator,
                holder: None,
                persons: Named::Nobody,
            },
            Self::Redeem { enforcement_point, operation, issuer } => {
                let issuer = issuer.map(|issuer| text("issuer", issuer));
                let context = std::iter::once(text("operation", operation)).chain(issuer).collect();
                Asked {
                    name: "redeem",
                    resource: enforcement_point,
                    context,
                    operator: None,
                    holder: None,
                    persons: Named::Nobody,
                }
            }
            Self::StayOpen { enforcement_point, operation, holder } => Asked {
                name: "stayOpen",
                resource: enforcement_point,
                context: vec![text("operation", operation)],
                operator: None,
                holder,
                persons: Named::Nobody,
            },
            Self::Revoke { principal } => plain("revoke", principal),
            Self::RevokeAll { tenant, bundle } => {
                let bundle = bundle.map(|bundle| text("bundle", &bundle.to_string()));
                Asked { context: bundle.into_iter().collect(), ..plain("revokeAll", tenant) }
            }
            Self::ReadRevocations { tenant } => plain("readRevocations", tenant),
            Self::ResolveOutcome { principal, operation, persons } => Asked {
                name: "resolveOutcome",
                resource: principal,
                context: vec![text("operation", operation)],
                operator: None,
                holder: None,
                persons: Named::Bound(persons),
            },
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
                holder: None,
                persons: Named::Nobody,
            },
            Self::ReadLog { tenant } => plain("readLog", tenant),
            Self::PruneLog { tenant } => plain("pruneLog", tenant),
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
                    holder: None,
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
                holder: None,
                persons: Named::Nobody,
            },
            Self::ReviewBreakGlass { tenant, person, operation, rules, excluded } => Asked {
                name: "reviewBreakGlass",
                resource: tenant,
                context: vec![text("operation", operation), ("rules".to_owned(), strings(rules))],
                operator: None,
                holder: None,
                persons: Named::Reviewed { person, excluded },
            },
        }
    }
}
