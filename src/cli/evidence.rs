//! `countersign evidence`: one action's evidence in a file, and its check by somebody who trusts nobody here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use countersign::evidence::{Evidence, FORMAT, Gather, MAX_BYTES, Outcome, Proved, Trust, Verdict, html, verify};
use countersign::keystore::write_atomically;
use countersign::proto::{GetCheckpointRequest, GetInclusionProofRequest, ListRecordsRequest};
use countersign_audit::{Hash, NoteVerifier, SignedCheckpoint};
use countersign_core::visible::Visible;
use countersign_policy::{SIGNATURES, Source};
use serde_json::json;

use super::args::Connection;
use super::output::{BAD, GOOD, Output, WARN, paint};
use super::recorded::Log;
use super::text::Lines;
use super::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub enum EvidenceCommand {
    /// Write everything that the log has about one action into one file
    #[command(
        after_help = "Whoever may read the log can do it. With `--bundle`, whoever checks the file can also decide again.\n\nExamples:\n  \
                            countersign evidence export cap_01a1f788-73ea-74cf-9461-4a295bc421e2 --bundle policies/ai-platform --out export.evidence"
    )]
    Export(ExportArgs),
    /// Check such a file, offline
    #[command(
        after_help = "The file of keys has one in each line: `log KEY`, `witness KEY` or `voter KEY`, from a channel of your own. Exit code 0: nothing \
                            was refused, and what was\nnot checked is told. 1: something was refused.\n\nExamples:\n  \
                            countersign evidence verify export.evidence --trust keys.txt\n  \
                            countersign evidence verify export.evidence --trust keys.txt --html export.html"
    )]
    Verify(VerifyArgs),
}

/// What to write.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The capability, approval request or decision
    action: String,
    /// The file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The directory of a bundle that decided; may be given several times
    #[arg(long, value_name = "DIR")]
    bundle: Vec<PathBuf>,
}

/// What to check, and by whose keys.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The file
    file: PathBuf,
    /// The file of trusted keys
    #[arg(long, value_name = "KEYS")]
    trust: PathBuf,
    /// A witness's key, beside those in the file; may be given several times
    #[arg(long, value_name = "KEY")]
    witness: Vec<NoteVerifier>,
    /// How many witnesses must have cosigned
    #[arg(long, value_name = "N", default_value_t = 0)]
    witness_quorum: usize,
    /// Write it as a page that prints, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs one of the commands.
pub async fn run(command: EvidenceCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        EvidenceCommand::Export(args) => export(&args, connection, output).await,
        EvidenceCommand::Verify(args) => check(args, output),
    }
}

