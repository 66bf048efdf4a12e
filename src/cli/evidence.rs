//! `countersign evidence`: one action's evidence in a file, and its check by somebody who trusts nobody here.

mod begins;
mod find;
mod open;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use countersign::client::Client;
use countersign::evidence::{
    Evidence, FORMAT, MAX_BYTES, Outcome, Proved, RecordOpening, Trust, Verdict, html, verify_opened,
};
use countersign::keystore::write_atomically;
use countersign::proto::{
    ErrorReason, GetApprovalRequest, GetCheckpointRequest, GetInclusionProofRequest, ListRecordsRequest,
};
use countersign_audit::{CosignatureVerifier, Hash, SignedCheckpoint, leaf_hash, verify_inclusion};
use countersign_core::Digest;
use countersign_core::visible::Visible;
use countersign_policy::{Source, can_decide};
use countersign_token::unverified_claims;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::args::{Connection, read_file, read_secret};
use super::output::{BAD, GOOD, Output, WARN, paint};
use super::recorded::{is, one_archived};
use super::text::Lines;
use super::view::view_text;
use super::{Exit, Failure};
use begins::begins;
use find::find;

#[derive(Debug, Subcommand)]
pub enum EvidenceCommand {
    /// Write everything that the log has about one action into one file
    #[command(
        after_help = "Whoever may read the log can do it; whoever may read approval requests, too, has what people were shown in the file. With `--bundle`, whoever \
                            checks the file can also decide again. With `--with-token`, they check its signature.\n\nExamples:\n  \
                            countersign evidence export cap_01a1f788-73ea-74cf-9461-4a295bc421e2 --bundle policies/ai-platform --out export.evidence"
    )]
    Export(ExportArgs),
    /// Check such a file, offline
    #[command(
        after_help = "The file of keys has one in each line: `log KEY`, `witness KEY`, `voter KEY` or `token ID KEY`, from a channel of your own. Exit code 0: nothing \
                            was refused, and what was\nnot checked is told. 1: something was refused.\n\nExamples:\n  \
                            countersign evidence verify export.evidence --trust keys.txt\n  \
                            countersign evidence verify export.evidence --trust keys.txt --witnesses 2 --require-signed-votes --html export.html"
    )]
    Verify(VerifyArgs),
    /// Open one sensitive input of a record, for whoever is given the opening
    #[command(after_help = open::EXAMPLES)]
    Open(open::OpenArgs),
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
    /// A token that was minted for it, from a file (`@FILE`) or standard input (`-`), when it is good for nothing any more; may be given
    /// several times
    #[arg(long, value_name = "TOKEN")]
    with_token: Vec<String>,
    /// A copy of the records that were dropped (`countersign audit archive`); each is proved in the log as it is now
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
    /// How many witnesses must have cosigned the head; without, a head that is not published yet will do
    #[arg(long, value_name = "N", default_value_t = 0)]
    witnesses: usize,
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
    witness: Vec<CosignatureVerifier>,
    /// How many witnesses must have cosigned
    #[arg(long, value_name = "N", default_value_t = 0)]
    witnesses: usize,
    /// Refuse votes that are not signed by a trusted key of the voter's
    #[arg(long)]
    require_signed_votes: bool,
    /// An opened input, as `evidence open` writes it; may be given several times
    #[arg(long, value_name = "FILE")]
    opening: Vec<PathBuf>,
    /// Write it as a page that prints, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs one of the commands.
pub async fn run(command: EvidenceCommand, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    match command {
        EvidenceCommand::Export(args) => export(&args, connection, output).await,
        EvidenceCommand::Verify(args) => check(args, output),
        EvidenceCommand::Open(args) => open::open(&args, output),
    }
}

