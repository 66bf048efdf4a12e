//! `countersign policy prove`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use countersign_core::visible::Visible;
use countersign_policy::{Bundle, SetKind, Source};
use countersign_prove::{
    Case, Counterexample, Finding, Places, Proof, Property, PropertyError, Replay, Solver, Thing, Verdict, find_solver,
    properties, prove,
};
use serde_json::{Value, json};

use super::output::{BAD, FAINT, GOOD, Output, STRONG, WARN, harmless, paint};
use super::text::Lines;
use super::{Exit, Failure};

/// What stands below the help.
pub const EXAMPLES: &str = "\
Properties are built in, and written by the author in properties/*.cedar: a forbid says that nothing which it matches is \
ever allowed, a permit that everything which it matches is. The exit code is 0 only if every one of them is proved.

With --json the answer is {ok, bundle: {name, revision, digest}, solver, properties: [{id, set, says, stated_at: {file, line}, \
verdict, warning, milliseconds, requests: [{principal, action, resource, verdict, reason, counterexample: {request, failing, \
replay: {allowed, policies, failed}}}]}]}. A verdict is proved, refuted, undecided or unconfirmed; stated_at, warning, reason \
and counterexample may be null.

Examples:
  countersign policy prove policies/ai-platform
  countersign policy prove policies/ai-platform --only personal-data-leaves-with-two
  countersign policy prove policies/ai-platform --json --timeout 10 --solver /usr/bin/cvc5";

/// What to prove, and with what.
#[derive(Debug, Args)]
pub struct ProveArgs {
    /// The bundle's directory
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The solver: an executable cvc5, or a Python that has the package; else CVC5, PATH and .venv are looked through
    #[arg(long, value_name = "PATH")]
    solver: Option<PathBuf>,
    /// How long one question to the solver may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout: u64,
    /// Prove this property only; may be given several times
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
}

/// Runs the command.
pub async fn run(args: ProveArgs, output: &mut Output) -> Result<Exit, Failure> {
    let source = Source::read_dir(&args.dir).map_err(|error| Failure::new(error.to_string()))?;
    let refused = |refused: &countersign_policy::Refused| {
        Failure::new(format!("the bundle cannot be proved about as it stands\n{refused}"))
            .hint("everything that is wrong with it is told by `countersign policy check`")
    };
    let bundle = Bundle::load(source).map_err(|error| refused(&error))?;
    let all = properties(&bundle).map_err(|error| match error {
        PropertyError::Refused(error) => refused(&error),
        PropertyError::Broken { .. } => Failure::new(error.to_string()),
    })?;
    let wanted = chosen(all, &args.only)?;
    let solver = find_solver(&Places::here(args.solver))
        .map_err(|error| Failure::new(error.to_string()).reason("SOLVER_MISSING"))?;
    let solver = solver.with_timeout(Duration::from_secs(args.timeout));
    let proofs = prove(&bundle, &wanted, &solver, |step| {
        output.progress(&format!("{} of {}: {}", step.done + 1, step.total, Visible::new(step.property)));
    });
    let proofs = proofs.await;
    let proved = proofs.iter().all(|proof| proof.verdict() == Verdict::Proved);
    output.document(&report(&bundle, &solver, &wanted, &proofs), &human(&bundle, &solver, &wanted, &proofs))?;
    Ok(if proved { Exit::Done } else { Exit::Error })
}

/// The properties that were asked for; all of them if none was named.
fn chosen(all: Vec<Property>, only: &[String]) -> Result<Vec<Property>, Failure> {
    if let Some(unknown) = only.iter().find(|id| all.iter().all(|property| property.id != **id)) {
        let known: Vec<&str> = all.iter().map(|property| property.id.as_str()).collect();
        return Err(Failure::usage(format!("there is no property `{}`", Visible::cut(unknown, 128)))
            .hint(format!("there are: {}", known.join(", "))));
    }
    Ok(all.into_iter().filter(|property| only.is_empty() || only.contains(&property.id)).collect())
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Proved => "proved",
        Verdict::Undecided => "undecided",
        Verdict::Unconfirmed => "unconfirmed",
        Verdict::Refuted => "refuted",
    }
}

const fn set_word(set: SetKind) -> &'static str {
    match set {
        SetKind::Work => "work",
        SetKind::Approve => "approve",
        SetKind::Admin => "admin",
    }
}

fn report(bundle: &Bundle, solver: &Solver, properties: &[Property], proofs: &[Proof]) -> Value {
    let told = properties.iter().zip(proofs).map(|(property, proof)| {
        json!({
            "id": property.id,
            "set": set_word(property.set),
            "says": property.says,
            "stated_at": property.stated_at.as_ref().map(|(file, line)| json!({"file": file, "line": line})),
            "verdict": word(proof.verdict()),
            "warning": proof.warning,
            "milliseconds": u64::try_from(proof.elapsed.as_millis()).unwrap_or(u64::MAX),
            "requests": proof.cases.iter().map(case).collect::<Value>(),
        })
    });
    json!({
        "ok": proofs.iter().all(|proof| proof.verdict() == Verdict::Proved),
        "bundle": {"name": bundle.name(), "revision": bundle.revision(), "digest": bundle.digest().to_string()},
        "solver": solver.version(),
        "properties": told.collect::<Value>(),
    })
}

