//! `countersign evidence open`.

use std::path::PathBuf;

use clap::Args;
use countersign::config::{Config, Overrides};
use countersign::evidence::{Evidence, RecordOpening, action_of};
use countersign::keystore::{self, KeyCipher};
use countersign_core::Value;
use countersign_core::visible::Visible;
use serde_json::json;

use super::write;
use crate::cli::args::{read_file, read_secret};
use crate::cli::output::Output;
use crate::cli::{Exit, Failure};

pub const EXAMPLES: &str = "\
A record holds only a commitment to an input that the schema marks `@sensitive`. Who knows the value, and has the key of the tenant in \
the data directory, makes an opening of that one commitment. Whoever is given it checks it with `countersign evidence verify --opening`, \
without the key. It opens no other input and no other action. No server does this: it would answer guesses.

Examples:
  countersign evidence open rotation.evidence 7 material_ref --value @value.json --data-dir data/dev --out material.opening
  countersign evidence open rotation.evidence 7 amount --value 500 --config /etc/countersign.toml --out amount.opening";

/// What to open, and by which key.
#[derive(Debug, Args)]
pub struct OpenArgs {
    /// The file of evidence that holds the record
    file: PathBuf,
    /// The record's index in the log
    record: u64,
    /// The input
    input: String,
    /// Its value as JSON, from a file (`@FILE`) or standard input (`-`) where others could see the command
    #[arg(long, value_name = "JSON")]
    value: String,
    /// The data directory with the tenant's keys; without, the one of the configuration
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    data_dir: Option<PathBuf>,
    /// The server's configuration, where key files are encrypted
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The file for the opening, which must not be there yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Opens one commitment.
pub fn open(args: &OpenArgs, output: &mut Output) -> Result<Exit, Failure> {
    let OpenArgs { file, record, input, value, data_dir, config, out } = args;
    if out.exists() {
        return Err(Failure::usage(format!("`{}` is there already", out.display())).hint("name another file"));
    }
    let value: Value = serde_json::from_str(&read_secret(value, "value")?).map_err(|_| {
        Failure::usage("`--value` is no value of an input").hint("a text has quotes: `--value '\"x\"'`")
    })?;
    let evidence = Evidence::from_bytes(&read_file(file)?)
        .map_err(|why| Failure::new(format!("the evidence is refused: {}", Visible::new(&why))))?;
    let failed = |error: &dyn std::fmt::Display| Failure::new(error.to_string());
    let action = action_of(&evidence, *record).map_err(|error| failed(&error))?;
    let config = config.as_deref().map(|path| Config::load(Some(path), &Overrides::default())).transpose();
    let config = config.map_err(|error| failed(&error).reason("CONFIGURATION"))?;
    let cipher = config.as_ref().map_or_else(|| Ok(KeyCipher::none()), |config| KeyCipher::configured(&config.keys));
    let cipher = cipher.map_err(|error| failed(&error))?;
    let configured = config.map(|config| config.server.data_dir);
    let data_dir = data_dir.clone().or(configured).ok_or_else(|| Failure::usage("give `--data-dir`, or `--config`"))?;
    let key = keystore::commitment_key(&data_dir, &action.tenant, &cipher).map_err(|error| failed(&error))?;
    let opening = RecordOpening::of(*record, &action, input, value, &key)
        .map_err(|error| Failure::new(Visible::new(&error.to_string()).to_string()).reason("NOT_OPENED"))?;
    write(out, &opening.to_bytes().map_err(|error| failed(&error))?, 0o600)?;
    let human = format!("the input `{}` of record {record} is opened in `{}`", Visible::new(input), out.display());
    output.document(&json!({"record": record, "input": input, "file": out}), &human)?;
    output.remark("it holds the value; whoever has it can show it to others");
    Ok(Exit::Done)
}
