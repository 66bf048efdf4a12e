//! `countersign policy new`.

use std::path::{Path, PathBuf};

use clap::Args;
use countersign_core::visible::Visible;
use countersign_policy::{Bundle, Source};
use serde_json::json;

use super::output::{GOOD, Output, paint};
use super::text::Lines;
use super::{Exit, Failure};

pub const EXAMPLES: &str = "\
The bundle that is written is complete: a schema, policies, who may answer, who may use the service's own API, entities, scenarios \
and properties, each with comments. It passes `policy check`, `policy test` and `policy prove` as it is.

Examples:
  countersign policy new my-policies
  countersign policy new deploy/policies --name production";

/// The shipped bundle that new ones begin as.
const FILES: [(&str, &str); 8] = [
    ("admin/service.cedar", include_str!("../../policies/minimal/admin/service.cedar")),
    ("approve/editors.cedar", include_str!("../../policies/minimal/approve/editors.cedar")),
    ("bundle.toml", include_str!("../../policies/minimal/bundle.toml")),
    ("entities.json", include_str!("../../policies/minimal/entities.json")),
    ("policies/documents.cedar", include_str!("../../policies/minimal/policies/documents.cedar")),
    ("properties/documents.cedar", include_str!("../../policies/minimal/properties/documents.cedar")),
    ("scenarios/documents.toml", include_str!("../../policies/minimal/scenarios/documents.toml")),
    ("schema.cedarschema", include_str!("../../policies/minimal/schema.cedarschema")),
];
const ITS_NAME: &str = "name = \"minimal\"";

/// Where, and what it is called.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// The directory, which must be empty or not there
    dir: PathBuf,
    /// The bundle's name, of the characters a-z, 0-9 and `-`; the directory's name, if absent
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Writes a bundle to begin with.
pub fn run(args: &NewArgs, output: &mut Output) -> Result<Exit, Failure> {
    let dir = &args.dir;
    // `.` has a name too.
    let whole = std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
    let own = || whole.components().next_back().map(|name| name.as_os_str().to_string_lossy().into_owned());
    let own = || own().unwrap_or_default();
    let name = args.name.clone().unwrap_or_else(own);
    // The same judge as for every other bundle, before anything is written.
    let files = FILES
        .iter()
        .map(|(path, text)| ((*path).to_owned(), text.replacen(ITS_NAME, &format!("name = {}", toml_text(&name)), 1)));
    let source = Source::from_files(files.collect()).map_err(|error| Failure::new(error.to_string()))?;
    let bundle = Bundle::load(source).map_err(|refused| {
        Failure::usage(format!("a bundle cannot be called so: {refused}")).hint("choose a name with `--name`")
    })?;
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Failure::usage(format!("`{}` is not empty", dir.display())).hint("name a new directory"));
    }
    for (path, text) in bundle.source().files() {
        write(&dir.join(path), text)?;
    }
    let shown = Visible::new(&dir.display().to_string()).to_string();
    let mut text = Lines::default();
    text.line(format!("{} {} files to {shown}", paint(GOOD.bold(), "wrote"), bundle.source().files().len()));
    text.line("next:");
    for next in ["policy check", "policy test", "policy prove", "serve --dev --bundle"] {
        text.line(format!("  countersign {next} {shown}"));
    }
    let files: Vec<&String> = bundle.source().files().keys().collect();
    output.document(&json!({ "name": bundle.name(), "dir": dir, "files": files }), &text.finish())?;
    Ok(Exit::Done)
}

fn toml_text(text: &str) -> String {
    // JSON's escapes are TOML's.
    serde_json::Value::from(text).to_string()
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let unusable = |error: std::io::Error| Failure::new(format!("cannot write `{}`: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(unusable)?;
    }
    // What is there already is somebody's.
    let mut file = std::fs::File::create_new(path).map_err(unusable)?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(unusable)
}

#[cfg(test)]
mod tests {
    use super::super::output::testing::output;
    use super::*;

    fn args(dir: &Path, name: Option<&str>) -> NewArgs {
        NewArgs { dir: dir.to_owned(), name: name.map(str::to_owned) }
    }

    #[test]
    fn a_new_bundle_is_the_shipped_one_under_its_own_name() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("my-policies");
        let (mut output, _, _) = output(false);
        run(&args(&dir, None), &mut output).unwrap();
        let bundle = Bundle::load(Source::read_dir(&dir).unwrap()).unwrap();
        assert_eq!((bundle.name(), bundle.warnings()), ("my-policies", &[][..]));
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/minimal");
        let shipped = Source::read_dir(&shipped).unwrap();
        assert!(
            bundle.source().files().keys().eq(shipped.files().keys()),
            "every file of the shipped bundle, and no other"
        );
    }

    #[test]
    fn nothing_is_written_over_anything_and_bad_names_write_nothing() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("mine"), "mine").unwrap();
        let (mut output, _, _) = output(false);
        assert!(run(&args(place.path(), Some("x")), &mut output).unwrap_err().to_human().contains("is not empty"));
        let dir = place.path().join("bad");
        for name in ["", "With Capitals", "quo\"te", "new\nline"] {
            assert_eq!(run(&args(&dir, Some(name)), &mut output).unwrap_err().exit(), Exit::Usage, "{name}");
            assert!(!dir.exists(), "{name}");
        }
    }
}
