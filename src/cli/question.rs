//! Questions to the policies of a directory: put together on the command line, taken from a scenario or from a record.

use std::path::PathBuf;

use clap::Args;
use countersign::proto::{ListEntitiesRequest, ListRecordsRequest};
use countersign_core::ledger::Standing;
use countersign_core::visible::Visible;
use countersign_core::{EntityRef, Timestamp};
use countersign_policy::scenario::{Expect, Scenario};
use countersign_policy::{Bundle, Entities, Question, RecordedDecision, Source, View};

use super::Failure;
use super::args::{Connection, HolderArg, parse_entity, read_record, read_text};
use super::output::Output;

/// A bundle's directory.
#[derive(Debug, Args)]
pub struct BundleDir {
    /// The bundle's directory
    pub dir: PathBuf,
}

/// A bundle's directory, and what lies in the store beside it.
#[derive(Debug, Args)]
pub struct BundleArgs {
    #[command(flatten)]
    dir: BundleDir,
    /// What lies in the store: `@FILE` or `-`, as `countersign entity list --json` prints it; otherwise what the scenarios have
    #[arg(long, value_name = "@FILE")]
    entities: Option<String>,
}

/// Who acts, for whom and when.
#[derive(Debug, Args)]
pub struct ActorArgs {
    /// Who acts, such as `Agent::etl-bot`
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity)]
    principal: Option<EntityRef>,
    /// The person the principal acts for
    #[arg(long, value_name = "ENTITY", value_parser = parse_entity)]
    operator: Option<EntityRef>,
    /// What the session is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    purpose: String,
    /// The enforcement point that would execute it, whose owner may not answer
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    audience: String,
    /// To whom the capability would be bound; to nobody, if absent
    #[arg(long, value_name = "KIND", value_enum)]
    holder: Option<HolderArg>,
    /// The time that decides, such as `2026-11-20T18:00:00Z`; now, if absent
    #[arg(long, value_name = "TIME")]
    at: Option<jiff::Timestamp>,
    /// A label that the session has; several times for several
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// How much of a counter is used up, such as `exports=4`; several times for several
    #[arg(long = "counter", value_name = "NAME=N", value_parser = parse_counter)]
    counters: Vec<(String, u64)>,
    /// How many actions of the session were redeemed and not completed
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    unresolved: u64,
}

fn parse_counter(text: &str) -> Result<(String, u64), String> {
    let counter = text.split_once('=').and_then(|(name, used)| Some((name.to_owned(), used.parse().ok()?)));
    counter.ok_or_else(|| "expected a counter and a number, such as `exports=4`".to_owned())
}

/// What is asked.
#[derive(Debug, Args)]
pub struct QuestionArgs {
    #[command(flatten)]
    pub bundle: BundleArgs,
    /// The operation, such as `export`
    #[arg(requires = "resource", requires = "principal")]
    operation: Option<String>,
    /// What is acted upon, such as `Dataset::customers`
    #[arg(value_parser = parse_entity)]
    resource: Option<EntityRef>,
    #[command(flatten)]
    actor: ActorArgs,
    /// The arguments: a JSON object, `@FILE`, or `-` for stdin
    #[arg(long, value_name = "JSON", default_value = "{}")]
    input: String,
    /// The circumstances that the enforcement point vouches for: a JSON object, `@FILE`, or `-` for stdin
    #[arg(long, value_name = "JSON", default_value = "{}")]
    environment: String,
    /// Ask what the one scenario asks whose name contains this
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["operation", "record", "ActorArgs", "input", "environment"])]
    scenario: Option<String>,
    /// Ask what the record of a decision asked, by its index in the server's log
    #[arg(long, value_name = "INDEX", conflicts_with_all = ["operation", "ActorArgs", "input", "environment"])]
    record: Option<u64>,
}

impl BundleDir {
    /// The bundle.
    pub fn load(&self) -> Result<Bundle, Failure> {
        let source = Source::read_dir(&self.dir).map_err(|error| Failure::new(error.to_string()))?;
        Bundle::load(source).map_err(|refused| {
            Failure::new(format!("the bundle is refused:\n{refused}"))
                .hint("see all of it with `countersign policy check DIR`")
        })
    }
}

