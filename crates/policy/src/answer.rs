//! Who may answer for a rule.

use std::collections::BTreeSet;
use std::time::Duration;

use cedar_policy::{EntityUid, RestrictedExpression};
use countersign_core::visible::Visible;
use countersign_core::{EntityRef, Timestamp};

use crate::bundle::Reserved;
use crate::compose::APPROVE;
use crate::decide::QueryError;
use crate::request::{Pairs, Pass, circumstances, evaluate};
use crate::view::View;

/// The most members of one group that are looked at to name who could answer.
const MOST_MEMBERS: usize = 10_000;

/// What a person is asked to answer for.
#[derive(Debug, Clone)]
pub struct AnswerQuery<'a> {
    /// The operation of the action.
    pub operation: &'a str,
    /// What it acts upon.
    pub resource: &'a EntityRef,
    /// The principal of the action.
    pub requester: &'a EntityRef,
    /// The person the principal acts for.
    pub operator: Option<&'a EntityRef>,
    /// The persons who may not answer, whatever the policies say. Persons only.
    pub excluded: &'a BTreeSet<EntityRef>,
    /// For how long the question has waited for people: zero before anybody is asked.
    pub waited: Duration,
    /// The time that decides.
    pub now: Timestamp,
}

/// A yes or no of the `approve` or the `admin` set. The default is no.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is permitted. Any evaluation error makes it false.
    pub permitted: bool,
    /// The ids of the policies that determined it, sorted.
    pub policies: Vec<String>,
    /// What could not be evaluated.
    pub errors: Vec<String>,
}

/// Who could answer for a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answerers {
    /// The groups that the rule's `approve` policies name.
    pub groups: Vec<EntityRef>,
    /// Their members who may answer, and persons whom the policies name, sorted.
    pub persons: Vec<EntityRef>,
    /// Whether there are more persons than the limit.
    pub truncated: bool,
}

impl<'v> View<'v> {
    /// Whether a person may answer for a rule. Whoever is excluded may not: Cedar's kernel says so, and so does this.
    #[must_use]
    pub fn may_answer(&self, rule: &str, person: &EntityRef, query: &AnswerQuery<'_>) -> Answer {
        match self.answering(rule, query) {
            Ok(answering) => answering.judge(person),
            Err(error) => Answer::failed(error.to_string()),
        }
    }

    /// Who could answer for a rule: at most `limit` persons, taken from the groups that the `approve` policies name for
    /// the rule, and each judged by those policies.
    #[must_use]
    pub fn answerers(&self, rule: &str, query: &AnswerQuery<'_>, limit: usize) -> Answerers {
        let (Some(candidates), Ok(answering)) = (self.bundle.answerable.get(rule), self.answering(rule, query)) else {
            return Answerers::default();
        };
        let groups = candidates.groups.iter().cloned().collect();
        let members = candidates.groups.iter().flat_map(|group| self.members(group, MOST_MEMBERS));
        let known = candidates.persons.iter().filter(|person| self.contains(person)).cloned();
        let everybody: BTreeSet<EntityRef> = members.chain(known).collect();
        let mut eligible = everybody.into_iter().filter(|person| answering.judge(person).permitted);
        let persons = eligible.by_ref().take(limit).collect();
        Answerers { groups, persons, truncated: eligible.next().is_some() }
    }

    fn answering<'a>(&self, rule: &str, query: &'a AnswerQuery<'a>) -> Result<Answering<'a>, QueryError>
    where
        'v: 'a,
    {
        let bundle = self.bundle;
        let invalid = |field: &str, reason: String| QueryError::Invalid { field: field.to_owned(), reason };
        if bundle.asking(rule).is_none() {
            return Err(invalid("rule", format!("`{}` is no rule that people can lift", Visible::cut(rule, 64))));
        }
        let action = bundle.reserved.get(APPROVE).ok_or_else(|| invalid("action", "is missing".into()))?;
        let resource = bundle.directory.uid(query.resource);
        let resource =
            resource.ok_or_else(|| invalid("resource", format!("`{}` has no known type", query.resource)))?;
        let text = |text: String| RestrictedExpression::new_string(text);
        let mut context = vec![
            ("rule".to_owned(), text(rule.to_owned())),
            ("operation".to_owned(), text(query.operation.to_owned())),
            ("requester".to_owned(), text(query.requester.to_string())),
            ("waited".to_owned(), RestrictedExpression::new_duration(format!("{}ms", query.waited.as_millis()))),
        ];
        context.extend(circumstances(bundle, query.operator, query.excluded, query.now)?);
        Ok(Answering { view: *self, query, action, resource, context })
    }
}

/// A question about answering that lacks only the person.
struct Answering<'a> {
    view: View<'a>,
    query: &'a AnswerQuery<'a>,
    action: &'a Reserved,
    resource: EntityUid,
    context: Pairs,
}

impl Answering<'_> {
    fn judge(&self, person: &EntityRef) -> Answer {
        if self.query.excluded.contains(person) {
            return Answer { policies: vec!["kernel-answered-by-an-excluded-person".into()], ..Answer::default() };
        }
        let directory = &self.view.bundle.directory;
        let Some(uid) = directory.uid(person) else {
            return Answer::failed(format!("`{person}` has no known type"));
        };
        let operator = self.query.operator.and_then(|operator| directory.uid(operator));
        let roots: Vec<&EntityUid> = [&uid, &self.resource].into_iter().chain(&operator).collect();
        let pass = self.view.slice(&roots, &self.action.uid).and_then(|slice| {
            let uids = (uid.clone(), self.action.uid.clone(), self.resource.clone());
            evaluate(self.view, &slice, uids, self.context.clone(), &self.action.policies)
        });
        Answer::of(pass)
    }
}

impl Answer {
    /// Any error makes it a no.
    pub(crate) fn of(pass: Result<Pass, QueryError>) -> Self {
        match pass {
            Ok(pass) => Self {
                permitted: pass.allowed && pass.errors.is_empty(),
                policies: pass.determining,
                errors: pass.errors.into_iter().map(|failure| failure.text).collect(),
            },
            Err(error) => Self::failed(error.to_string()),
        }
    }

    pub(crate) fn failed(error: String) -> Self {
        Self { errors: vec![error], ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{Bundle, Source};

    /// The lock in Rust stands before Cedar's; this is Cedar's alone.
    #[test]
    fn the_kernel_by_itself_lets_nobody_answer_who_is_excluded() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/minimal");
        let bundle = Bundle::load(Source::read_dir(&path).unwrap()).unwrap();
        let entity = |text| EntityRef::parse(text).unwrap();
        let (document, bot, erin) =
            (entity("Document::\"handbook\""), entity("Agent::\"bot\""), entity("Person::\"erin\""));
        for (excluded, permitted) in [(BTreeSet::new(), true), (BTreeSet::from([erin.clone()]), false)] {
            let query = AnswerQuery {
                operation: "publish_document",
                resource: &document,
                requester: &bot,
                operator: None,
                excluded: &excluded,
                waited: Duration::ZERO,
                now: Timestamp::from_millis(0),
            };
            let asked = bundle.alone().answering("publishing-needs-an-editor", &query).unwrap();
            let uids = (bundle.directory.uid(&erin).unwrap(), asked.action.uid.clone(), asked.resource.clone());
            let view = bundle.alone();
            let slice = view.slice(&[&uids.0, &uids.2], &uids.1).unwrap();
            let answer = Answer::of(evaluate(view, &slice, uids, asked.context.clone(), &asked.action.policies));
            assert_eq!(answer.permitted, permitted, "{answer:?}");
        }
    }
}
