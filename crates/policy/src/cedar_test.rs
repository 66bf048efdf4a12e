//! Tests in the format of Cedar's own command line (`cedar run-tests`), played unchanged.
//!
//! Such a test sees Cedar and nothing of the service: it gives the whole context, as the composed schema has it, and all
//! entities. What is played is the policies whose scope can match the action, kernel policies included.

use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicyId, PolicySet, Request};
use serde::Deserialize;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::source::SCENARIOS;

/// One test.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CedarTest {
    /// What it is called.
    #[serde(default)]
    pub name: Option<String>,
    request: Asked,
    entities: Value,
    decision: Expected,
    reason: Vec<String>,
    num_errors: usize,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Asked {
    principal: String,
    action: String,
    resource: String,
    context: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allow,
    Deny,
}

impl CedarTest {
    /// Reads a file of them: a JSON list.
    ///
    /// # Errors
    /// What cannot be read, as a sentence with its line.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// Plays it and returns what came out otherwise than expected, as sentences.
    #[must_use]
    pub fn play(&self, bundle: &Bundle) -> Vec<String> {
        self.played(bundle).unwrap_or_else(|error| vec![error])
    }

    fn played(&self, bundle: &Bundle) -> Result<Vec<String>, String> {
        let uid = |name: &str, text: &str| {
            text.parse::<EntityUid>().map_err(|error| format!("the {name} `{text}` cannot be read: {error}"))
        };
        let action = uid("action", &self.request.action)?;
        let schema = bundle.schema();
        let slice = bundle.slices().find(|slice| *slice.action == action);
        let policies: &PolicySet = match &slice {
            Some(slice) => &slice.policies,
            None => return Err(format!("the schema has no action `{action}`")),
        };
        let context = match &self.request.context {
            None => Context::empty(),
            Some(given) => Context::from_json_value(given.clone(), Some((schema, &action)))
                .map_err(|error| format!("the context cannot be read: {error}"))?,
        };
        let (principal, resource) =
            (uid("principal", &self.request.principal)?, uid("resource", &self.request.resource)?);
        let request = Request::new(principal, action, resource, context, Some(schema))
            .map_err(|error| format!("the request does not fit the schema: {error}"))?;
        let entities = Entities::from_json_value(self.entities.clone(), Some(schema))
            .map_err(|error| format!("the entities cannot be read: {error}"))?;
        let response = Authorizer::new().is_authorized(&request, policies, &entities);
        let decision = match response.decision() {
            Decision::Allow => Expected::Allow,
            Decision::Deny => Expected::Deny,
        };
        let mut wrong = Vec::new();
        if decision != self.decision {
            wrong.push(format!("expected {:?}, got {decision:?}", self.decision));
        }
        let reasons: Vec<&PolicyId> = response.diagnostics().reason().collect();
        for missing in self.reason.iter().filter(|id| !reasons.contains(&&PolicyId::new(id))) {
            wrong.push(format!("expected `{missing}` among the reasons, got {reasons:?}"));
        }
        let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        if errors.len() != self.num_errors {
            wrong.push(format!("expected {} policies to fail, {} did: {errors:?}", self.num_errors, errors.len()));
        }
        Ok(wrong)
    }
}

impl Bundle {
    /// The files of tests in the format of `cedar run-tests`, by path, each with its text.
    pub fn cedar_test_files(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.source().files().iter();
        let files = files.filter(|(file, _)| file.starts_with(SCENARIOS) && is_cedar_test(file));
        files.map(|(file, text)| (file.as_str(), text.as_str()))
    }
}

/// Every JSON file among the scenarios, but the one with the stored entities.
fn is_cedar_test(file: &str) -> bool {
    file.ends_with(".json") && file != crate::scenario::STORED
}