impl BundleArgs {
    /// The bundle.
    pub fn load(&self) -> Result<Bundle, Failure> {
        self.dir.load()
    }

    /// What was said to lie in the store; otherwise what the bundle's scenarios have there.
    pub fn stored(&self, bundle: &Bundle) -> Result<Entities, Failure> {
        match &self.entities {
            Some(text) => {
                let text = read_text(text, "entities")?;
                bundle.read_entities(&text).map_err(|error| Failure::usage(format!("`--entities`: {error}")))
            }
            None => bundle.scenario_entities().map_err(Failure::new),
        }
    }

    /// What was said to lie in the store; otherwise what lies in the server's.
    pub async fn stored_now(&self, bundle: &Bundle, connection: &Connection) -> Result<Entities, Failure> {
        if self.entities.is_some() || bundle.stored_types().is_empty() {
            return self.stored(bundle);
        }
        let client = connection.client().await?;
        let mut lines = String::new();
        let page = async |page_size, page_token| {
            let request = ListEntitiesRequest { page_size, page_token, ..Default::default() };
            let page = client.list_entities(request).await?;
            Ok((page.entities, page.next_page_token))
        };
        let keep = |entity| {
            lines.push_str(&format!("{}\n", super::json::stored_entity(&entity)));
            Ok(())
        };
        super::pages::each(usize::MAX, page, keep).await?;
        bundle.read_entities(&lines).map_err(|error| Failure::new(error.to_string()))
    }
}

impl ActorArgs {
    /// The time that decides.
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.at.unwrap_or_else(jiff::Timestamp::now).as_millisecond())
    }

    /// What stays of what was done before.
    pub fn standing(&self, bundle: &Bundle) -> Result<Standing, Failure> {
        let rules = bundle.kept();
        let unknown = self.labels.iter().find(|label| !rules.labels.contains_key(*label));
        if let Some(label) = unknown {
            return Err(Failure::usage(format!("the bundle has no label `{}`", Visible::new(label))));
        }
        if let Some((name, _)) = self.counters.iter().find(|(name, _)| !rules.counters.contains_key(name)) {
            return Err(Failure::usage(format!("the bundle has no counter `{}`", Visible::new(name))));
        }
        Ok(Standing {
            labels: self.labels.iter().cloned().collect(),
            counters: self.counters.iter().cloned().collect(),
            unresolved: self.unresolved,
        })
    }

    /// What this actor would ask. Scenarios are questions with expectations; here nothing is expected.
    pub fn scenario(&self, operation: &str, resource: &EntityRef) -> Result<Scenario, Failure> {
        let principal = self.principal.clone().ok_or_else(|| {
            Failure::usage("nobody acts; say who with `--principal`, such as `--principal Agent::etl-bot`")
        })?;
        Ok(Scenario {
            name: String::new(),
            now: self.now(),
            principal,
            operator: self.operator.clone(),
            operation: operation.to_owned(),
            resource: resource.clone(),
            audience: self.audience.clone(),
            purpose: self.purpose.clone(),
            input: countersign_core::Record::new(),
            environment: countersign_core::Record::new(),
            holder: self.holder.map(Into::into),
            expect: Expect::Allow,
            rules: None,
            before: Vec::new(),
            vote: Vec::new(),
            after: None,
        })
    }
}