async fn export(args: &ExportArgs, connection: &Connection, output: &mut Output) -> Result<Exit, Failure> {
    if args.out.exists() {
        return Err(Failure::usage(format!("`{}` is there already", args.out.display())).hint("name another file"));
    }
    let indices = find(&args.action, args.archive.as_deref(), connection, output).await?;
    let client = connection.client().await?;
    let last = indices.last().copied().unwrap_or_default();
    let signed = checkpoint(&client, last, args.witnesses, output).await?;
    let tree_size = signed.unverified().size();
    let mut records = Vec::new();
    for index in indices {
        let content = content(&client, index, args.archive.as_deref()).await?;
        let proof = client.get_inclusion_proof(GetInclusionProofRequest { index, tree_size }).await?.hashes;
        let proof: Result<Vec<Hash>, _> = proof.iter().map(|hash| Hash::try_from(hash.as_slice())).collect();
        let proof = proof.map_err(|error| Failure::new(format!("the server's proof: {error}")))?;
        let leaf = leaf_hash(&content);
        verify_inclusion(&leaf, index, tree_size, &proof, signed.unverified().root()).map_err(|error| {
            Failure::new(format!("record {index} is not the one that the log has: {error}")).reason("LOG_BROKEN")
        })?;
        let proof = proof.iter().map(ToString::to_string).collect();
        let content = String::from_utf8(content).map_err(|_| Failure::new(format!("record {index} is no text")))?;
        records.push(Proved { index, proof, content });
    }
    begins(&records)?;
    let mut bundles = BTreeMap::new();
    for dir in &args.bundle {
        let source = Source::read_dir(dir).map_err(|error| Failure::new(error.to_string()))?;
        let digest = source.digest().to_string();
        if !records.iter().any(|record| record.content.contains(&digest)) {
            return Err(Failure::new(format!("no record about it names the bundle in `{}` ({digest})", dir.display())));
        }
        // What cannot decide is in no digest, and nobody could tell whether it was changed.
        let files = source.files().iter().filter(|(path, _)| can_decide(path));
        bundles.insert(digest, files.map(|(path, text)| (path.clone(), text.clone())).collect());
    }
    let number = records.len();
    let views = views(&client, &records, output).await?;
    let mut tokens = Vec::new();
    for token in &args.with_token {
        tokens.push(spent(token, &records)?);
    }
    let (subject, checkpoint) = (args.action.clone(), signed.note().to_string());
    let evidence = Evidence { format: FORMAT.to_owned(), subject, checkpoint, records, bundles, views, tokens };
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

/// The bytes of a record: the server's, or those of a copy.
async fn content(client: &Client, index: u64, archive: Option<&Path>) -> Result<Vec<u8>, Failure> {
    let request = ListRecordsRequest { start: index, page_size: 1, page_token: String::new() };
    match (client.list_records(request).await, archive) {
        (Ok(page), _) => {
            let record = page.records.into_iter().find(|record| record.index == index);
            Ok(record.ok_or_else(|| Failure::new(format!("record {index} is gone")))?.content)
        }
        (Err(error), Some(dir)) if is(&error, ErrorReason::RecordPruned) => one_archived(dir, index),
        (Err(error), _) => Err(error.into()),
    }
}

/// The head of the log: the one that was published last, with what witnesses say of it, if it has the records; otherwise the one that
/// the log has now.
async fn checkpoint(
    client: &Client,
    last: u64,
    witnesses: usize,
    output: &mut Output,
) -> Result<SignedCheckpoint, Failure> {
    let parse = |note: &str| {
        SignedCheckpoint::parse(note.as_bytes())
            .map_err(|error| Failure::new(format!("the server's checkpoint: {error}")))
    };
    let published = match client.get_checkpoint(GetCheckpointRequest { published: true, tree_size: 0 }).await {
        Ok(published) => Some(parse(&published.note)?),
        Err(error) if is(&error, ErrorReason::NotInLog) => None,
        Err(error) => return Err(error.into()),
    };
    let covers = |head: &SignedCheckpoint| head.unverified().size() > last;
    // Besides the log itself.
    let others = |head: &SignedCheckpoint| head.note().signatures().len().saturating_sub(1);
    match published {
        Some(head) if covers(&head) && others(&head) >= witnesses => return Ok(head),
        Some(head) if covers(&head) => {
            let number = others(&head);
            return Err(Failure::new(format!("{number} witnesses cosigned the published head, and {witnesses} must")));
        }
        Some(_) if witnesses > 0 => {
            return Err(Failure::new("the head that was published last does not have all of it yet")
                .hint("export it again when the next one is published"));
        }
        Some(_) => output.remark(
            "the head that was published last does not have all of it yet, so no witness has cosigned this one; export it again later",
        ),
        None if witnesses > 0 => {
            return Err(Failure::new("the server publishes no head, so no witness cosigns one"));
        }
        None => {}
    }
    parse(&client.get_checkpoint(GetCheckpointRequest::default()).await?.note)
}

/// What people were shown, by its digest, as far as the records name it and the caller may read it. Of a question that others joined, what
/// was shown before is what is left without them.
async fn views(client: &Client, records: &[Proved], output: &mut Output) -> Result<BTreeMap<String, String>, Failure> {
    let mut asked: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for record in records {
        let record: Value = serde_json::from_str(&record.content).unwrap_or_default();
        let field = |name: &str| record.get(name).and_then(Value::as_str).map(str::to_owned);
        if let (Some("approval_requested"), Some(approval), Some(view)) =
            (field("kind").as_deref(), field("approval"), field("view"))
        {
            asked.entry(approval).or_default().insert(view);
        }
    }
    let mut views = BTreeMap::new();
    for (approval_id, named) in asked {
        let shown = match client.get_approval(GetApprovalRequest { approval_id: approval_id.clone() }).await {
            Ok(shown) => shown.approval,
            Err(error) if is(&error, ErrorReason::ApprovalNotFound) => None,
            Err(error) => return Err(error.into()),
        };
        if let Some(mut shown) = shown {
            loop {
                let text = view_text(&shown).map(|text| (Digest::of(text.as_bytes()).to_string(), text));
                views.extend(text.filter(|(digest, _)| named.contains(digest)));
                if shown.also_asked.pop().is_none() {
                    break;
                }
            }
        }
        if named.iter().any(|view| !views.contains_key(view)) {
            output.remark(&format!(
                "what people were shown of {approval_id} is not in the file, or not all of it: the request cannot be read by you, or was deleted a day after \
                 its end"
            ));
        }
    }
    Ok(views)
}

/// A token that may lie in a file that goes from hand to hand.
fn spent(token: &str, records: &[Proved]) -> Result<String, Failure> {
    let text = Zeroizing::new(read_secret(token, "with-token")?);
    let bad = |error: &dyn std::fmt::Display| Failure::usage(format!("`--with-token`: {error}"));
    let claims = unverified_claims(text.trim()).map_err(|error| bad(&error))?;
    let id = claims.token_id.to_string();
    let over = records.iter().any(|record| {
        let record: Value = serde_json::from_str(&record.content).unwrap_or_default();
        let kind = record.get("kind").and_then(Value::as_str).unwrap_or_default();
        matches!(kind, "redeem" | "delegated" | "revoke")
            && record.get("capability").and_then(Value::as_str) == Some(id.as_str())
    });
    let expired = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .is_ok_and(|now| i64::try_from(now.as_millis()).is_ok_and(|now| now > claims.expires_at.millis()));
    if over || expired {
        return Ok(text.trim().to_owned());
    }
    Err(Failure::usage(format!(
        "`--with-token`: `{id}` is neither spent, revoked nor expired: whoever has the file could use it"
    ))
    .hint("revoke it, or wait until it has expired"))
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
    trust.quorum = args.witnesses;
    trust.signed_votes = args.require_signed_votes;
    let size = std::fs::metadata(&args.file).map_err(|error| unreadable(&args.file, &error))?.len();
    if size > MAX_BYTES as u64 {
        return Err(Failure::new(format!("`{}` is larger than {MAX_BYTES} bytes", args.file.display()))
            .reason("EVIDENCE_REFUSED"));
    }
    let bytes = std::fs::read(&args.file).map_err(|error| unreadable(&args.file, &error))?;
    let mut openings = Vec::new();
    for path in &args.opening {
        let opening = RecordOpening::from_bytes(&read_file(path)?);
        let why = |error| Failure::new(format!("`{}`: {}", path.display(), Visible::new(&format!("{error}"))));
        openings.push(opening.map_err(why)?);
    }
    let outcome = verify_opened(&bytes, &trust, &openings).map_err(|why| {
        Failure::new(format!("the evidence is refused: {}", Visible::new(&why))).reason("EVIDENCE_REFUSED")
    })?;
    if let Some(path) = &args.html {
        write(path, html(&outcome).as_bytes(), 0o600)?;
    }
    let left = outcome.findings.iter().filter(|finding| finding.verdict == Verdict::NotChecked).count();
    let json = json!({
        "ok": outcome.holds(), "not_checked": left, "votes": outcome.votes, "subject": outcome.subject,
        "findings": outcome.findings, "story": outcome.story,
    });
    output.document(&json, &told(&outcome))?;
    Ok(if outcome.holds() { Exit::Done } else { Exit::Error })
}

fn told(outcome: &Outcome) -> String {
    let mut text = Lines::default();
    let complete = outcome.votes.unsigned == 0 && outcome.votes.unvouched == 0;
    let style = match (outcome.holds(), complete) {
        (true, true) => GOOD.bold(),
        (true, false) => WARN.bold(),
        (false, _) => BAD,
    };
    let head = paint(style, outcome.head());
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
