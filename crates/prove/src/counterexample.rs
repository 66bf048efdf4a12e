//! A request that refutes a property, in words, and what the authorizer says to it.

use std::collections::BTreeMap;

use cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Entities, Entity, EntityUid, EvalResult, PolicySet, Request,
    Schema,
};
use cedar_policy_symcc::Env;
use serde_json::{Value, json};

/// One request, with everything that it was decided on.
#[derive(Debug, Clone, PartialEq)]
pub struct Counterexample {
    /// Who asks.
    pub principal: Thing,
    /// The action, as in Cedar.
    pub action: String,
    /// What is acted upon.
    pub resource: Thing,
    /// The fields of the context, each by its whole path.
    pub context: Vec<(String, String)>,
    /// Everything else that there is.
    pub others: Vec<Thing>,
    /// The policies that fail on it; empty unless that is what refutes.
    pub failing: Vec<String>,
    /// What the authorizer says.
    pub replay: Replay,
    /// The request and the entities in Cedar's JSON, for ordinary Cedar tools.
    pub json: Value,
}

/// An entity, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// As in Cedar.
    pub name: String,
    /// Its attributes.
    pub attributes: Vec<(String, String)>,
    /// Its tags.
    pub tags: Vec<(String, String)>,
    /// Everything that it is in.
    pub parents: Vec<String>,
}

/// What Cedar's authorizer, the one that decides, says to a counterexample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// Whether it allows.
    pub allowed: bool,
    /// The policies that determined that, sorted.
    pub policies: Vec<String>,
    /// The policies that failed, sorted.
    pub failed: Vec<String>,
}

/// A counterexample of the solver's as a request that the schema accepts.
pub(crate) struct Concrete {
    request: Request,
    entities: Entities,
}

impl Concrete {
    /// Holds it against the schema, as every request is before it is decided.
    pub(crate) fn new(found: &Env, schema: &Schema) -> Result<Self, String> {
        let asked = &found.request;
        let (Some(principal), Some(action), Some(resource)) = (asked.principal(), asked.action(), asked.resource())
        else {
            return Err("it is only part of a request".into());
        };
        let context = asked.context().cloned().unwrap_or_else(Context::empty);
        let request = Request::new(principal.clone(), action.clone(), resource.clone(), context, Some(schema));
        let request = request.map_err(|error| error.to_string())?;
        // The schema brings its own actions.
        let things = found.entities.iter().filter(|entity| entity.uid().type_name().basename() != "Action").cloned();
        let entities = Entities::from_entities(things, Some(schema)).map_err(|error| crate::session::told(&error))?;
        Ok(Self { request, entities })
    }

    /// What the authorizer says to it with these policies.
    pub(crate) fn replay(&self, policies: &PolicySet) -> Replay {
        let response = Authorizer::new().is_authorized(&self.request, policies, &self.entities);
        let failed = |error: &AuthorizationError| {
            let AuthorizationError::PolicyEvaluationError(error) = error;
            error.policy_id().to_string()
        };
        let mut replay = Replay {
            allowed: response.decision() == Decision::Allow,
            policies: response.diagnostics().reason().map(ToString::to_string).collect(),
            failed: response.diagnostics().errors().map(failed).collect(),
        };
        replay.policies.sort();
        replay.failed.sort();
        replay
    }

    /// It in words.
    pub(crate) fn told(&self, failing: Vec<String>, replay: Replay) -> Counterexample {
        let uid = |uid: Option<&EntityUid>| uid.cloned();
        let (principal, resource) = (uid(self.request.principal()), uid(self.request.resource()));
        let thing = |uid: &Option<EntityUid>| uid.as_ref().map_or_else(Thing::nothing, |uid| self.thing(uid));
        let is_other = |entity: &&Entity| {
            let uid = entity.uid();
            uid.type_name().basename() != "Action"
                && Some(&uid) != principal.as_ref()
                && Some(&uid) != resource.as_ref()
        };
        let mut others: Vec<Thing> =
            self.entities.iter().filter(is_other).map(|entity| self.thing(&entity.uid())).collect();
        others.sort_by(|a, b| a.name.cmp(&b.name));
        let context = self.request.context().cloned().unwrap_or_else(Context::empty);
        let context_json = context.to_json_value().unwrap_or_default();
        let mut fields = Vec::new();
        for name in context_json.as_object().into_iter().flat_map(|fields| fields.keys()) {
            if let Some(value) = context.get(name) {
                flatten(name, &value, &mut fields);
            }
        }
        let json = json!({
            "principal": principal.as_ref().map(ToString::to_string),
            "action": self.request.action().map(ToString::to_string),
            "resource": resource.as_ref().map(ToString::to_string),
            "context": context_json,
            "entities": self.entities.to_json_value().unwrap_or_default(),
        });
        Counterexample {
            principal: thing(&principal),
            action: self.request.action().map(ToString::to_string).unwrap_or_default(),
            resource: thing(&resource),
            context: fields,
            others,
            failing,
            replay,
            json,
        }
    }

    fn thing(&self, uid: &EntityUid) -> Thing {
        let mut thing = Thing { name: uid.to_string(), ..Thing::nothing() };
        if let Some(entity) = self.entities.get(uid) {
            let values = |pairs: BTreeMap<&str, EvalResult>| {
                let mut fields = Vec::new();
                pairs.iter().for_each(|(name, value)| flatten(name, value, &mut fields));
                fields
            };
            let readable = |(name, value): (_, Result<EvalResult, _>)| value.ok().map(|value| (name, value));
            thing.attributes = values(entity.attrs().filter_map(readable).collect());
            thing.tags = values(entity.tags().filter_map(readable).collect());
        }
        thing.parents = self.entities.ancestors(uid).into_iter().flatten().map(ToString::to_string).collect();
        thing.parents.sort();
        thing
    }
}

impl Thing {
    const fn nothing() -> Self {
        Self { name: String::new(), attributes: Vec::new(), tags: Vec::new(), parents: Vec::new() }
    }
}

/// Records are taken apart, so that each value stands behind its whole path.
fn flatten(path: &str, value: &EvalResult, into: &mut Vec<(String, String)>) {
    match value {
        EvalResult::Record(record) if record.iter().next().is_some() => {
            for (name, value) in record.iter() {
                flatten(&format!("{path}.{name}"), value, into);
            }
        }
        EvalResult::Bool(_)
        | EvalResult::Long(_)
        | EvalResult::String(_)
        | EvalResult::EntityUid(_)
        | EvalResult::Set(_)
        | EvalResult::Record(_)
        | EvalResult::ExtensionValue(_) => into.push((path.to_owned(), value.to_string())),
    }
}