impl QuestionArgs {
    /// The question, and the stored entities to ask it with.
    pub async fn question(
        &self,
        bundle: &Bundle,
        connection: &Connection,
        output: &mut Output,
    ) -> Result<(Question, Entities), Failure> {
        if let Some(index) = self.record {
            let stored = self.bundle.stored_now(bundle, connection).await?;
            return Ok((recorded(index, bundle, connection, output).await?, stored));
        }
        let stored = self.bundle.stored(bundle)?;
        let scenario = match (&self.scenario, &self.operation, &self.resource) {
            (Some(text), _, _) => only_scenario(bundle, text)?,
            (None, Some(operation), Some(resource)) => Scenario {
                input: read_record(&self.input, "input")?,
                environment: read_record(&self.environment, "environment")?,
                ..self.actor.scenario(operation, resource)?
            },
            (None, _, _) => {
                let message = "nothing is asked; name an operation and a resource, a `--scenario` or a `--record`";
                return Err(Failure::usage(message));
            }
        };
        known(&scenario, bundle.with(&stored, None))?;
        let mut question = scenario.question(bundle.with(&stored, None));
        if self.scenario.is_none() {
            question.standing = self.actor.standing(bundle)?;
        }
        Ok((question, stored))
    }
}

/// Whoever is misspelt has no owner, and who may not answer would be wrong.
fn known(scenario: &Scenario, view: View<'_>) -> Result<(), Failure> {
    let point = EntityRef::new("EnforcementPoint", &scenario.audience).ok().filter(|_| !scenario.audience.is_empty());
    for (said, named) in [
        ("principal", Some(&scenario.principal)),
        ("operator", scenario.operator.as_ref()),
        ("audience", point.as_ref()),
    ] {
        if let Some(named) = named.filter(|named| !view.contains(named)) {
            let problem =
                format!("`{said}`: there is no {} in the bundle or its store", Visible::new(&named.to_string()));
            return Err(Failure::usage(problem));
        }
    }
    Ok(())
}

fn only_scenario(bundle: &Bundle, wanted: &str) -> Result<Scenario, Failure> {
    let mut found = Vec::new();
    for (file, text) in bundle.scenario_files() {
        let scenarios = Scenario::parse_file(text)
            .map_err(|error| Failure::new(format!("{}:{}: {}", Visible::new(file), error.line, error.message)))?;
        found.extend(scenarios.into_iter().filter(|scenario| scenario.name.contains(wanted)));
    }
    // A name that is given whole is meant, even if others contain it.
    if let Some(exact) = found.iter().position(|scenario| scenario.name == wanted) {
        return Ok(found.swap_remove(exact));
    }
    match <[Scenario; 1]>::try_from(found) {
        Ok([scenario]) => Ok(scenario),
        Err(found) if found.is_empty() => {
            Err(Failure::usage(format!("no scenario has `{}` in its name", Visible::new(wanted)))
                .hint("list them with `countersign policy test DIR`"))
        }
        Err(found) => {
            let names: Vec<String> = found.iter().take(5).map(|s| format!("  {}", Visible::new(&s.name))).collect();
            Err(Failure::usage(format!(
                "{} scenarios have `{}` in their names:\n{}",
                found.len(),
                Visible::new(wanted),
                names.join("\n")
            )))
        }
    }
}

async fn recorded(
    index: u64,
    bundle: &Bundle,
    connection: &Connection,
    output: &mut Output,
) -> Result<Question, Failure> {
    let request = ListRecordsRequest { start: index, page_size: 1, page_token: String::new() };
    let page = connection.client().await?.list_records(request).await?;
    let record = page.records.into_iter().find(|record| record.index == index);
    let record =
        record.ok_or_else(|| Failure::new(format!("record {index} is not in the log")).reason("NOT_IN_LOG"))?;
    let decision = RecordedDecision::read(&record.content).map_err(|error| Failure::new(error.to_string()))?;
    let decision = decision.ok_or_else(|| {
        Failure::usage(format!("record {index} is of the kind `{}`, and not a decision", Visible::new(&record.kind)))
            .hint("list decisions with `countersign audit list --kind decision`")
    })?;
    output.remark(&format!("{} was {}", Visible::new(&decision.id), Visible::new(&decision.verdict)));
    if decision.bundle != bundle.digest() {
        output.remark(&format!("it was made by the bundle {}, and this one is {}", decision.bundle, bundle.digest()));
    }
    if !decision.withheld.is_empty() {
        output.remark(&format!(
            "its sensitive inputs are not in the record, and are missing here: {}",
            Visible::new(&decision.withheld.join(", "))
        ));
    }
    Ok(decision.question)
}
