//! Where the solver is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// SMT-LIB over pipes by the Python package `cvc5`, which has no executable. Handed to Python as text, so that there is no
/// file of it to be found, to be out of date, or to be changed by somebody else.
const SHIM: &str = include_str!("cvc5_shim.py");
/// How long one question may take unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How to get it; the one command that is documented.
const INSTALL: &str = "install it with `make setup-prove`, or name one with `--solver PATH` or the variable CVC5";

/// A cvc5 that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solver {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) timeout: Duration,
    version: String,
}

/// Where to look for a solver, in this order. The first that is there is taken or refused: what somebody named is not
/// silently replaced by what was lying around.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// What was named on the command line.
    pub named: Option<PathBuf>,
    /// The variable CVC5.
    pub variable: Option<PathBuf>,
    /// The folders of PATH.
    pub path: Vec<PathBuf>,
    /// The folders that may have a `.venv` with the Python package.
    pub folders: Vec<PathBuf>,
}

/// Why nothing can be proved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SolverMissing {
    /// There is none.
    #[error(
        "proving needs the solver cvc5, and there is none: no `cvc5` on PATH, and no `.venv/bin/python` here; {INSTALL}"
    )]
    Nowhere,
    /// Something is there, and it is not cvc5.
    #[error("proving needs the solver cvc5, and `{program}` {reason}; {INSTALL}")]
    Unusable {
        /// What was tried.
        program: String,
        /// What came of it.
        reason: String,
    },
}

impl Places {
    /// The places of this process.
    #[must_use]
    pub fn here(named: Option<PathBuf>) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        Self {
            named,
            variable: std::env::var_os("CVC5").filter(|value| !value.is_empty()).map(PathBuf::from),
            path: std::env::split_paths(&path).collect(),
            folders: vec![PathBuf::from(".")],
        }
    }
}

impl Solver {
    /// What it says that it is.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How long one question may take. What takes longer is undecided.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Finds cvc5: as it was named, by the variable CVC5, on PATH, or as the Python package in a `.venv`. A Python may be named in
/// place of the executable.
///
/// # Errors
/// [`SolverMissing`], which says what is missing and how to install it.
pub fn find_solver(places: &Places) -> Result<Solver, SolverMissing> {
    if let Some(program) = places.named.as_deref().or(places.variable.as_deref()) {
        return asked(program);
    }
    if let Some(program) = places.path.iter().map(|folder| folder.join("cvc5")).find(|program| program.is_file()) {
        return asked(&program);
    }
    let python = places.folders.iter().map(|folder| folder.join(".venv/bin/python")).find(|python| python.exists());
    python.map_or(Err(SolverMissing::Nowhere), |python| asked(&python))
}

/// Asks a program who it is, so that what is missing is told before anything else is done.
fn asked(program: &Path) -> Result<Solver, SolverMissing> {
    let unusable = |reason: String| SolverMissing::Unusable { program: program.display().to_string(), reason };
    let is_python = program.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("python"));
    // Isolated: neither the variables of Python nor a file of the current folder changes what is imported.
    let arguments: Vec<OsString> = if is_python { ["-I", "-c", SHIM].map(OsString::from).to_vec() } else { Vec::new() };
    let answer = std::process::Command::new(program).args(&arguments).arg("--version").stdin(Stdio::null()).output();
    let answer = answer.map_err(|error| unusable(format!("cannot be started: {error}")))?;
    let said = String::from_utf8_lossy(&answer.stdout);
    match said.lines().next() {
        Some(version) if answer.status.success() && version.contains("cvc5") => {
            Ok(Solver { program: program.to_owned(), arguments, timeout: TIMEOUT, version: version.trim().to_owned() })
        }
        _other if is_python => Err(unusable("has no package `cvc5`".into())),
        _other => Err(unusable("is no cvc5".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_solver_is_told_with_the_command_that_installs_it() {
        let missing = find_solver(&Places::default()).unwrap_err();
        assert_eq!(missing, SolverMissing::Nowhere);
        assert!(missing.to_string().contains("`make setup-prove`"), "{missing}");
    }

    #[test]
    fn what_was_named_is_not_replaced_by_something_else() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let gone = dir.path().join("cvc5");
        for places in [
            Places { named: Some(gone.clone()), path: vec![other.path().to_owned()], ..Places::default() },
            Places { variable: Some(gone.clone()), ..Places::default() },
        ] {
            let missing = find_solver(&places).unwrap_err();
            assert!(
                matches!(&missing, SolverMissing::Unusable { reason, .. } if reason.contains("started")),
                "{missing}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_cvc5_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("cvc5");
        std::fs::write(&program, "#!/bin/sh\necho another solver\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let missing = find_solver(&Places { path: vec![dir.path().to_owned()], ..Places::default() }).unwrap_err();
        assert!(matches!(&missing, SolverMissing::Unusable { reason, .. } if reason == "is no cvc5"), "{missing}");
    }
}
