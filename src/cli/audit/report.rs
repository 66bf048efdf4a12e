//! `countersign audit report`: the figures of a period, counted from its records.

mod figures;
mod page;

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use crate::cli::Failure;
use crate::cli::args::{Connection, parse_time};
use crate::cli::output::{FAINT, Output, STRONG, WARN, paint};
use crate::cli::recorded::Log;
use crate::cli::text::Lines;
use countersign_core::visible::Visible;
use figures::{Figures, Section};

/// Of when, and where to.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The beginning: a day in UTC (`2026-11-01`), or a time in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: jiff::Timestamp,
    /// The end, which is not in it: a day in UTC, or a time in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: jiff::Timestamp,
    /// A copy of the records that were dropped (`countersign audit archive`), to be counted with the rest
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
    /// Write a page with charts into this file, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Counts, and tells.
pub async fn run(args: ReportArgs, connection: &Connection, output: &mut Output) -> Result<(), Failure> {
    if args.to <= args.from {
        return Err(Failure::usage("`--to` must be after `--from`"));
    }
    let mut figures = Figures::new(args.from.as_millisecond(), args.to.as_millisecond());
    let log = Log { data_dir: None, start: 0, archive: args.archive.as_deref() };
    let first = log
        .each(connection, output, |_, content| {
            let record: Value = serde_json::from_slice(content).unwrap_or_default();
            figures.take(&record);
            Ok(())
        })
        .await?;
    // Figures of what is not there would be read as figures of what was.
    let gap =
        (first > 0).then(|| format!("The records before {first} were dropped from the log, and are not counted."));
    let sections = figures.sections(&format!("--since {} --until {}", args.from, args.to));
    if let Some(path) = &args.html {
        let page = page::html(&args.from.to_string(), &args.to.to_string(), gap.as_deref(), &sections);
        let written = std::fs::write(path, page);
        written.map_err(|error| Failure::new(format!("cannot write `{}`: {error}", path.display())))?;
    }
    let json = serde_json::json!({"from": args.from.to_string(), "to": args.to.to_string(), "minimum_index": first, "figures": sections});
    output.document(&json, &human(gap.as_deref(), &sections))
}

fn human(gap: Option<&str>, sections: &[Section]) -> String {
    let mut text = Lines::default();
    if let Some(gap) = gap {
        text.line(paint(WARN, gap));
        text.line(String::new());
    }
    for section in sections {
        text.line(format!("{}  {}", paint(STRONG, section.title), paint(FAINT, &section.query)));
        for row in &section.rows {
            text.line(format!("  {:>10}  {}", row.value, Visible::new(&row.name)));
        }
        text.line(String::new());
    }
    text.finish()
}
