//! The files of a bundle.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use countersign_core::Digest;
use countersign_core::visible::Visible;

/// The most that all files of a bundle may hold together, in bytes.
pub(crate) const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// The most files that a bundle may hold.
pub(crate) const MAX_FILES: usize = 1_000;
/// The deepest file: `policies/x.cedar` is 2.
const MAX_DEPTH: usize = 3;

/// The file that says what the bundle is.
pub(crate) const MANIFEST: &str = "bundle.toml";
/// The author's schema.
pub(crate) const SCHEMA: &str = "schema.cedarschema";
/// The static entities.
pub(crate) const ENTITIES: &str = "entities.json";
/// The folder of the scenarios. They test a bundle and are not part of it: adding one does not make another bundle.
pub(crate) const SCENARIOS: &str = "scenarios/";
/// The folder of what its author states about the bundle, to be proved. No part of it either, and for the same reason.
pub(crate) const PROPERTIES: &str = "properties/";
/// The file with its authors' signatures. They are over its digest, and cannot be part of it.
pub const SIGNATURES: &str = "bundle.sig";

/// The files of a bundle, by their path inside it, with `/` between the parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    files: BTreeMap<String, String>,
}

/// Why the files of a bundle could not be read. Nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The operating system refused.
    #[error("cannot read `{path}`: {source}")]
    Io {
        /// Which file or folder.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file is not text.
    #[error("`{0}` is not UTF-8; a bundle holds text only")]
    NotText(String),
    /// A link leads out of the folder.
    #[error("`{0}` leads out of the bundle's folder; copy the file into it")]
    Outside(String),
    /// There are folders inside folders.
    #[error("`{0}` lies too deep; a bundle has one level of folders")]
    TooDeep(String),
    /// There is something that is no file, such as a pipe.
    #[error("`{0}` is neither a file nor a folder; remove it")]
    NotAFile(String),
    /// There are too many files.
    #[error("a bundle holds at most {MAX_FILES} files; split it, or remove what does not belong")]
    TooManyFiles,
    /// There is too much text.
    #[error("a bundle holds at most {MAX_BYTES} bytes; remove what does not belong")]
    TooLarge,
    /// Somebody was writing.
    #[error("`{0}` changed while it was read; try again when nobody writes to it")]
    Unstable(String),
}

/// What a file was when it was listed. Equal before and after reading means that nobody wrote in between; a folder that
/// is replaced as a whole, as Kubernetes does, shows in `real`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    real: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
}

/// The files of a folder, by size and time of change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp(BTreeMap<String, Listed>);

impl Source {
    /// Files that were read, or archived, elsewhere.
    ///
    /// # Errors
    /// [`SourceError::TooManyFiles`] and [`SourceError::TooLarge`].
    pub fn from_files(files: BTreeMap<String, String>) -> Result<Self, SourceError> {
        if files.len() > MAX_FILES {
            return Err(SourceError::TooManyFiles);
        }
        let total: u64 = files.values().map(|text| u64::try_from(text.len()).unwrap_or(u64::MAX)).sum();
        if total > MAX_BYTES {
            return Err(SourceError::TooLarge);
        }
        Ok(Self { files })
    }

    /// Reads a bundle's folder. Names that begin with `..` are left out: they are how Kubernetes swaps a mounted folder
    /// at once, and what they hold is reached through links beside them.
    ///
    /// # Errors
    /// [`SourceError`] if anything cannot be read as a bundle, is out of bounds, or changed meanwhile.
    pub fn read_dir(path: &Path) -> Result<Self, SourceError> {
        let root = fs::canonicalize(path).map_err(|source| io(path, source))?;
        let before = list(&root)?;
        Self::read(&root, before)
    }

    /// As [`Self::read_dir`], of the files as they were when somebody looked at them.
    ///
    /// # Errors
    /// As [`Self::read_dir`]; [`SourceError::Unstable`] if they look otherwise now.
    pub fn read_as(path: &Path, stamp: &Stamp) -> Result<Self, SourceError> {
        Self::read(&fs::canonicalize(path).map_err(|source| io(path, source))?, stamp.0.clone())
    }