fn case(case: &Case) -> Value {
    let (reason, counterexample) = match &case.finding {
        Finding::Proved => (None, None),
        Finding::Undecided(reason) => (Some(reason), None),
        Finding::Unconfirmed { reason, counterexample } => (Some(reason), counterexample.as_deref()),
        Finding::Refuted(counterexample) => (None, Some(&**counterexample)),
    };
    let counterexample = counterexample.map(|found| {
        let Replay { allowed, policies, failed } = &found.replay;
        json!({
            "request": found.json,
            "failing": found.failing,
            "replay": {"allowed": allowed, "policies": policies, "failed": failed},
        })
    });
    json!({
        "principal": case.principal,
        "action": case.action,
        "resource": case.resource,
        "verdict": word(case.finding.verdict()),
        "reason": reason,
        "counterexample": counterexample,
    })
}

fn human(bundle: &Bundle, solver: &Solver, properties: &[Property], proofs: &[Proof]) -> String {
    let mut text = Lines::default();
    let width = properties.iter().map(|property| property.id.len()).max().unwrap_or(0);
    for (property, proof) in properties.iter().zip(proofs) {
        let verdict = proof.verdict();
        let mark = match verdict {
            Verdict::Proved => paint(GOOD.bold(), "✓"),
            Verdict::Refuted => paint(BAD, "✗"),
            Verdict::Undecided | Verdict::Unconfirmed => paint(WARN.bold(), "?"),
        };
        let id = paint(STRONG, format!("{:<width$}", Visible::new(&property.id).to_string()));
        let time = paint(FAINT, format!("{} ms", proof.elapsed.as_millis()));
        text.line(format!("{mark} {id}  {}  {time}", Visible::new(&property.says)));
        if let Some(warning) = &proof.warning {
            text.line(format!("  {} {}", paint(WARN, "warning:"), harmless(warning)));
        }
        unproved(&mut text, property, proof);
    }
    let open = proofs.iter().filter(|proof| proof.verdict() != Verdict::Proved).count();
    let time: Duration = proofs.iter().map(|proof| proof.elapsed).sum();
    let bundle = format!("{} revision {}", Visible::new(bundle.name()), bundle.revision());
    text.line(if open == 0 {
        format!("{} {bundle}: {} properties", paint(GOOD.bold(), "proved"), proofs.len())
    } else {
        format!("{} {bundle}: {open} of {} properties", paint(BAD, "not proved"), proofs.len())
    });
    text.line(paint(FAINT, format!("  {} in {:.1} s", Visible::new(solver.version()), time.as_secs_f64())));
    text.finish()
}

/// The worst kind of request in full, and how many others there are.
fn unproved(text: &mut Lines, property: &Property, proof: &Proof) {
    let verdict = proof.verdict();
    if verdict == Verdict::Proved {
        return;
    }
    if let Some((file, line)) = &property.stated_at {
        text.line(format!("    stated at {}:{line}", Visible::new(file)));
    }
    let mut alike = proof.cases.iter().filter(|case| case.finding.verdict() == verdict);
    let Some(first) = alike.next() else { return };
    let others = match alike.count() {
        0 => String::new(),
        1 => ", and for one other kind of request".to_owned(),
        more => format!(", and for {more} other kinds of request"),
    };
    let kind = format!("{} {} {}", first.principal, first.action, first.resource);
    text.line(format!("    {} for {}{others}", paint(BAD, word(verdict)), Visible::new(&kind)));
    match &first.finding {
        Finding::Proved => {}
        Finding::Undecided(reason) => {
            text.line(format!("    {}", harmless(reason)));
        }
        Finding::Refuted(counterexample) => request(text, counterexample),
        Finding::Unconfirmed { reason, counterexample } => {
            text.line(format!(
                "    {}; this is a fault of countersign, and proves nothing: report it",
                harmless(reason)
            ));
            if let Some(counterexample) = counterexample {
                request(text, counterexample);
            }
        }
    }
}

/// A counterexample in words.
fn request(text: &mut Lines, found: &Counterexample) {
    thing(text, "principal", &found.principal);
    row(text, 4, "action", &found.action);
    thing(text, "resource", &found.resource);
    for (name, value) in &found.context {
        row(text, 4, &format!("context.{name}"), value);
    }
    // What is nothing but a name is in the lines above already.
    let told = |other: &&Thing| !(other.attributes.is_empty() && other.tags.is_empty() && other.parents.is_empty());
    for other in found.others.iter().filter(told) {
        thing(text, "and", other);
    }
    text.line(format!("    replayed on the authorizer: {}", replayed(found)));
}

fn thing(text: &mut Lines, role: &str, thing: &Thing) {
    row(text, 4, role, &thing.name);
    for (name, value) in &thing.attributes {
        row(text, 6, name, value);
    }
    for (name, value) in &thing.tags {
        row(text, 6, &format!("tag {name}"), value);
    }
    if !thing.parents.is_empty() {
        row(text, 6, "in", &thing.parents.join(", "));
    }
}

fn row(text: &mut Lines, indent: usize, name: &str, value: &str) {
    let width = 30_usize.saturating_sub(indent);
    let name = format!("{:<width$}", harmless(name));
    text.line(format!("{:indent$}{} {}", "", paint(FAINT, name), harmless(value)));
}

fn replayed(found: &Counterexample) -> String {
    let listed = |ids: &[String]| ids.iter().map(|id| format!("`{}`", Visible::new(id))).collect::<Vec<_>>().join(", ");
    let Replay { allowed, policies, failed } = &found.replay;
    let verdict = match (allowed, policies.is_empty()) {
        (true, _) => format!("{} by {}", paint(GOOD.bold(), "ALLOW"), listed(policies)),
        (false, false) => format!("{} by {}", paint(BAD, "DENY"), listed(policies)),
        (false, true) => format!("{}, since no policy permits it", paint(BAD, "DENY")),
    };
    // Of a statement that fails, the policies say nothing.
    let failed = if found.failing.is_empty() { failed } else { &found.failing };
    if failed.is_empty() { verdict } else { format!("{verdict}; {} could not be evaluated", listed(failed)) }
}
