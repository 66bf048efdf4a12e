//! The log as tiles that any static file server serves, and witnesses that cosign its heads.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::cli::{self, Finished};
use crate::harness::flow::*;
use crate::harness::process::Process;
use crate::harness::server::field;
use crate::harness::{Options, Server};
use crate::harness::production;

/// A production server that publishes in `tiles`, with more configuration under `[log]`.
async fn publishing(tiles: &Path, data_dir: Option<PathBuf>, more: &str) -> Server {
    let toml = format!(
        "{}\n[log]\ntiles = {:?}\ncheckpoint_every_seconds = 1\n{more}",
        production::toml(),
        tiles.to_str().unwrap()
    );
    Server::start(Options { data_dir, ..production::options(&toml) }).await
}