    fn read(root: &Path, before: BTreeMap<String, Listed>) -> Result<Self, SourceError> {
        let mut files = BTreeMap::new();
        let mut left = MAX_BYTES;
        for (name, listed) in &before {
            let mut bytes = Vec::new();
            let file = fs::File::open(&listed.real).map_err(|source| io(&listed.real, source))?;
            // One byte more than is left, so that a file that is too large is told from one that just fits.
            file.take(left.saturating_add(1)).read_to_end(&mut bytes).map_err(|source| io(&listed.real, source))?;
            left = left.checked_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX)).ok_or(SourceError::TooLarge)?;
            let text = String::from_utf8(bytes).map_err(|_| SourceError::NotText(visible(name)))?;
            files.insert(name.clone(), text);
        }
        let after = list(root)?;
        match before.iter().chain(&after).find(|(name, _)| before.get(*name) != after.get(*name)) {
            Some((name, _)) => Err(SourceError::Unstable(visible(name))),
            None => Self::from_files(files),
        }
    }

    /// What the files of a bundle's folder look like from outside. While it stays the same, nothing was written.
    ///
    /// # Errors
    /// [`SourceError`] if the folder cannot be listed as a bundle.
    pub fn stamp(path: &Path) -> Result<Stamp, SourceError> {
        list(&fs::canonicalize(path).map_err(|source| io(path, source))?).map(Stamp)
    }

    /// The text of the file with its authors' signatures, if there is one. Nothing has verified it.
    #[must_use]
    pub fn signatures(&self) -> Option<&str> {
        self.text(SIGNATURES)
    }

    /// The same files with these signatures, or with none.
    #[must_use]
    pub fn with_signatures(mut self, signatures: Option<String>) -> Self {
        self.files.remove(SIGNATURES);
        self.files.extend(signatures.map(|text| (SIGNATURES.to_owned(), text)));
        self
    }

    /// The files, by their path inside the bundle.
    #[must_use]
    pub const fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// The text of one file.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// The digest that names the bundle: of every file that can decide, with its path. Scenarios, properties and signatures
    /// cannot.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest_of("countersign/bundle/v1", can_decide)
    }

    /// The digest that `content_digest` in `bundle.toml` pins: of the same files but `bundle.toml` itself.
    #[must_use]
    pub fn content_digest(&self) -> Digest {
        self.digest_of("countersign/bundle-content/v1", |path| can_decide(path) && path != MANIFEST)
    }

    fn digest_of(&self, version: &str, wanted: impl Fn(&str) -> bool) -> Digest {
        let mut parts: Vec<&[u8]> = vec![version.as_bytes()];
        for (path, text) in self.files.iter().filter(|(path, _)| wanted(path)) {
            parts.extend([path.as_bytes(), text.as_bytes()]);
        }
        Digest::of_parts(&parts)
    }
}

/// Whether the file of a path is part of what decides, and so of [`Source::digest`].
#[must_use]
pub fn can_decide(path: &str) -> bool {
    !path.starts_with(SCENARIOS) && !path.starts_with(PROPERTIES) && path != SIGNATURES
}

fn list(root: &Path) -> Result<BTreeMap<String, Listed>, SourceError> {
    let mut found = BTreeMap::new();
    let mut folders = vec![(root.to_owned(), String::new(), 1_usize)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|source| io(&folder, source))? {
            let entry = entry.map_err(|source| io(&folder, source))?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                return Err(SourceError::NotText(visible(&entry.path().to_string_lossy())));
            };
            if name.starts_with("..") {
                continue;
            }
            let name = format!("{prefix}{name}");
            let real = fs::canonicalize(entry.path()).map_err(|source| io(&entry.path(), source))?;
            if !real.starts_with(root) {
                return Err(SourceError::Outside(visible(&name)));
            }
            let meta = fs::metadata(&real).map_err(|source| io(&real, source))?;
            if meta.is_dir() {
                // A link to a folder above would otherwise be followed for ever.
                if depth >= MAX_DEPTH {
                    return Err(SourceError::TooDeep(visible(&name)));
                }
                folders.push((real, format!("{name}/"), depth + 1));
            } else if !meta.is_file() {
                // Whoever opens a pipe waits for somebody to write into it.
                return Err(SourceError::NotAFile(visible(&name)));
            } else {
                found.insert(name, Listed { real, size: meta.len(), modified: meta.modified().ok() });
            }
            if found.len() + folders.len() > MAX_FILES {
                return Err(SourceError::TooManyFiles);
            }
        }
    }
    Ok(found)
}

fn io(path: &Path, source: std::io::Error) -> SourceError {
    SourceError::Io { path: visible(&path.to_string_lossy()), source }
}

