//! `countersign policy`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use countersign::client::ClientError;
use countersign::proto::{Bundle as ActiveBundle, GetBundleRequest};
use countersign_audit::NoteVerifier;
use countersign_core::visible::Visible;
use countersign_policy::{Bundle, Finding, Severity, Source};
use serde_json::{Value, json};

use super::args::Connection;
use super::output::{BAD, FAINT, GOOD, Output, STRONG, WARN, harmless, paint};
use super::text::{Lines, count};
use super::when::relative;
use super::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Find everything that is wrong with a bundle directory, without a server
    #[command(after_help = "Examples:\n  countersign policy check policies/ai-platform\n  \
                            countersign policy check policies/ai-platform --json")]
    Check {
        /// The bundle's directory
        dir: PathBuf,
        /// The public key (or `@FILE`) of an author who must have signed it; may be given several times
        #[arg(long = "author", value_name = "KEY")]
        authors: Vec<String>,
    },
    /// Play the scenarios of a bundle directory, without a server
    #[command(after_help = super::author::TEST_EXAMPLES)]
    Test(super::author::TestArgs),
    /// Lay out policy files in the one way, comments kept
    #[command(after_help = super::author::FMT_EXAMPLES)]
    Fmt(super::author::FmtArgs),
    /// Prove what can be stated about a bundle directory, or find a request that refutes it, without a server
    #[command(after_help = super::prove::EXAMPLES)]
    Prove(super::prove::ProveArgs),
    /// Write a bundle to begin with
    #[command(after_help = super::start::EXAMPLES)]
    New(super::start::NewArgs),
    /// Say why an action is answered as it is, and what would change the answer
    #[command(after_help = super::explain::EXPLAIN_EXAMPLES)]
    Explain(super::explain::ExplainArgs),
    /// List who may approve an action now
    #[command(after_help = super::explain::WHO_EXAMPLES)]
    Who(super::explain::WhoArgs),
    /// List what a principal may do
    #[command(after_help = super::explain::CAN_EXAMPLES)]
    Can(super::explain::CanArgs),
    /// List the recorded decisions that a bundle directory would answer otherwise
    #[command(after_help = super::diff::EXAMPLES)]
    Diff(super::diff::DiffArgs),
    /// Make an author's key
    #[command(after_help = super::sign::AUTHOR_EXAMPLES)]
    Author(super::sign::AuthorArgs),
    /// Sign a bundle directory
    #[command(after_help = super::sign::SIGN_EXAMPLES)]
    Sign(super::sign::SignArgs),
    /// Show the bundle that decides now
    #[command(after_help = "Examples:\n  countersign policy show")]
    Show,
    /// Let the server read its bundle directory again
    #[command(after_help = super::publish::RELOAD_EXAMPLES)]
    Reload(super::publish::ConsentArgs),
    /// List the bundles that were active
    #[command(after_help = super::publish::HISTORY_EXAMPLES)]
    History(super::publish::HistoryArgs),
    /// Make a bundle active again that was active before
    #[command(after_help = super::publish::ROLLBACK_EXAMPLES)]
    Rollback(super::publish::RollbackArgs),
    /// Show what the shadow bundle would have answered otherwise
    #[command(after_help = super::publish::SHADOW_EXAMPLES)]
    Shadow,
}

/// Runs one of the commands.
pub async fn run(command: PolicyCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Check { dir, authors } => check(&dir, &super::sign::verifiers(&authors)?, output),
        PolicyCommand::Test(args) => super::author::test(&args, output),
        PolicyCommand::Fmt(args) => super::author::fmt(&args, output),
        PolicyCommand::Prove(args) => super::prove::run(args, output).await,
        PolicyCommand::Author(args) => super::sign::author(&args, output),
        PolicyCommand::Sign(args) => super::sign::sign(&args, output),
        PolicyCommand::New(args) => super::start::run(&args, output),
        PolicyCommand::Explain(args) => super::explain::explain(&args, connection, output).await,
        PolicyCommand::Who(args) => super::explain::who(&args, connection, output).await,
        PolicyCommand::Can(args) => super::explain::can(&args, output),
        PolicyCommand::Diff(args) => super::diff::run(&args, connection, output).await,
        PolicyCommand::Show => {
            let bundle = connection.client().await?.get_bundle(GetBundleRequest {}).await?.bundle;
            let bundle = bundle.ok_or(ClientError::Incomplete("bundle"))?;
            output.document(&super::json::bundle(&bundle), &human(&bundle))?;
            Ok(Exit::Done)
        }
        PolicyCommand::Reload(args) => super::publish::reload(args, connection, output).await,
        PolicyCommand::History(args) => super::publish::history(&args, connection, output).await,
        PolicyCommand::Rollback(args) => super::publish::rollback(args, connection, output).await,
        PolicyCommand::Shadow => super::publish::shadow(connection, output).await,
    }
}

/// A bundle that is active.
pub fn human(bundle: &ActiveBundle) -> String {
    let mut text = Lines::default();
    text.line(paint(STRONG, format!("{} revision {}", Visible::new(&bundle.name), bundle.revision)));
    text.shown("digest", &bundle.digest).field("active", relative(bundle.activated_at.as_ref()));
    text.shown("operations", &bundle.operations.join(", "));
    text.finish()
}

