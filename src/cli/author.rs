//! What authors do with a bundle's files, without a server: `countersign policy test` and `countersign policy fmt`.

use std::path::{Path, PathBuf};

use clap::Args;
use countersign_core::visible::Visible;
use countersign_policy::scenario::Scenario;
use countersign_policy::{CedarTest, Source, format};
use serde_json::json;

use super::output::{BAD, FAINT, GOOD, Output, paint};
use super::text::count;
use super::{Exit, Failure};

pub const TEST_EXAMPLES: &str = "Scenarios are TOML files in the bundle's `scenarios/` directory; what lies in the store while they are played is in \
     `scenarios/entities.json`. Other JSON files there are tests as `cedar run-tests` takes them, played on the composed schema. Exit code 0 if all answers are as expected.\n\n\
     Examples:\n  countersign policy test policies/ai-platform\n  countersign policy test policies/ai-platform --only export --json";
pub const FMT_EXAMPLES: &str = "Examples:\n  countersign policy fmt policies/ai-platform\n  \
     countersign policy fmt --check policies/ai-platform/policies/exports.cedar";

/// Which scenarios.
#[derive(Debug, Args)]
pub struct TestArgs {
    #[command(flatten)]
    bundle: super::question::BundleDir,
    /// Only scenarios whose name or file contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// What to format.
#[derive(Debug, Args)]
pub struct FmtArgs {
    /// Bundle directories, or `.cedar` files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Change nothing; exit with 1 if anything would change
    #[arg(long)]
    check: bool,
}

/// Plays the scenarios of a bundle.
pub fn test(args: &TestArgs, output: &mut Output) -> Result<Exit, Failure> {
    let bundle = args.bundle.load()?;
    let stored = bundle.scenario_entities().map_err(Failure::new)?;
    let view = bundle.with(&stored, None);
    let (mut played, mut failed, mut told) = (0_usize, 0_usize, Vec::new());
    let mut tell = |file: &str, name: &str, wrong: Vec<String>| {
        played += 1;
        failed += usize::from(!wrong.is_empty());
        let mark = if wrong.is_empty() { paint(GOOD, "ok    ") } else { paint(BAD, "failed") };
        let mut line = format!("{mark} {} {}", Visible::new(name), paint(FAINT, Visible::new(file)));
        for sentence in &wrong {
            line.push_str(&format!("\n       {}", Visible::new(sentence)));
        }
        told.push(json!({ "file": file, "name": name, "ok": wrong.is_empty(), "wrong": wrong }));
        if output.is_json() { Ok(()) } else { output.human(&line) }
    };
    let wanted =
        |file: &str, name: &str| args.only.as_ref().is_none_or(|text| name.contains(text) || file.contains(text));
    for (file, text) in bundle.scenario_files() {
        let scenarios = Scenario::parse_file(text)
            .map_err(|error| Failure::new(format!("{}:{}: {}", Visible::new(file), error.line, error.message)))?;
        for scenario in scenarios.iter().filter(|scenario| wanted(file, &scenario.name)) {
            tell(file, &scenario.name, scenario.play(view))?;
        }
    }
    for (file, text) in bundle.cedar_test_files() {
        let tests =
            CedarTest::parse_file(text).map_err(|error| Failure::new(format!("{}: {error}", Visible::new(file))))?;
        for (number, test) in tests.iter().enumerate() {
            let name = test.name.clone().unwrap_or_else(|| format!("number {}", number + 1));
            if wanted(file, &name) {
                tell(file, &name, test.play(&bundle))?;
            }
        }
    }
    let summary = format!("{}, {failed} failed", count(played as u64, "scenario", "scenarios"));
    let report = json!({ "ok": failed == 0, "played": played, "failed": failed, "scenarios": told });
    output.document(&report, &summary)?;
    if let (0, Some(text)) = (played, &args.only) {
        return Err(Failure::usage(format!("no scenario has `{}` in its name or file", Visible::new(text))));
    }
    if played == 0 {
        output.remark("there is nothing to play; write scenarios into `scenarios/`, as in policies/ai-platform");
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::Error })
}

/// Formats policy files.
pub fn fmt(args: &FmtArgs, output: &mut Output) -> Result<Exit, Failure> {
    let mut changed = Vec::new();
    for path in args.paths.iter().map(|path| cedar_files(path)).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        let name = path.display().to_string();
        let unusable = |what: &str, error: std::io::Error| Failure::new(format!("cannot {what} `{name}`: {error}"));
        let text = std::fs::read_to_string(&path).map_err(|error| unusable("read", error))?;
        let formatted = format(&name, &text).map_err(|findings| {
            let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
            Failure::new(told.join("\n"))
        })?;
        if formatted != text {
            if !args.check {
                std::fs::write(&path, formatted).map_err(|error| unusable("write", error))?;
            }
            changed.push(name);
        }
    }
    let said = if args.check { "would change" } else { "changed" };
    let human = match changed.as_slice() {
        [] => "nothing to change".to_owned(),
        some => some.iter().map(|name| format!("{said} {}", Visible::new(name))).collect::<Vec<_>>().join("\n"),
    };
    output.document(&json!({ "changed": changed, "written": !args.check }), &human)?;
    Ok(if args.check && !changed.is_empty() { Exit::Error } else { Exit::Done })
}

/// The policy files of a bundle directory, in order; or the one file.
fn cedar_files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let source = Source::read_dir(path).map_err(|error| Failure::new(error.to_string()))?;
    Ok(source.files().keys().filter(|file| file.ends_with(".cedar")).map(|file| path.join(file)).collect())
}
