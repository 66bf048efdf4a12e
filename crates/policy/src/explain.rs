//! Why an answer is what it is, and what somebody may expect before they ask.

use std::collections::BTreeSet;

use cedar_policy::{Effect, Entity, Policy};
use countersign_core::EntityRef;
use serde::Serialize;

use crate::bundle::AskingRule;
use crate::clause::{Clause, Ground, Holds};
use crate::decide::{Evaluation, Query, QueryError};
use crate::entities::to_ref;
use crate::request::Prepared;
use crate::view::View;

/// The context fields that only the enforcement point knows, when it asks.
const OF_THE_MOMENT: [&str; 2] = ["input", "environment"];

/// A decision, with an account of every policy that could have had a say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What is decided.
    pub evaluation: Evaluation,
    /// The policies whose scope can match the operation: those that decided first, then those of which least is missing.
    pub accounts: Vec<Account>,
}

/// What one policy says, clause by clause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Its id.
    pub policy: String,
    /// Whether it permits; it forbids otherwise.
    pub permits: bool,
    /// Whether people can lift it.
    pub asks: bool,
    /// Whether the answer is its doing.
    pub decided: bool,
    /// Its clauses, in the order in which Cedar evaluates them.
    pub clauses: Vec<Clause>,
}

/// Whether a policy applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    /// Every clause holds.
    Yes,
    /// One does not.
    No,
    /// It depends on clauses about what is not known.
    Open,
    /// It cannot be evaluated, which denies.
    Fails,
}

impl Account {
    /// How many clauses do not hold.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.clauses.iter().filter(|clause| clause.holds != Holds::Yes).count()
    }

    /// Whether it applies; of a rule that people can lift, unless they do.
    #[must_use]
    pub fn applies(&self) -> Applies {
        let mut applies = Applies::Yes;
        for clause in self.clauses.iter().filter(|clause| !clause.lifting) {
            match clause.holds {
                Holds::Yes | Holds::Unreached => {}
                Holds::No => return Applies::No,
                Holds::Open => applies = Applies::Open,
                Holds::Failed(_) if applies == Applies::Yes => return Applies::Fails,
                Holds::Failed(_) => {}
            }
        }
        applies
    }
}

/// What comes of an operation whose input and environment are not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// Whether it is permitted, as far as that is certain.
    pub prospect: Prospect,
    /// The rules that ask for people in any case, sorted by id.
    pub asks: Vec<AskingRule>,
    /// The policies that it depends on: those that are not certain to apply, and not certain not to.
    pub depends: Vec<Account>,
}

/// Whether something is permitted, as far as that is certain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prospect {
    /// DENY, whatever the input: by these policies, or, if there are none, since no policy permits it.
    Never(Vec<String>),
    /// It is permitted, unless a forbid that it depends on applies.
    Permitted,
    /// It is permitted only if a permit that it depends on applies.
    Perhaps,
}

impl View<'_> {
    /// Decides, and gives an account of every policy whose scope can match the operation.
    ///
    /// # Errors
    /// As [`View::decide`].
    pub fn explain(&self, query: &Query<'_>) -> Result<Explanation, QueryError> {
        let evaluation = self.decide(query)?;
        let request = Prepared::new(*self, query)?;
        let mut accounts = self.accounts(&request.ground(query.approval, &[])?, query.operation);
        for account in &mut accounts {
            account.decided = evaluation.determining.contains(&account.policy);
        }
        accounts.sort_by_key(|account| (!account.decided, account.missing(), account.policy.clone()));
        Ok(Explanation { evaluation, accounts })
    }

    /// What comes of an operation before its input and environment are known; those of `query` are not looked at.
    ///
    /// # Errors
    /// As [`View::decide`].
    pub fn outlook(&self, query: &Query<'_>) -> Result<Outlook, QueryError> {
        let request = Prepared::without_moment(*self, query)?;
        let accounts = self.accounts(&request.ground(query.approval, &OF_THE_MOMENT)?, query.operation);
        let ids = |wanted: &dyn Fn(&Account) -> bool| -> Vec<String> {
            accounts.iter().filter(|account| wanted(account)).map(|account| account.policy.clone()).collect()
        };
        let fatal = ids(&|a| a.applies() == Applies::Fails || (a.applies() == Applies::Yes && !a.permits && !a.asks));
        let asking = ids(&|a| a.applies() == Applies::Yes && a.asks);
        let permitted = |applies| accounts.iter().any(|a| a.permits && a.applies() == applies);
        let (certain, possible) = (permitted(Applies::Yes), permitted(Applies::Open));
        if !fatal.is_empty() || !(certain || possible) {
            return Ok(Outlook { prospect: Prospect::Never(fatal), asks: Vec::new(), depends: Vec::new() });
        }
        let asks = asking.iter().filter_map(|rule| self.bundle.asking(rule)).cloned().collect();
        let prospect = if certain { Prospect::Permitted } else { Prospect::Perhaps };
        // A permit that may apply too changes nothing where another one does.
        let matters = |account: &Account| account.applies() == Applies::Open && !(account.permits && certain);
        Ok(Outlook { prospect, asks, depends: accounts.into_iter().filter(matters).collect() })
    }

    /// The entities that an operation can act upon, sorted. An operation can also be asked for about others.
    #[must_use]
    pub fn resources_of(&self, operation: &str) -> Vec<EntityRef> {
        let Some(operation) = self.bundle.operations.get(operation) else { return Vec::new() };
        let own = self.bundle.directory.entities.iter().map(Entity::uid);
        let all = own.chain(self.stored().uids());
        let fits = |entity: &EntityRef| operation.resources.iter().any(|kind| kind == entity.kind());
        all.filter_map(|uid| to_ref(&uid).ok()).filter(fits).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn accounts(&self, ground: &Ground<'_>, operation: &str) -> Vec<Account> {
        let Some(operation) = self.bundle.operations.get(operation) else { return Vec::new() };
        let account = |policy: &Policy| {
            let id = policy.id().to_string();
            Account {
                permits: policy.effect() == Effect::Permit,
                asks: self.bundle.asking(&id).is_some(),
                decided: false,
                clauses: ground.clauses(&id, policy),
                policy: id,
            }
        };
        let mut accounts: Vec<Account> = operation.policies.whole().policies().map(account).collect();
        accounts.sort_by(|a, b| a.policy.cmp(&b.policy));
        accounts
    }
}
