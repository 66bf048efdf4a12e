//! A fresh directory for the data. Nothing that was there before is touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::Failure;

/// How many demonstrations may lie beside each other.
const MOST: u32 = 10_000;

/// Makes `wanted`, or else the next free number under `parent`.
pub fn fresh(wanted: Option<&Path>, parent: &Path) -> Result<PathBuf, Failure> {
    let failed = |path: &Path, error: io::Error| Failure::new(format!("cannot make `{}`: {error}", path.display()));
    if let Some(path) = wanted {
        if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
            fs::create_dir_all(above).map_err(|error| failed(above, error))?;
        }
        return match fs::create_dir(path) {
            Ok(()) => Ok(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Failure::usage(format!("`{}` exists already, and a demo replaces nothing", path.display()))
                    .hint("name a directory that does not exist yet, or leave out `--data-dir`"))
            }
            Err(error) => Err(failed(path, error)),
        };
    }
    fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
    for number in 1..=MOST {
        let path = parent.join(number.to_string());
        // Making it is the test, so that two demonstrations at once come to two directories.
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&path, error)),
        }
    }
    Err(Failure::new(format!("`{}` is full of earlier demos; remove some", parent.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_demo_has_a_directory_of_its_own_and_replaces_nothing() {
        let parent = std::env::temp_dir().join(format!("countersign-demo-{}", std::process::id()));
        let first = fresh(None, &parent).unwrap();
        fs::write(first.join("kept"), "x").unwrap();
        let second = fresh(None, &parent).unwrap();
        assert_eq!((first, second), (parent.join("1"), parent.join("2")));
        assert!(parent.join("1/kept").exists());
        assert_eq!(fresh(Some(&parent.join("1")), &parent).unwrap_err().exit(), crate::cli::Exit::Usage);
        assert_eq!(fresh(Some(&parent.join("deep/mine")), &parent).unwrap(), parent.join("deep/mine"));
        fs::remove_dir_all(&parent).unwrap();
    }
}