fn visible(text: &str) -> String {
    Visible::cut(text, 256).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(files: &[(&str, &str)]) -> Source {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Source::from_files(files).unwrap()
    }

    #[test]
    fn a_folder_is_read_and_archived_and_is_the_same_bundle() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("policies")).unwrap();
        fs::write(dir.path().join("bundle.toml"), "format = 1").unwrap();
        fs::write(dir.path().join("policies/a.cedar"), "// a").unwrap();
        let read = Source::read_dir(dir.path()).unwrap();
        assert_eq!(read, source(&[("bundle.toml", "format = 1"), ("policies/a.cedar", "// a")]));
        assert_eq!(Source::from_files(read.files().clone()).unwrap().digest(), read.digest());
    }

    #[test]
    fn every_path_and_byte_that_can_decide_is_in_the_digest() {
        let base = source(&[("bundle.toml", "1"), ("policies/a.cedar", "ab")]);
        for other in [
            source(&[("bundle.toml", "2"), ("policies/a.cedar", "ab")]),
            source(&[("bundle.toml", "1"), ("policies/b.cedar", "ab")]),
            source(&[("bundle.toml", "1"), ("policies/a.cedar", "ac")]),
            source(&[("bundle.toml", "1"), ("policies/a.cedar", "a"), ("policies/b.cedar", "b")]),
        ] {
            assert_ne!(other.digest(), base.digest(), "{other:?}");
        }
        for beside in ["scenarios/x.toml", "properties/x.cedar", "bundle.sig"] {
            let tested = source(&[("bundle.toml", "1"), ("policies/a.cedar", "ab"), (beside, "")]);
            assert_eq!((tested.digest(), tested.content_digest()), (base.digest(), base.content_digest()), "{beside}");
        }
        let renumbered = source(&[("bundle.toml", "2"), ("policies/a.cedar", "ab")]);
        assert_eq!(renumbered.content_digest(), base.content_digest());
    }

    #[test]
    fn what_is_too_large_or_too_many_is_refused() {
        let large = "x".repeat(usize::try_from(MAX_BYTES).unwrap() + 1);
        assert!(matches!(
            Source::from_files(BTreeMap::from([("a".into(), large.clone())])),
            Err(SourceError::TooLarge)
        ));
        let many = (0..=MAX_FILES).map(|i| (i.to_string(), String::new())).collect();
        assert!(matches!(Source::from_files(many), Err(SourceError::TooManyFiles)));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), large).unwrap();
        assert!(matches!(Source::read_dir(dir.path()), Err(SourceError::TooLarge)));
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("bundle.toml"), [0xff, 0xfe]).unwrap();
        assert!(matches!(Source::read_dir(dir.path()), Err(SourceError::NotText(_))));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_inside_the_folder_only() {
        use std::os::unix::fs::symlink;
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("..2026")).unwrap();
        fs::write(dir.path().join("..2026/bundle.toml"), "format = 1").unwrap();
        symlink("..2026", dir.path().join("..data")).unwrap();
        symlink("..data/bundle.toml", dir.path().join("bundle.toml")).unwrap();
        assert_eq!(Source::read_dir(dir.path()).unwrap(), source(&[("bundle.toml", "format = 1")]));

        // Nothing but files: whoever opens a pipe waits for its writer.
        let socket = std::os::unix::net::UnixListener::bind(dir.path().join("s.cedar")).unwrap();
        assert!(matches!(Source::read_dir(dir.path()), Err(SourceError::NotAFile(_))));
        drop(socket);
        fs::remove_file(dir.path().join("s.cedar")).unwrap();

        // A folder that is replaced as a whole looks otherwise, even if its files have one size.
        let stamp = Source::stamp(dir.path()).unwrap();
        assert_eq!(Source::stamp(dir.path()).unwrap(), stamp);
        fs::create_dir(dir.path().join("..2027")).unwrap();
        fs::write(dir.path().join("..2027/bundle.toml"), "format = 2").unwrap();
        fs::remove_file(dir.path().join("..data")).unwrap();
        symlink("..2027", dir.path().join("..data")).unwrap();
        assert_ne!(Source::stamp(dir.path()).unwrap(), stamp);
        assert!(matches!(Source::read_as(dir.path(), &stamp), Err(SourceError::Unstable(_) | SourceError::Io { .. })));

        symlink(".", dir.path().join("loop")).unwrap();
        assert!(matches!(Source::read_dir(dir.path()), Err(SourceError::TooDeep(_))));
        fs::remove_file(dir.path().join("loop")).unwrap();
        symlink(outside.path().join("secret"), dir.path().join("entities.json")).unwrap();
        assert!(matches!(Source::read_dir(dir.path()), Err(SourceError::Outside(_))));
    }
}