async fn export(args: &ExportArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    if args.out.exists() {
        return Err(Failure::usage(format!("`{}` is there already", args.out.display())).hint("name another file"));
    }
    let mut gather = Gather::default();
    let log = Log { data_dir: None, start: 0 };
    log.each(connection, output, |index, content| {
        gather.record(index, content);
        Ok(())
    })
    .await?;
    let indices = gather.about(&args.action);
    if indices.is_empty() {
        let action = Visible::new(&args.action);
        return Err(Failure::new(format!("the log has nothing about `{action}`"))
            .hint("name a capability, an approval request or a decision"));
    }
    let client = connection.client().await?;
    let checkpoint = client.get_checkpoint(GetCheckpointRequest::default()).await?.note;
    let signed = SignedCheckpoint::parse(checkpoint.as_bytes());
    let tree_size =
        signed.map_err(|error| Failure::new(format!("the server's checkpoint: {error}")))?.unverified().size();
    let mut records = Vec::new();
    for index in indices {
        let request = ListRecordsRequest { start: index, page_size: 1, page_token: String::new() };
        let record = client.list_records(request).await?.records.into_iter().find(|record| record.index == index);
        let record = record.ok_or_else(|| Failure::new(format!("record {index} is gone")))?;
        let proof = client.get_inclusion_proof(GetInclusionProofRequest { index, tree_size }).await?.hashes;
        let proof: Result<Vec<String>, _> =
            proof.iter().map(|hash| Hash::try_from(hash.as_slice()).map(|hash| hash.to_string())).collect();
        let proof = proof.map_err(|error| Failure::new(format!("the server's proof: {error}")))?;
        let content =
            String::from_utf8(record.content).map_err(|_| Failure::new(format!("record {index} is no text")))?;
        records.push(Proved { index, proof, content });
    }
    let mut bundles = BTreeMap::new();
    for dir in &args.bundle {
        let source = Source::read_dir(dir).map_err(|error| Failure::new(error.to_string()))?;
        let digest = source.digest().to_string();
        if !records.iter().any(|record| record.content.contains(&digest)) {
            return Err(Failure::new(format!("no record about it names the bundle in `{}` ({digest})", dir.display())));
        }
        // What cannot decide is in no digest, and nobody could tell whether it was changed.
        let decides =
            |path: &str| !path.starts_with("scenarios/") && !path.starts_with("properties/") && path != SIGNATURES;
        let files = source.files().iter().filter(|(path, _)| decides(path));
        bundles.insert(digest, files.map(|(path, text)| (path.clone(), text.clone())).collect());
    }
    let number = records.len();
    let evidence = Evidence { format: FORMAT.to_owned(), subject: args.action.clone(), checkpoint, records, bundles };
    let bytes = evidence.to_bytes().map_err(|error| Failure::new(error.to_string()))?;
    write(&args.out, &bytes, 0o600)?;
    let json = json!({ "file": args.out, "subject": args.action, "records": number, "tree_size": tree_size, "bundles": evidence.bundles.len() });
    let text = format!(
        "{number} records about {}, proved in a log of {tree_size}, in `{}`",
        Visible::new(&args.action),
        args.out.display()
    );
    output.document(&json, &text)?;
    output.remark("it holds inputs, justifications and comments as they were sent");
    Ok(Exit::Done)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    write_atomically(path, bytes, mode)
        .map_err(|error| Failure::new(format!("cannot write `{}`: {error}", path.display())))
}

fn check(args: VerifyArgs, output: &mut Output) -> Result<Exit, Failure> {
    let unreadable =
        |path: &Path, error: &dyn std::fmt::Display| Failure::new(format!("cannot read `{}`: {error}", path.display()));
    let keys = std::fs::read_to_string(&args.trust).map_err(|error| unreadable(&args.trust, &error))?;
    let mut trust = Trust::read(&keys).map_err(|error| Failure::usage(format!("`--trust`: {error}")))?;
    trust.witnesses.extend(args.witness);
    trust.quorum = args.witness_quorum;
    let size = std::fs::metadata(&args.file).map_err(|error| unreadable(&args.file, &error))?.len();
    if size > MAX_BYTES as u64 {
        return Err(Failure::new(format!("`{}` is larger than {MAX_BYTES} bytes", args.file.display()))
            .reason("EVIDENCE_REFUSED"));
    }
    let bytes = std::fs::read(&args.file).map_err(|error| unreadable(&args.file, &error))?;
    let outcome = verify(&bytes, &trust).map_err(|why| {
        Failure::new(format!("the evidence is refused: {}", Visible::new(&why))).reason("EVIDENCE_REFUSED")
    })?;
    if let Some(path) = &args.html {
        write(path, html(&outcome).as_bytes(), 0o600)?;
    }
    let json = json!({ "ok": outcome.holds(), "subject": outcome.subject, "findings": outcome.findings, "story": outcome.story });
    output.document(&json, &told(&outcome))?;
    Ok(if outcome.holds() { Exit::Done } else { Exit::Error })
}

fn told(outcome: &Outcome) -> String {
    let mut text = Lines::default();
    let head = if outcome.holds() { paint(GOOD.bold(), "nothing was refused") } else { paint(BAD, "REFUSED") };
    text.line(format!("{head}: evidence of {}", Visible::new(&outcome.subject)));
    text.heading("Checks");
    for finding in &outcome.findings {
        let verdict = match finding.verdict {
            Verdict::Holds => paint(GOOD, "holds"),
            Verdict::Refused => paint(BAD, "REFUSED"),
            Verdict::NotChecked => paint(WARN, "not checked"),
        };
        text.line(format!("  {verdict}: {}: {}", Visible::new(&finding.what), Visible::new(&finding.detail)));
    }
    text.heading("What happened");
    for line in &outcome.story {
        text.line(format!("  {}", Visible::new(line)));
    }
    text.finish()
}