fn check(dir: &Path, authors: &[NoteVerifier], output: &mut Output) -> Result<Exit, Failure> {
    let source = Source::read_dir(dir).map_err(|error| Failure::new(error.to_string()))?;
    let texts = source.files().clone();
    let files = texts.len();
    let (bundle, findings) = match Bundle::load(source) {
        Ok(bundle) => {
            let wanted = authors.iter().map(NoteVerifier::name).collect::<BTreeSet<_>>().len();
            countersign::authors::require(&bundle, authors, wanted)
                .map_err(|error| Failure::new(format!("the bundle is not signed as it must be: {error}")))?;
            let mut findings = bundle.warnings().to_vec();
            // Wrong statements and scenarios hinder no decision, and this is where their author finds out.
            let unreadable: Vec<Finding> = bundle.scenario_findings();
            let stated = bundle.statements();
            let whole = unreadable.is_empty() && stated.is_ok();
            findings.extend(unreadable);
            findings.extend(stated.map_or_else(|refused| refused.findings, |statements| statements.warnings));
            (whole.then(|| (bundle.name().to_owned(), bundle.revision(), bundle.digest())), findings)
        }
        Err(refused) => (None, refused.findings),
    };
    let mut text = String::new();
    for finding in &findings {
        let place = (Visible::new(&finding.file).to_string(), finding.line, finding.column);
        let excerpt = texts.get(&finding.file).and_then(|text| excerpt(text, finding.line, finding.column));
        let error = finding.severity == Severity::Error;
        text.push_str(&line(place, error, &finding.message, finding.hint.as_ref(), excerpt.as_deref()));
    }
    match &bundle {
        Some((name, revision, digest)) => text.push_str(&format!(
            "{} {} revision {revision}: {}, {}\n  {}\n",
            paint(GOOD.bold(), "ok"),
            Visible::new(name),
            count(files as u64, "file", "files"),
            count(findings.len() as u64, "warning", "warnings"),
            paint(FAINT, format!("digest {digest}")),
        )),
        None => {
            let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
            let (files, errors) = (count(files as u64, "file", "files"), count(errors as u64, "error", "errors"));
            text.push_str(&format!("{} {files}, {errors}\n", paint(BAD, "refused")));
        }
    }
    output.document(&report(bundle.as_ref().map(|(_, _, digest)| digest.to_string()), &findings), &text)?;
    Ok(if bundle.is_some() { Exit::Done } else { Exit::Error })
}

fn report(digest: Option<String>, findings: &[Finding]) -> Value {
    let findings = findings.iter().map(|Finding { file, line, column, severity, policy, message, hint }| {
        json!({
            "file": file,
            "line": line,
            "column": column,
            "severity": severity,
            "policy": policy,
            "message": message,
            "hint": hint,
        })
    });
    json!({"ok": digest.is_some(), "digest": digest, "findings": findings.collect::<Value>()})
}

/// The line that a finding is about, with a caret below its column; nothing of an empty line, which shows nothing.
fn excerpt(text: &str, line: usize, column: usize) -> Option<String> {
    /// The longest part of a line that is shown, in characters, and how much of it before the caret.
    const WIDTH: usize = 100;
    const BEFORE: usize = 60;
    let whole: Vec<char> = text.lines().nth(line.checked_sub(1)?)?.chars().collect();
    let at = column.checked_sub(1)?.min(whole.len());
    let from = at.saturating_sub(BEFORE);
    let shown = |part: &[char]| Visible::new(&part.iter().collect::<String>().replace('\t', " ")).to_string();
    let (before, after) = whole.get(from..)?.split_at(at - from);
    let (before, after) = (shown(before), shown(after.get(..WIDTH - BEFORE).unwrap_or(after)));
    if before.is_empty() && after.trim().is_empty() {
        return None;
    }
    let (number, indent) = (line.to_string(), " ".repeat(before.chars().count()));
    let margin = " ".repeat(number.len());
    let caret = paint(BAD, "^");
    Some(format!(
        "  {} {before}{after}\n  {margin} {} {indent}{caret}\n",
        paint(FAINT, format!("{number} |")).to_owned(),
        paint(FAINT, "|")
    ))
}

/// `file:line:col: error: message`, which editors jump to, and below it the place and the hint.
pub fn line<N: std::fmt::Display>(
    place: (String, N, N),
    error: bool,
    message: &str,
    hint: Option<&String>,
    excerpt: Option<&str>,
) -> String {
    let (file, line, column) = place;
    let severity = if error { paint(BAD, "error:") } else { paint(WARN, "warning:") };
    let hint = hint.map(|hint| format!("  {}\n", harmless(hint).replace('\n', "\n  "))).unwrap_or_default();
    let place = paint(STRONG, format!("{file}:{line}:{column}:"));
    format!("{place} {severity} {}\n{}{hint}", harmless(message), excerpt.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_where_an_editor_finds_it() {
        let hint = "write `15m`".to_owned();
        let place = excerpt("a\nb\n\tcd \u{202e}ttl", 3, 7);
        let text = line(("policies/a.cedar".into(), 3, 7), true, "`@ttl` is wrong", Some(&hint), place.as_deref());
        let text = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(
            text,
            "policies/a.cedar:3:7: error: `@ttl` is wrong\n  3 |  cd \\u{202e}ttl\n    |              ^\n  write `15m`\n"
        );
    }

    #[test]
    fn programs_get_every_finding() {
        let finding = Finding {
            file: "a.cedar".into(),
            line: 3,
            column: 7,
            severity: Severity::Error,
            policy: Some("p".into()),
            message: "m".into(),
            hint: None,
        };
        assert_eq!(
            report(None, &[finding]),
            json!({"ok": false, "digest": null, "findings": [{
                "file": "a.cedar", "line": 3, "column": 7, "severity": "error", "policy": "p", "message": "m", "hint": null,
            }]})
        );
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let (mut output, _, _) = super::super::output::testing::output(false);
        let failure = check(Path::new("/no/such/bundle"), &[], &mut output).unwrap_err();
        assert!(failure.to_human().contains("/no/such/bundle"));
    }
}
