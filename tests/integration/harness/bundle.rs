//! Bundles to edit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The files of a bundle by their path in it, such as `policies/exports.cedar`.
pub type Files = BTreeMap<String, String>;

/// A bundle in a directory of its own.
#[derive(Debug)]
pub struct Bundle {
    dir: TempDir,
}

impl Bundle {
    /// A copy of the example bundle, `policies/ai-platform`.
    pub fn example() -> Self {
        Self::shipped("ai-platform")
    }

    /// A copy of `policies/minimal`.
    pub fn minimal() -> Self {
        Self::shipped("minimal")
    }

    /// A copy of a bundle that is shipped.
    pub fn shipped(name: &str) -> Self {
        let mut files = Files::new();
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(name), "", &mut files);
        Self::of(&files)
    }

    /// A bundle of these files.
    pub fn of(files: &Files) -> Self {
        let bundle = Self { dir: tempfile::tempdir().unwrap() };
        bundle.write(files);
        bundle
    }

    /// The same bundle, changed. What the closure removes is gone; the revision is not counted up.
    #[must_use]
    pub fn edit(self, change: impl FnOnce(&mut Files)) -> Self {
        self.change(change);
        self
    }

    /// Changes the files in place, as somebody would who edits what a running server has loaded.
    pub fn change(&self, change: impl FnOnce(&mut Files)) {
        let mut files = self.files();
        change(&mut files);
        for top in fs::read_dir(self.path()).unwrap() {
            let top = top.unwrap().path();
            if top.is_dir() { fs::remove_dir_all(top).unwrap() } else { fs::remove_file(top).unwrap() }
        }
        self.write(&files);
    }

    /// Replaces text in one file; the text must be there.
    pub fn replace(&self, file: &str, from: &str, to: &str) {
        self.change(|files| {
            let text = files.get_mut(file).unwrap_or_else(|| panic!("no file {file}"));
            assert!(text.contains(from), "{file} does not contain {from:?}");
            *text = text.replace(from, to);
        });
    }

    /// Sets the revision in the manifest.
    pub fn set_revision(&self, revision: u64) {
        self.change(|files| {
            let manifest = files.get_mut("bundle.toml").unwrap();
            let kept: Vec<&str> = manifest.lines().filter(|line| !line.starts_with("revision")).collect();
            *manifest = format!("{}\nrevision = {revision}\n", kept.join("\n"));
        });
    }

    /// What is in it now.
    pub fn files(&self) -> Files {
        let mut files = Files::new();
        read(self.path(), "", &mut files);
        files
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, files: &Files) {
        for (name, text) in files {
            let path: PathBuf = self.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
}

fn read(dir: &Path, prefix: &str, files: &mut Files) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            read(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, fs::read_to_string(entry.path()).unwrap());
        }
    }
}
